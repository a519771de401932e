package main

import (
	"os"
	"testing"
)

func TestReportHasTodaysStatements(t *testing.T) {
	report, err := os.ReadFile(reportFile)
	if err != nil {
		t.Fatal(err)
	}
	page, err := withStatements(string(report))
	if err != nil {
		t.Fatal(err)
	}
	if page != string(report) {
		t.Errorf("%s is older than %s: go run . -statements", reportFile, statementsFile)
	}
}

func TestStatementsAreCountedBySectionAndLevel(t *testing.T) {
	statements, err := readStatements("## a\n| | where | level |\n|---|\n" +
		"| 1 | x#y | MUST | This | `a::b` |\n| 2 | x#y | MUST NOT | That | none: no hardware |\n" +
		"## b\n| 3 | x | (text) | Other | `c::d` |\n")
	if err != nil {
		t.Fatal(err)
	}
	want := statementsTitle + `

What the runtime-spec, v1.3.0, says of a runtime on Linux, by ` + "`integration/specification.md`" + `, and the tests of
this project that would notice if it did not hold. The others have a reason.

| section | statements | tested | MUST | tested |
|---|---|---|---|---|
| a | 2 | 1 | 2 | 1 |
| b | 1 | 1 | 0 | 0 |
| **all** | 3 | 2 | 2 | 1 |

| | where | level | statement | tests, or why none |
|---|---|---|---|---|
| 1 | x#y | MUST | This | ` + "`a::b`" + ` |
| 2 | x#y | MUST NOT | That | none: no hardware |
| 3 | x | (text) | Other | ` + "`c::d`" + ` |
`
	if found := statementsPart(statements); found != want {
		t.Errorf("found:\n%s\nwant:\n%s", found, want)
	}
	for _, wrong := range []string{"", "| 1 | x | MUST | cut short |\n"} {
		if _, err := readStatements(wrong); err == nil {
			t.Errorf("%q: read", wrong)
		}
	}
}
