package main

import (
	"bufio"
	"io"
	"regexp"
	"strings"
)

// An Assertion is one line of the Test Anything Protocol.
type Assertion struct {
	Outcome Outcome
	Text    string // the line without its verdict and number
	Detail  string // the indented lines after it
}

// An Outcome is what an assertion says of the runtime.
type Outcome int

// A skipped assertion says nothing: the suite prints "ok", with a directive.
const (
	Passed Outcome = iota
	Failed
	Skipped
)

var (
	assertionLine = regexp.MustCompile(`^(not )?ok(?: (\d+))?(?: -)?(?: (.*))?$`)
	skipDirective = regexp.MustCompile(`(?i)\s*# SKIP\b.*$`)
)

// readAssertions finds the assertions in a program's output and believes nothing
// else else there. Plans are no help: a program may print several documents, or `1..0`
// though it tested something. What is indented belongs to the line before it, and
// often quotes the output of a container.
func readAssertions(output io.Reader) ([]Assertion, error) {
	var found []Assertion
	lines := bufio.NewScanner(output)
	lines.Buffer(nil, 16<<20) // diagnostics are JSON on one line
	for lines.Scan() {
		line := lines.Text()
		match := assertionLine.FindStringSubmatch(line)
		if match == nil {
			if last := len(found) - 1; last >= 0 && strings.HasPrefix(line, "  ") {
				found[last].Detail += line + "\n"
			}
			continue
		}
		assertion := Assertion{Outcome: Passed, Text: strings.TrimSpace(match[3])}
		switch {
		case match[1] != "":
			assertion.Outcome = Failed
		case skipDirective.MatchString(" " + assertion.Text):
			assertion.Outcome = Skipped
		}
		found = append(found, assertion)
	}
	return found, lines.Err()
}

// count tells how many assertions ended in this way.
func count(assertions []Assertion, outcome Outcome) int {
	n := 0
	for _, assertion := range assertions {
		if assertion.Outcome == outcome {
			n++
		}
	}
	return n
}
