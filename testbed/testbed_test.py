"""Tests of the decisions that the scripts make: what counts, what is allowed, what
belongs to an image."""

import unittest

import alpine
import dependencies
import mutants
import run_tests
import switched
import text_order


class Counting(unittest.TestCase):
    def counts(self, output):
        return run_tests.count(output)[:3]

    def test_all_test_binaries_of_a_part_are_added_up(self):
        line = "test result: {}. {} passed; {} failed; {} ignored; 0 measured; 0 filtered out; finished in 0.1s\n"
        self.assertEqual(self.counts(line.format("ok", 3, 0, 1) + line.format("FAILED", 2, 4, 0)), (5, 4, 1))

    def test_subtests_of_go_and_python_are_not_counted_twice(self):
        self.assertEqual(self.counts("--- PASS: TestA (0.00s)\n    --- PASS: TestA/b (0.00s)\n--- FAIL: TestC\n"),
                         (1, 1, 0))
        self.assertEqual(self.counts("test_a (testbed_test.Counting.test_a) ... ok\nRan 1 test in 0.0s\n"), (1, 0, 0))
        self.assertEqual(self.counts("test_a (x.Y.test_a) ... FAIL\ntest_b (x.Y.test_b) ... ERROR\n"), (0, 2, 0))

    def test_a_case_left_out_is_skipped_and_a_test_left_out_has_not_passed(self):
        self.assertEqual(self.counts("test a ... SKIP: a (V2, Root): no pids controller\n"), (0, 0, 1))
        self.assertEqual(self.counts("SKIP: a: needs root (uid 0)\ntest result: ok. 3 passed; 0 failed; 0 ignored;"),
                         (2, 0, 1))

    def test_the_suites_reasons_are_shown_and_not_counted_again(self):
        passed, failed, skipped, reasons = run_tests.count("skip: hooks: silent\nprograms: 31 passed, 1 failed, 26 skipped\n")
        self.assertEqual((passed, failed, skipped), (31, 1, 26))
        self.assertEqual(reasons, ["skip: hooks: silent"])


    def test_the_time_of_each_test_is_known_by_its_binary(self):
        output = ("     Running tests/mounts.rs (target/debug/deps/mounts-0123)\n"
                  "test a ... ok <1.500s>\n"
                  "test b ... SKIP: b (V2, Root): no pids controller\n"
                  "test c::d ... ignored, takes minutes\n"
                  "     Running unittests src/lib.rs (target/debug/deps/ferrun-0123)\n"
                  "test b ... FAILED <0.250s>\n"
                  "--- PASS: TestA (2.00s)\n    --- PASS: TestA/b (1.00s)\n"
                  "hooks_stdin                         3 passed   0 failed   0 skipped    1.2s  clean\n")
        self.assertEqual(run_tests.durations(output), [(1.5, "tests/mounts.rs: a"), (0.25, "src/lib.rs: b"),
                                                       (2.0, "conformance: TestA"), (1.2, "OCI suite: hooks_stdin")])

    def test_each_that_failed_is_named_with_the_first_line_of_what_it_said(self):
        output = ("     Running tests/mounts.rs (target/debug/deps/mounts-0123)\n"
                  "test a ... ok <1.500s>\n"
                  "test b ... FAILED <0.250s>\n"
                  "\nfailures:\n"
                  "\n---- b stdout ----\n\n"
                  "thread 'b' (7) panicked at tests/mounts.rs:3:9:\n"
                  "wrong: 1 is not 2\n  more\n\n    indented\n"
                  "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n"
                  "\nfailures:\n    b\n\ntest result: FAILED. 1 passed; 1 failed; 0 ignored\n"
                  "--- FAIL: TestC (0.00s)\n"
                  "test_d (x.Y.test_d) ... FAIL\n"
                  "pidfile                             0 passed   1 failed   0 skipped   30.5s  as expected\n"
                  "start                               3 passed   2 failed   0 skipped    1.2s  not clean\n")
        self.assertEqual(run_tests.failures(output), ["tests/mounts.rs: b: tests/mounts.rs:3: "
                                                      "wrong: 1 is not 2 | more | indented",
                                                      "conformance: TestC", "x.Y.test_d", "OCI suite: start"])

    def test_of_a_long_text_the_end_is_shown_too(self):
        self.assertEqual(run_tests.shortened("short"), "short")
        long = run_tests.shortened("command " + 1000 * "x" + " reason")
        self.assertTrue(long.startswith("command xx") and long.endswith("xx reason"), long)
        self.assertLess(len(long), 900)


class Survivors(unittest.TestCase):
    def test_a_mutation_is_known_by_its_words_and_not_by_its_line(self):
        page = ("| part | changes |\n|---|---|\n| plan | 3 |\n"
                "| `src/a.rs` | `replace \\| with ^ in b` | the bits are apart |\n"
                "| `src/a.rs` | `replace c` | |\n")
        known = mutants.survivors(page)
        self.assertEqual(known, {"src/a.rs: replace | with ^ in b"})
        self.assertIn(mutants.plain("src/a.rs:12:3: replace | with ^ in b"), known)
        self.assertNotIn(mutants.plain("src/a.rs:12:3: replace c"), known)

    def test_the_tests_of_a_file_are_those_of_its_module(self):
        self.assertEqual(mutants.module_of("src/plan/cgroup/unit.rs"), "plan::cgroup::unit::")
        self.assertEqual(mutants.module_of("src/plan/cgroup/mod.rs"), "plan::cgroup::")
        self.assertEqual(mutants.module_of("image-tool/src/users.rs"), "users::")


class Switched(unittest.TestCase):
    TEXT = ("const fn one() -> u32 { 1 + 0 }\n"
            "fn outer(a: u32) -> u32 {\n"
            "    fn inner() -> char { '}' } // {\n"
            "    a + \"{\".len() as u32\n"
            "}\n"
            "fn some<'a>(b: &'a [u8]) -> impl Iterator<Item = &'a u8> + 'a { b.iter() }\n")

    def change(self, line, old, new, lines, returned="-> u32"):
        """In the function that begins and ends in such lines."""
        text = self.TEXT.splitlines()

        def place(line, column):
            return {"line": line, "column": column + 1}

        begin = text[line - 1].index(old)
        first, last = lines
        function = {"start": place(first, 0), "end": place(last, text[last - 1].rindex("}") + 1)}
        return {"span": {"start": place(line, begin), "end": place(line, begin + len(old))}, "replacement": new,
                "function": {"span": function, "return_type": returned}}

    def setUp(self):
        self.file = switched.File(self.TEXT, {
            1: self.change(1, "+", "-", (1, 1)),
            2: self.change(3, "'}'", "'x'", (3, 3), "-> char"),
            3: self.change(4, "+", "-", (2, 5)),
            4: self.change(6, "b.iter()", "[].iter()", (6, 6), "-> impl Iterator<Item = &'a u8> + 'a"),
        })

    def test_what_the_compiler_computes_is_changed_alone(self):
        self.assertEqual(self.file.alone, {1})
        self.assertEqual(self.file.changed(1).splitlines()[0], "const fn one() -> u32 { 1 - 0 }")
        self.assertNotIn("1 - 0", self.file.switched({1}))

    def test_a_body_has_each_change_and_none_of_the_others(self):
        text = self.file.switched({1})
        self.assertEqual((text.count("a - "), text.count("a + "), text.count("'x'")), (1, 1, 1))
        self.assertIn("4 => Box::new({  [].iter()  }) as Box<dyn Iterator<Item = &'a u8> + 'a>,\n", text)
        self.assertEqual(self.file.switched({1, 2, 3, 4}), self.TEXT)

    def test_a_program_is_stamped_with_a_change_in_its_own_room(self):
        program = b"a switched:       z"
        self.assertIn("switched:       ", switched.SWITCH)
        self.assertEqual(switched.stamped(program, 12), b"a switched:12     z")
        self.assertEqual(switched.stamped(program, 0), b"a switched:0      z")

    def test_a_line_of_the_result_belongs_to_a_change_or_to_all_of_a_function(self):
        lines = self.file.switched({1}).splitlines()
        whose = {line[:4]: self.file.whose(at) for at, line in enumerate(lines, 1)}
        self.assertEqual([whose[f"{number} =>"] for number in (2, 3, 4)], [{2}, {3}, {4}])
        self.assertEqual(self.file.whose(1), set())
        original = next(at for at, line in enumerate(lines, 1) if "a + " in line)
        self.assertEqual(self.file.whose(original), {3})


class OrderOfFunctions(unittest.TestCase):
    def test_what_changes_with_versions_of_crates_and_compilers_is_left_open(self):
        for name, pattern in {
            "memcpy": "memcpy",
            "_RNvXs2_NtNtCs7BliBxkEZsN_4core3str5lossy": "_RNvXs2_NtNtCs*_4core3str5lossy",
            "_ZN4core3fmt5write17h0123456789abcdefE": "_ZN4core3fmt5write17h*E",
            "_RNvCs1_6ferrun4main.llvm.123": "_RNvCs*_6ferrun4main*",
        }.items():
            self.assertEqual(text_order.pattern(name), pattern)


class Licences(unittest.TestCase):
    allowed = {"MIT", "ISC", "Apache-2.0 WITH LLVM-exception"}

    def test_one_side_of_or_and_both_sides_of_and_must_be_allowed(self):
        for expression, wanted in {
            "MIT": True,
            "GPL-3.0-only": False,
            "GPL-3.0-only OR MIT": True,
            "GPL-3.0-only/MIT": True,
            "GPL-3.0-only AND MIT": False,
            "GPL-3.0-only OR MIT AND ISC": True,
            "(MIT OR GPL-3.0-only) AND GPL-3.0-only": False,
            "GPL-3.0-only OR (Zlib OR MIT)": True,
            "Apache-2.0": False,
            "Apache-2.0 WITH LLVM-exception": True,
            "none": False,
        }.items():
            self.assertEqual(dependencies.permitted(expression, self.allowed), wanted, expression)


class Image(unittest.TestCase):
    def test_a_package_brings_all_that_it_depends_on_and_nothing_else(self):
        packages = alpine.parse_database(
            "P:a\nD:so:libb.so.1 !c /bin/sh\n\nP:b\np:so:libb.so.1=1.2\n\nP:c\n\nP:sh\np:/bin/sh cmd:sh=1\n")
        self.assertEqual(list(alpine.closure(packages, ["a"])), ["a", "b", "sh"])

    def test_what_a_virtual_machine_added_is_taken_out(self):
        self.assertEqual(alpine.original("etc/group", b"wheel:x:10:root,quicksand\nquicksand:x:1000:\n"),
                         b"wheel:x:10:root\n")
        self.assertEqual(alpine.original("etc/hostname", b"quicksand\n"), b"localhost\n")
        self.assertEqual(alpine.original("etc/motd", b"hi\n"), b"hi\n")

    def test_a_file_that_is_not_its_packages_is_refused(self):
        alpine.check("etc/motd", b"", "Q12jmj7l5rSw0yVb/vlWAYkK/YBwk=")
        with self.assertRaises(SystemExit):
            alpine.check("etc/motd", b"x", "Q12jmj7l5rSw0yVb/vlWAYkK/YBwk=")


if __name__ == "__main__":
    unittest.main()
