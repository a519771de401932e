"""Tests of what guest.py makes of a console and of a kernel's modules."""

import lzma
import pathlib
import tempfile
import unittest

import guest


class Verdict(unittest.TestCase):
    def test_a_machine_that_ran_all_tests_and_saw_none_fail_has_passed(self):
        self.assertIsNone(guest.failure(f"=== update\ntest result: ok. 1 passed\n{guest.END}\nreboot: Power down"))

    def test_a_machine_that_did_not_come_to_its_end_has_failed(self):
        self.assertEqual(guest.failure("=== update\ntest result: ok. 1 passed"), "it has not come to its end")
        self.assertEqual(guest.failure("Kernel panic - not syncing: no init"), "its kernel has panicked")

    def test_a_test_that_failed_or_crashed_is_named(self):
        console = f"guest: update: exit status 101\nguest: exec: exit status 139\n{guest.END}"
        self.assertEqual(guest.failure(console), "these have failed: update exec")


class Modules(unittest.TestCase):
    def test_a_module_comes_once_and_after_all_that_it_needs(self):
        needs = {"bridge": "stp,llc,p8022", "llc": "", "stp": "llc", "br_netfilter": "bridge"}
        for directory, kind, packed in ("lib", "ko", bytes), ("usr/lib", "ko.xz", lzma.compress):
            with self.subTest(kind), tempfile.TemporaryDirectory() as files:
                modules = pathlib.Path(files) / directory / "modules" / "6.1"
                modules.mkdir(parents=True)
                (modules / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\nkernel/net/802/p8022.ko\n")
                for name, needed in needs.items():
                    content = f"\x7fELF\0depends={needed}\0name={name}\0".encode()
                    (modules / f"{name}.{kind}").write_bytes(packed(content))
                self.assertEqual(guest.with_needed(pathlib.Path(files), ["llc", "br_netfilter", "ext4"]),
                                 ["llc", "stp", "bridge", "br_netfilter"])


if __name__ == "__main__":
    unittest.main()
