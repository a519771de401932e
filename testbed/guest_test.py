"""Tests of what guest.py makes of a console."""

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


if __name__ == "__main__":
    unittest.main()
