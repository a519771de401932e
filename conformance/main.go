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

func run() (int, error) {
	command := flag.String("runtime", os.Getenv("RUNTIME"), "the runtime, a command without arguments; default $RUNTIME")
	view := flag.String("view", string(ViewV1), "the cgroup layout: v1, hybrid or v2")
	limit := flag.Duration("limit", 3*time.Minute, "time limit for each program")
	expected := flag.String("expected", "expected.json", "what is expected of ferrun in the v1 and hybrid views")
	only := flag.String("only", "", "run these programs only, separated by commas, and write no report")
	flag.Parse()
	if flag.NArg() > 0 {
		return 1, fmt.Errorf("argument %q: only options are taken", flag.Arg(0))
	}
	if os.Geteuid() != 0 {
		return 1, errors.New("the suite makes devices and cgroups: it must run as root")
	}
	if os.Getenv(insideView) == "" {
		return enterOwnNamespace()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()

	runtimePath, err := exec.LookPath(*command)
	if err == nil {
		runtimePath, err = filepath.Abs(runtimePath)
	}
	if err != nil {
		return 1, fmt.Errorf("runtime %q: %w", *command, err)
	}
	version, err := exec.CommandContext(ctx, runtimePath, "--version").Output()
	if err != nil {
		return 1, fmt.Errorf("%s --version: %w", runtimePath, err)
	}
	report := Report{View: View(*view)}
	report.Runtime, _, _ = strings.Cut(string(version), "\n")
	report.Compared = strings.HasPrefix(report.Runtime, "ferrun ") && report.View != ViewV2
	expectations := Expectations{}
	if report.Compared {
		if expectations, err = readExpectations(*expected); err != nil {
			return 1, err
		}
	}

	suite, err := buildSuite(ctx)
	if err != nil {
		return 1, err
	}
	report.Suite = suite.Version
	for program := range expectations {
		if !slices.Contains(suite.Programs, program) {
			return 1, fmt.Errorf("%s: %q: the suite has no such program", *expected, program)
		}
	}
	programs := suite.Programs
	if *only != "" {
		programs = strings.Split(*only, ",")
	}
	if err := report.View.arrange(); err != nil {
		return 1, err
	}
	if err := report.fill(ctx, runtimePath, programs, expectations, *limit); err != nil {
		return 1, err
	}
	if *only == "" {
		if err := os.WriteFile(report.path(), []byte(report.markdown()), 0o644); err != nil {
			return 1, err
		}
		fmt.Printf("report: conformance/%s\n", report.path())
	}
	fmt.Printf("%d assertions passed, %d failed, %d skipped by the suite\n",
		report.assertions(Passed), report.assertions(Failed), report.assertions(Skipped))
	passed, failed, skipped := report.tally()
	fmt.Printf("programs: %d passed, %d failed, %d skipped\n", passed, failed, skipped)
	if report.Compared && failed > 0 {
		return 1, nil
	}
	return 0, nil
}

// path is where the report goes. The one that the project keeps is ferrun's.
func (report Report) path() string {
	if report.Compared && report.View == ViewV1 {
		return "report.md"
	}
	name, _, _ := strings.Cut(report.Runtime, " ")
	return filepath.Join(workDir, fmt.Sprintf("report-%s-%s.md", filepath.Base(name), report.View))
}

// fill runs the programs one after the other: they share names of cgroups.
func (report *Report) fill(ctx context.Context, runtimePath string, programs []string, expectations Expectations,
	limit time.Duration) (err error) {
	bed, err := newBed(runtimePath)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bed.close()) }()
	for _, program := range programs {
		started := time.Now()
		result, err := runProgram(ctx, bed, program, limit)
		if err != nil {
			return err
		}
		row := Row{Result: result}
		if report.Compared {
			row.Expected = expectations[program].on(machineHas)
			row.Surprises = row.Expected.surprises(result)
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
		if left.Err != nil {
			fmt.Printf("    %s %s stays: %v\n", left.Kind, left.Name, left.Err)
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		fmt.Printf("    left behind: %d × %s\n", kinds[kind], kind)
	}
}
