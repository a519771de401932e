package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

const (
	statementsFile  = "../integration/specification.md"
	reportFile      = "report.md"
	statementsTitle = "## The specification, statement by statement"
)

// A Statement is what the specification says of a runtime, with the tests that would notice.
type Statement struct {
	Section, Number, Where, Level, Text, Here string
}

func (statement Statement) isMust() bool {
	level := strings.ToUpper(statement.Level)
	return strings.Contains(level, "MUST") || strings.Contains(level, "REQUIRED")
}

// isTested is the other kind of the two: what has no test begins with why.
func (statement Statement) isTested() bool { return !strings.HasPrefix(statement.Here, "none: ") }

// readStatements reads the table that the project keeps of them.
func readStatements(page string) ([]Statement, error) {
	number := regexp.MustCompile(`^\d+$`)
	var statements []Statement
	section := ""
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		if title, ok := strings.CutPrefix(line, "## "); ok {
			section = title
		}
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		if !strings.HasPrefix(line, "| ") || !number.MatchString(cells[0]) {
			continue
		}
		if len(cells) != 5 {
			return nil, fmt.Errorf("statement %s: %d columns", cells[0], len(cells))
		}
		statements = append(statements, Statement{section, cells[0], cells[1], cells[2], cells[3], cells[4]})
	}
	if len(statements) == 0 {
		return nil, fmt.Errorf("no statements")
	}
	return statements, nil
}

// statementsPart is the part of the report that tells of them.
func statementsPart(statements []Statement) string {
	var page strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&page, format+"\n", args...) }
	line("%s\n", statementsTitle)
	line("What the runtime-spec, v1.3.0, says of a runtime on Linux, by `integration/specification.md`, and the tests of\n" +
		"this project that would notice if it did not hold. The others have a reason.\n")
	line("| section | statements | tested | MUST | tested |")
	line("|---|---|---|---|---|")
	var sections []string
	counts := map[string][4]int{}
	const all = "**all**"
	for _, statement := range statements {
		if _, there := counts[statement.Section]; !there {
			sections = append(sections, statement.Section)
		}
		for _, section := range []string{statement.Section, all} {
			count := counts[section]
			for column, is := range []bool{true, statement.isTested(), statement.isMust(), statement.isMust() && statement.isTested()} {
				if is {
					count[column]++
				}
			}
			counts[section] = count
		}
	}
	for _, section := range append(sections, all) {
		count := counts[section]
		line("| %s | %d | %d | %d | %d |", section, count[0], count[1], count[2], count[3])
	}
	line("\n| | where | level | statement | tests, or why none |")
	line("|---|---|---|---|---|")
	for _, statement := range statements {
		line("| %s | %s | %s | %s | %s |", statement.Number, statement.Where, statement.Level, statement.Text, statement.Here)
	}
	return page.String()
}

// withStatements is a report with that part, in the place of one that it may have.
func withStatements(report string) (string, error) {
	page, err := os.ReadFile(statementsFile)
	if err != nil {
		return "", err
	}
	statements, err := readStatements(string(page))
	if err != nil {
		return "", fmt.Errorf("%s: %w", statementsFile, err)
	}
	before, _, _ := strings.Cut(report, "\n"+statementsTitle)
	return strings.TrimRight(before, "\n") + "\n\n" + statementsPart(statements), nil
}

// renewStatements writes that part anew, without running the suite.
func renewStatements() error {
	report, err := os.ReadFile(reportFile)
	if err != nil {
		return err
	}
	page, err := withStatements(string(report))
	if err != nil {
		return err
	}
	return os.WriteFile(reportFile, []byte(page), 0o644)
}
