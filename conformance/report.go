package main

import (
	"fmt"
	"strings"
	"syscall"
)

// A Report is all that one run of the suite found.
type Report struct {
	Runtime  string // the first line of --version
	Suite    string
	View     View
	Compared bool // with what is expected of ferrun
	Rows     []Row
}

// A Row is one program: what it said, and what was thought of it beforehand.
type Row struct {
	Result
	Expected  Expectation
	Surprises []string // differences, where results are compared
}

// A Verdict is what a program adds to the last line.
type Verdict string

// Without expectations a program that is not clean has failed.
const (
	Clean      Verdict = "clean"
	Known      Verdict = "as expected"
	Unexpected Verdict = "unexpected"
	NotClean   Verdict = "not clean"
	Silent     Verdict = "no assertion"
)

func (report Report) verdict(row Row) Verdict {
	switch {
	case report.Compared && len(row.Surprises) > 0:
		return Unexpected
	case row.clean():
		return Clean
	case report.Compared:
		return Known
	case row.Exit == "" && len(row.Assertions) == 0:
		return Silent
	}
	return NotClean
}

// tally counts programs: passed, failed, and those that could not pass.
func (report Report) tally() (passed, failed, skipped int) {
	for _, row := range report.Rows {
		switch report.verdict(row) {
		case Clean:
			passed++
		case Unexpected, NotClean:
			failed++
		case Known, Silent:
			skipped++
		}
	}
	return passed, failed, skipped
}

// assertions adds up the assertions of all programs that ended so.
func (report Report) assertions(outcome Outcome) int {
	sum := 0
	for _, row := range report.Rows {
		sum += count(row.Assertions, outcome)
	}
	return sum
}

// markdown is the report as a page. It holds no times, so that two runs with the
// same results give the same page.
func (report Report) markdown() string {
	var page strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&page, format+"\n", args...) }
	clean, failed, skipped := report.tally()

	line("# Conformance\n")
	line("Written by `make conformance`. The OCI runtime-tools suite, %s, on %s, in the cgroup %s view of %s.\n",
		report.Suite, report.Runtime, report.View, kernel())
	line("- **%d of %d programs clean**: exit code 0, at least one assertion, none failed.",
		clean, len(report.Rows))
	line("- **%d assertions passed**, %d failed, %d skipped by the suite. The driver counts them itself.",
		report.assertions(Passed), report.assertions(Failed), report.assertions(Skipped))
	if report.Compared {
		line("- %d programs not as expected; %d as expected and not clean, for reasons outside the runtime (below).",
			failed, skipped)
		line("- `delete` is run with FERRUN_STRICT_SPEC=1: the spec wants `delete` of a created container refused, " +
			"and every engine counts on the opposite, which is the default.")
	}
	line("\n| program | passed | failed | skipped | exit | verdict |")
	line("|---|---|---|---|---|---|")
	for _, row := range report.Rows {
		exit := row.Exit
		if exit == "" {
			exit = "0"
		}
		line("| %s | %d | %d | %d | %s | %s |", row.Program, count(row.Assertions, Passed),
			count(row.Assertions, Failed), count(row.Assertions, Skipped),
			strings.TrimPrefix(exit, "exit status "), report.verdict(row))
	}
	report.writeSurprises(line)
	report.writeReasons(line)
	report.writeRetries(line)
	return page.String()
}

func (report Report) writeSurprises(line func(string, ...any)) {
	heading := "\n## Not as expected\n"
	for _, row := range report.Rows {
		for _, surprise := range row.Surprises {
			line(heading+"- `%s`: %s", row.Program, surprise)
			heading = ""
		}
	}
}

func (report Report) writeReasons(line func(string, ...any)) {
	if !report.Compared {
		return
	}
	line("\n## Expected, and why\n")
	line("| program | what | whose | why |")
	line("|---|---|---|---|")
	tell := func(row Row, what string, reason Reason) {
		whose := string(reason.Kind)
		if reason.Lacks != "" {
			whose += ": no " + reason.Lacks
		}
		line("| %s | %s | %s | %s |", row.Program, what, whose, reason.Because)
	}
	for _, row := range report.Rows {
		for _, failure := range row.Expected.Failures {
			what := fmt.Sprintf("%d × not ok: %s", failure.Times, failure.Assertion)
			if failure.Chance {
				what += " (or ok, by chance)"
			}
			tell(row, what, failure.Reason)
		}
		if reason := row.Expected.Exit; reason != nil {
			tell(row, "ends with an error", *reason)
		}
		if reason := row.Expected.Silent; reason != nil {
			tell(row, "asserts nothing", *reason)
		}
	}
}

func (report Report) writeRetries(line func(string, ...any)) {
	heading := "\n## Run more than once\n\nThese programs race with their own container.\n"
	for _, row := range report.Rows {
		if row.Tries > 1 {
			line(heading+"- `%s`: %d times", row.Program, row.Tries)
			heading = ""
		}
	}
}

func kernel() string {
	var name syscall.Utsname
	if err := syscall.Uname(&name); err != nil {
		return "Linux"
	}
	var release []byte
	for _, char := range name.Release {
		if char == 0 {
			break
		}
		release = append(release, byte(char))
	}
	return "Linux " + string(release)
}
