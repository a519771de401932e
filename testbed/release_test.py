"""Tests of what a release is called: the manifest, the changelog and what names an image of
the installer agree."""

import pathlib
import re
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "packaging"))
import release

MANIFEST = '[workspace.package]\nversion = "1.2.0"\n'
TIME = 1_800_000_000


class Versions(unittest.TestCase):
    def named(self, section):
        return release.named(MANIFEST, f"# Changelog\n\n{section}\n\n## 1.1.0 (2020-01-01)\n", TIME)

    def test_what_is_not_released_comes_before_the_release(self):
        self.assertEqual(self.named("## 1.2.0 (2026-12-01)"), "1.2.0")
        self.assertEqual(self.named("## 1.2.0 (unreleased)"), "1.2.0~git20270115.080000")

    def test_manifest_and_changelog_are_of_one_version(self):
        with self.assertRaises(SystemExit):
            self.named("## 1.3.0 (unreleased)")
        with self.assertRaises(ValueError):
            self.named("## 1.2.0 (soon)")

    def test_all_that_names_the_version_of_the_tree_agrees(self):
        manifest = (ROOT / "Cargo.toml").read_text()
        number = release.named(manifest, (ROOT / "CHANGELOG.md").read_text(), TIME).split("~")[0]
        for name in "Containerfile", "daemonset.yaml":
            text = (ROOT / "packaging" / "kubernetes" / name).read_text()
            self.assertEqual(re.findall(r"ferrun-installer:(\S+)", text), [number], name)


if __name__ == "__main__":
    unittest.main()
