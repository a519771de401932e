package main

import (
	"reflect"
	"testing"
)

func TestSurprises(t *testing.T) {
	ok := Assertion{Outcome: Passed, Text: "ok"}
	pids := Assertion{Outcome: Failed, Text: "pids", Detail: "  want 1\n"}
	suite := Reason{Kind: BySuite, Because: "it errs"}
	knownPids := []Failure{{Assertion: "pids", Times: 1, Reason: suite}}
	racyPids := []Failure{{Assertion: "pids", Detail: "want 1", Times: 1, Chance: true, Reason: suite}}

	tests := map[string]struct {
		expected Expectation
		result   Result
		want     []string
	}{
		"a clean program is no surprise": {
			Expectation{Passes: 1}, Result{Assertions: []Assertion{ok}}, nil,
		},
		"nor is a known failure": {
			Expectation{Passes: 1, Failures: knownPids}, Result{Assertions: []Assertion{ok, pids}}, nil,
		},
		"an unknown failure is one": {
			Expectation{}, Result{Assertions: []Assertion{ok, pids}}, []string{"not ok: pids"},
		},
		"a known failure that happens more often is one": {
			Expectation{Failures: knownPids}, Result{Assertions: []Assertion{pids, pids}},
			[]string{"not ok 2 times, expected 1: pids"},
		},
		"a known failure that is gone is one": {
			Expectation{Failures: knownPids}, Result{Assertions: []Assertion{ok}},
			[]string{"not ok 0 times, expected 1: pids"},
		},
		"a lost race is none": {
			Expectation{Failures: racyPids}, Result{Assertions: []Assertion{pids}}, nil,
		},
		"a won race is none": {
			Expectation{Failures: racyPids}, Result{Assertions: []Assertion{ok}}, nil,
		},
		"a race excuses no other fault": {
			Expectation{Failures: racyPids}, Result{Assertions: []Assertion{{Outcome: Failed, Text: "pids"}}},
			[]string{"not ok: pids"},
		},
		"a test that ran in part is one": {
			Expectation{Passes: 3}, Result{Assertions: []Assertion{ok}},
			[]string{"1 passed, expected 3: part of the test did not run"},
		},
		"silence is one": {
			Expectation{}, Result{}, []string{"no assertion"},
		},
		"unless it is known": {
			Expectation{Silent: &suite}, Result{}, nil,
		},
		"a program known as silent that speaks is one": {
			Expectation{Silent: &suite}, Result{Assertions: []Assertion{ok}},
			[]string{"assertions, none were expected"},
		},
		"an exit code is one though all assertions hold": {
			Expectation{}, Result{Assertions: []Assertion{ok}, Exit: "exit status 1"}, []string{"exit status 1"},
		},
		"a known error that is gone is one": {
			Expectation{Exit: &suite}, Result{Assertions: []Assertion{ok}},
			[]string{"exit status 0, an error was expected"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := test.expected.surprises(test.result); !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestWhatTheMachineHasExcusesNothing(t *testing.T) {
	label := Reason{Kind: ByMachine, Lacks: "SELinux", Because: "it is refused"}
	suite := Reason{Kind: BySuite, Because: "it errs"}
	expected := Expectation{
		Failures: []Failure{{Assertion: "a", Reason: label}, {Assertion: "b", Reason: suite}},
		Exit:     &label,
		Silent:   &suite,
	}
	if without := expected.on(func(string) bool { return false }); !reflect.DeepEqual(without, expected) {
		t.Errorf("without SELinux: %v", without)
	}
	with := expected.on(func(thing string) bool { return thing == "SELinux" })
	want := Expectation{Failures: expected.Failures[1:], Silent: &suite}
	if !reflect.DeepEqual(with, want) {
		t.Errorf("with SELinux: got %v, want %v", with, want)
	}
}

func TestEveryReasonIsWhole(t *testing.T) {
	tests := map[string]struct {
		reason Reason
		ok     bool
	}{
		"the suite's":                     {Reason{BySuite, "", "it errs"}, true},
		"the machine's":                   {Reason{ByMachine, "SELinux", "it is refused"}, true},
		"the machine's, not saying which": {Reason{ByMachine, "", "it is refused"}, false},
		"the kernel's, not saying why":    {Reason{ByKernel, "", ""}, false},
		"the runtime's":                   {Reason{"ferrun", "", "not done yet"}, false},
	}
	for name, test := range tests {
		if err := test.reason.check(); (err == nil) != test.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheProjectsOwnExpectationsAreWhole(t *testing.T) {
	if _, err := readExpectations("expected.json"); err != nil {
		t.Error(err)
	}
}
