// Conformance runs the OCI runtime-tools suite against a runtime and judges the
// results of ferrun by expected.json. It is the official verdict, apart from what
// the project's own tests promise.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	code, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		code = 1
	}
	os.Exit(code)
}

// Options are what was typed.
type Options struct {
	runtime, expected string
	view              View
	limit             time.Duration
	only              []string
	statements        bool
}

func parseOptions() (Options, error) {
	command := flag.String("runtime", os.Getenv("RUNTIME"), "the runtime, a command without arguments; default $RUNTIME")
	view := flag.String("view", string(ViewV1), "the cgroup layout: v1, hybrid or v2")
	limit := flag.Duration("limit", 3*time.Minute, "time limit for each program")
	expected := flag.String("expected", "expected.json", "what is expected of ferrun in the v1 and hybrid views")
	only := flag.String("only", "", "run these programs only, separated by commas, and write no report")
	statements := flag.Bool("statements", false, "write the specification's statements into report.md, and run nothing")
	flag.Parse()
	if flag.NArg() > 0 {
		return Options{}, fmt.Errorf("argument %q: only options are taken", flag.Arg(0))
	}
	if *statements {
		return Options{statements: true}, nil
	}
	found, err := exec.LookPath(*command)
	if err == nil {
		found, err = filepath.Abs(found)
	}
	if err != nil {
		return Options{}, fmt.Errorf("runtime %q: %w", *command, err)
	}
	options := Options{runtime: found, expected: *expected, view: View(*view), limit: *limit}
	if *only != "" {
		options.only = strings.Split(*only, ",")
	}
	return options, nil
}

// run does what the options ask for and returns the exit code: 1 if anything is not
// as expected.
func run() (int, error) {
	options, err := parseOptions()
	if err != nil {
		return 1, err
	}
	if options.statements {
		return 0, renewStatements()
	}
	if os.Geteuid() != 0 {
		return 1, errors.New("the suite makes devices and cgroups: it must run as root")
	}
	if os.Getenv(insideView) == "" {
		return enterOwnNamespace()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()

	suite, err := buildSuite(ctx)
	if err != nil {
		return 1, err
	}
	report, expectations, err := options.prepare(ctx, suite)
	if err != nil {
		return 1, err
	}
	programs := suite.Programs
	if options.only != nil {
		programs = options.only
	}
	if err := options.view.arrange(); err != nil {
		return 1, err
	}
	if err := report.fill(ctx, options, programs, expectations); err != nil {
		return 1, err
	}
	if options.only == nil {
		if err := report.write(); err != nil {
			return 1, err
		}
		fmt.Printf("report: conformance/%s\n", report.path())
	}
	if failed := report.printSummary(); failed > 0 && report.Compared {
		return 1, nil
	}
	return 0, nil
}

// prepare asks the runtime who it is. Only ferrun is compared with expectations, and
// not in the v2 view, where the suite's cgroup programs fail.
func (options Options) prepare(ctx context.Context, suite Suite) (*Report, Expectations, error) {
	version, err := exec.CommandContext(ctx, options.runtime, "--version").Output()
	if err != nil {
		return nil, nil, fmt.Errorf("%s --version: %w", options.runtime, err)
	}
	report := &Report{Suite: suite.Version, View: options.view}
	report.Runtime, _, _ = strings.Cut(string(version), "\n")
	report.Compared = strings.HasPrefix(report.Runtime, "ferrun ") && report.View != ViewV2
	if !report.Compared {
		return report, nil, nil
	}
	expectations, err := readExpectations(options.expected)
	if err != nil {
		return nil, nil, err
	}
	for program := range expectations {
		if !slices.Contains(suite.Programs, program) {
			return nil, nil, fmt.Errorf("%s: %q: the suite has no such program", options.expected, program)
		}
	}
	return report, expectations, nil
}

// printSummary repeats what matters where it is seen, at the end. The last line
// counts programs, and so does its result, those that failed.
func (report Report) printSummary() int {
	for _, row := range report.Rows {
		if report.verdict(row) != Known {
			continue
		}
		var reasons []string
		for _, reason := range row.Expected.reasons() {
			reasons = append(reasons, fmt.Sprintf("%s (%s)", reason.Because, reason.Kind))
		}
		fmt.Printf("skip: %s: %s\n", row.Program, strings.Join(slices.Compact(reasons), " "))
	}
	for _, row := range report.Rows {
		for _, surprise := range row.Surprises {
			fmt.Printf("fail: %s: %s\n", row.Program, surprise)
		}
	}
	fmt.Printf("%d assertions passed, %d failed, %d skipped by the suite\n",
		report.assertions(Passed), report.assertions(Failed), report.assertions(Skipped))
	passed, failed, skipped := report.tally()
	fmt.Printf("programs: %d passed, %d failed, %d skipped\n", passed, failed, skipped)
	return failed
}

// path is where the report goes. Those that the project keeps are ferrun's; in the v2
// view the suite's cgroup programs cannot pass, so that one is for the eye alone.
func (report Report) path() string {
	name, _, _ := strings.Cut(report.Runtime, " ")
	switch {
	case report.Compared && report.View == ViewV1:
		return reportFile
	case name == "ferrun" && report.View == ViewV2:
		return "report-v2.md"
	}
	return filepath.Join(workDir, fmt.Sprintf("report-%s-%s.md", filepath.Base(name), report.View))
}

// write writes the page. The one that the project keeps tells of the specification too.
func (report Report) write() (err error) {
	page := report.markdown()
	if report.path() == reportFile {
		if page, err = withStatements(page); err != nil {
			return err
		}
	}
	return os.WriteFile(report.path(), []byte(page), 0o644)
}

// fill runs the programs one after the other: they share names of cgroups.
func (report *Report) fill(ctx context.Context, options Options, programs []string,
	expectations Expectations) (err error) {
	bed, err := newBed(options.runtime)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bed.close()) }()
	for _, program := range programs {
		started := time.Now()
		result, err := runProgram(ctx, bed, program, options.limit)
		if err != nil {
			return err
		}
		row := Row{Result: result}
		if report.Compared {
			row.Expected = expectations[program].on(machineHas)
			row.Surprises = append(row.Expected.surprises(result), result.stuck()...)
		}
		report.Rows = append(report.Rows, row)
		report.print(row, time.Since(started))
	}
	return nil
}

// print tells of a program as soon as it has ended.
func (report *Report) print(row Row, took time.Duration) {
	fmt.Printf("%-32s %4d passed %3d failed %3d skipped  %5.1fs  %s\n", row.Program, count(row.Assertions, Passed),
		count(row.Assertions, Failed), count(row.Assertions, Skipped), took.Seconds(), report.verdict(row))
	if row.Tries > 1 {
		fmt.Printf("    run %d times: it races with its container\n", row.Tries)
	}
	for _, surprise := range row.Surprises {
		fmt.Printf("    %s\n", surprise)
	}
	kinds := map[string]int{}
	for _, left := range row.Left {
		kinds[left.Kind]++
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		fmt.Printf("    left behind: %d × %s\n", kinds[kind], kind)
	}
}
