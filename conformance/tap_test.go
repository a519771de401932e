package main

import (
	"reflect"
	"strings"
	"testing"
)

func TestAssertionsAreCountedLineByLine(t *testing.T) {
	tests := map[string]struct {
		output string
		want   []Assertion
	}{
		"numbers and dashes are not part of the text": {
			"ok 1 - has expected hostname\nnot ok 2 - \nok\n",
			[]Assertion{{Passed, "has expected hostname", ""}, {Failed, "", ""}, {Passed, "", ""}},
		},
		"a skipped assertion is not a passed one": {
			"ok 3 # SKIP syslog\nok 4 - it # skip no such file\n",
			[]Assertion{{Skipped, "# SKIP syslog", ""}, {Skipped, "it # skip no such file", ""}},
		},
		"a failed one stays failed whatever its text says": {
			"not ok 1 - read # SKIP\n",
			[]Assertion{{Failed, "read # SKIP", ""}},
		},
		"several documents and wrong plans are added up": {
			"TAP version 13\n1..1\nok 1 - a\nTAP version 13\n1..0\nok 1 - b\n",
			[]Assertion{{Passed, "a", ""}, {Passed, "b", ""}},
		},
		"quoted output does not count, but is kept": {
			"  ok 0\nok 1 - a\n  ---\n  not ok 2 - quoted\n  ...\nokay\nok2\n# ok 3\n",
			[]Assertion{{Passed, "a", "  ---\n  not ok 2 - quoted\n  ...\n"}},
		},
		"no output, no assertion": {"", nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := readAssertions(strings.NewReader(test.output))
			if err != nil || !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %v, %v, want %v", got, err, test.want)
			}
		})
	}
}
