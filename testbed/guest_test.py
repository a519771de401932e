"""Tests of what guest.py makes of a console, and guest_engines.py of a kernel's modules."""

import pathlib
import tempfile
import unittest
import unittest.mock

import guest
import guest_engines


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
        needs = {"bridge": "stp,llc", "llc": "", "stp": "llc", "br_netfilter": "bridge"}
        with tempfile.TemporaryDirectory() as cache, unittest.mock.patch("guest.CACHE", pathlib.Path(cache)):
            directory = guest.CACHE / "lib" / "modules" / "6.1"
            directory.mkdir(parents=True)
            for name, needed in needs.items():
                (directory / f"{name}.ko").write_bytes(f"\x7fELF\0depends={needed}\0name={name}\0".encode())
            self.assertEqual(guest_engines.with_needed(["llc", "br_netfilter"]),
                             ["llc", "stp", "bridge", "br_netfilter"])


if __name__ == "__main__":
    unittest.main()
