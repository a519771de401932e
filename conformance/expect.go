package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
)

// Expectations say by program what ferrun is known to get in the v1 view.
type Expectations map[string]Expectation

// An Expectation is the known result of one program. Only what no runtime could do
// better belongs here, each with its reason: a fault of ferrun's own does not.
type Expectation struct {
	Passes   int       `json:"passes"` // fewer mean that part of the test did not run
	Failures []Failure `json:"failures,omitempty"`
	Exit     *Reason   `json:"exit,omitempty"`   // why the program ends with an error
	Silent   *Reason   `json:"silent,omitempty"` // why it asserts nothing
}

// A Failure is an assertion that cannot hold, or holds by chance.
type Failure struct {
	Assertion string `json:"assertion"`
	Detail    string `json:"detail,omitempty"` // stands in what the program says of it
	Times     int    `json:"times"`
	Chance    bool   `json:"chance,omitempty"` // it may hold as well: a race
	Reason
}

func (f Failure) is(assertion Assertion) bool {
	return f.Assertion == assertion.Text && strings.Contains(assertion.Detail, f.Detail)
}

// A Reason says whose fault it is: the suite's, the kernel's or this machine's.
type Reason struct {
	Kind    Kind   `json:"kind"`
	Lacks   string `json:"lacks,omitempty"` // what the machine would need
	Because string `json:"because"`
}

// A Kind is one of three: a fourth one, ferrun, there is not.
type Kind string

// A failure for want of something on the machine is expected where it is wanting.
const (
	BySuite   Kind = "suite"
	ByKernel  Kind = "kernel"
	ByMachine Kind = "machine"
)

func readExpectations(path string) (Expectations, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	decoder := json.NewDecoder(file)
	decoder.DisallowUnknownFields()
	var expected Expectations
	if err := decoder.Decode(&expected); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for program, expectation := range expected {
		for _, reason := range expectation.reasons() {
			if err := reason.check(); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", path, program, err)
			}
		}
	}
	return expected, nil
}

func (e Expectation) reasons() []Reason {
	var reasons []Reason
	for _, failure := range e.Failures {
		reasons = append(reasons, failure.Reason)
	}
	for _, reason := range []*Reason{e.Exit, e.Silent} {
		if reason != nil {
			reasons = append(reasons, *reason)
		}
	}
	return reasons
}

func (r Reason) check() error {
	if !slices.Contains([]Kind{BySuite, ByKernel, ByMachine}, r.Kind) {
		return fmt.Errorf("kind %q: want suite, kernel or machine", r.Kind)
	}
	if r.Because == "" {
		return fmt.Errorf("an expected failure without a sentence on why")
	}
	if (r.Kind == ByMachine) != (r.Lacks != "") {
		return fmt.Errorf("kind %s, lacks %q: what is lacking goes with kind machine, and only there", r.Kind, r.Lacks)
	}
	return nil
}

// on leaves the expectation that holds on a machine with these facts: what is
// excused by something that the machine has is excused no longer.
func (e Expectation) on(has func(string) bool) Expectation {
	holds := func(r Reason) bool { return r.Lacks == "" || !has(r.Lacks) }
	kept := Expectation{Passes: e.Passes}
	for _, failure := range e.Failures {
		if holds(failure.Reason) {
			kept.Failures = append(kept.Failures, failure)
		}
	}
	if e.Exit != nil && holds(*e.Exit) {
		kept.Exit = e.Exit
	}
	if e.Silent != nil && holds(*e.Silent) {
		kept.Silent = e.Silent
	}
	return kept
}

// surprises compares a result with what was expected. Better than expected is a
// surprise as well: the expectation is wrong then.
func (e Expectation) surprises(result Result) []string {
	var found []string
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }

	seen := make([]int, len(e.Failures))
	for _, assertion := range result.Assertions {
		if assertion.Outcome != Failed {
			continue
		}
		known := slices.IndexFunc(e.Failures, func(f Failure) bool { return f.is(assertion) })
		if known < 0 {
			say("not ok: %s", assertion.Text)
		} else {
			seen[known]++
		}
	}
	for i, failure := range e.Failures {
		if seen[i] > failure.Times || seen[i] < failure.Times && !failure.Chance {
			say("not ok %d times, expected %d: %s", seen[i], failure.Times, failure.Assertion)
		}
	}
	switch {
	case result.Exit != "" && e.Exit == nil:
		say("%s", result.Exit)
	case result.Exit == "" && e.Exit != nil:
		say("exit status 0, an error was expected")
	}
	switch {
	case len(result.Assertions) > 0 && e.Silent != nil:
		say("assertions, none were expected")
	case len(result.Assertions) == 0 && e.Silent == nil && e.Exit == nil:
		say("no assertion")
	}
	if passes := count(result.Assertions, Passed); passes < e.Passes {
		say("%d passed, expected %d: part of the test did not run", passes, e.Passes)
	}
	return found
}

// machineHas tells whether the kernel and the machine's set-up offer a thing that
// some test needs.
func machineHas(thing string) bool {
	switch thing {
	case "AppArmor":
		enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
		return err == nil && strings.HasPrefix(string(enabled), "Y")
	case "SELinux":
		_, err := os.Stat("/sys/fs/selinux/enforce")
		return err == nil
	case "CAP_SYS_RESOURCE":
		const prCapbsetRead, capSysResource = 23, 24 // linux/prctl.h, linux/capability.h
		bounding, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prCapbsetRead, capSysResource, 0)
		return errno == 0 && bounding == 1
	}
	controller, ok := strings.CutPrefix(thing, "cgroup v1 ")
	if !ok {
		return false
	}
	mounts, err := readMounts()
	return err == nil && slices.Contains(controllers(mounts), controller)
}
