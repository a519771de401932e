package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	suiteModule = "github.com/opencontainers/runtime-tools"
	// What the suite's programs look for in their current directory.
	workDir = "work"
	logDir  = "work/logs"
)

// A Suite is the built validation programs of runtime-tools.
type Suite struct {
	Version  string
	Programs []string
}

// buildSuite compiles the tools of go.mod into workDir. runtimetest runs inside
// containers and must be static, so cgo is off for all.
func buildSuite(ctx context.Context) (Suite, error) {
	if err := os.MkdirAll(logDir, 0o755); err != nil {
		return Suite{}, err
	}
	if _, err := goTool(ctx, "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", workDir+"/", "tool"); err != nil {
		return Suite{}, err
	}
	module, err := goTool(ctx, "list", "-m", "-f", "{{.Version}} {{.Dir}}", suiteModule)
	if err != nil {
		return Suite{}, err
	}
	version, source, _ := strings.Cut(module, " ")
	// The name that the suite asks for; it has a rootfs for amd64 and 386 only.
	tarball := fmt.Sprintf("rootfs-%s.tar.gz", runtime.GOARCH)
	rootfs, err := os.ReadFile(filepath.Join(source, tarball))
	if err != nil {
		return Suite{}, err
	}
	if err := os.WriteFile(filepath.Join(workDir, tarball), rootfs, 0o644); err != nil {
		return Suite{}, err
	}
	tools, err := goTool(ctx, "list", "tool")
	if err != nil {
		return Suite{}, err
	}
	suite := Suite{Version: version}
	for _, tool := range strings.Fields(tools) {
		if path.Dir(tool) == suiteModule+"/validation" {
			suite.Programs = append(suite.Programs, path.Base(tool))
		}
	}
	slices.Sort(suite.Programs)
	return suite, nil
}

func goTool(ctx context.Context, args ...string) (string, error) {
	command := exec.CommandContext(ctx, "go", args...)
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr bytes.Buffer
	command.Stderr = &stderr
	output, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(output)), nil
}

// A Result is what one program said of the runtime.
type Result struct {
	Program    string
	Assertions []Assertion
	Exit       string // how it ended, empty for exit code 0
	Tries      int
	Left       []Left // what it left behind, removed since
}

// clean tells whether the program tested something and found no fault.
func (r Result) clean() bool {
	return r.Exit == "" && len(r.Assertions) > 0 && count(r.Assertions, Failed) == 0
}

// stuck tells what could not be removed: a runtime must be able to delete its
// containers by force, and then nothing holds on to the rest.
func (r Result) stuck() []string {
	var stuck []string
	for _, left := range r.Left {
		if left.Err != nil {
			stuck = append(stuck, fmt.Sprintf("%s %s stays: %v", left.Kind, left.Name, left.Err))
		}
	}
	return stuck
}

// These programs race with the container they started: `pidfile` kills one that
// runs `true`, and loses the more often the faster the runtime is; `killsig`
// signals a shell that may have set no trap yet.
var racy = map[string]bool{"pidfile": true, "killsig": true}

const racyTries = 3

// strict names the program that wants `delete` of a created container refused, as
// the spec has it. Every engine counts on the opposite, so ferrun refuses on
// request only.
var strict = map[string]string{"delete": "FERRUN_STRICT_SPEC=1"}

// runProgram runs a program until it is clean or its tries are used up.
func runProgram(ctx context.Context, bed *Bed, program string, limit time.Duration) (Result, error) {
	tries := 1
	if racy[program] {
		tries = racyTries
	}
	var result Result
	for try := 1; try <= tries; try++ {
		left := result.Left
		var err error
		if result, err = runOnce(ctx, bed, program, limit); err != nil {
			return result, fmt.Errorf("%s: %w", program, err)
		}
		result.Tries, result.Left = try, append(left, result.Left...)
		if result.clean() {
			break
		}
	}
	return result, nil
}

func runOnce(ctx context.Context, bed *Bed, program string, limit time.Duration) (Result, error) {
	// Files, not pipes: a container that stays behind may hold them open.
	stdout, err := os.Create(filepath.Join(logDir, program+".tap"))
	if err != nil {
		return Result{}, err
	}
	defer stdout.Close()
	stderr, err := os.Create(filepath.Join(logDir, program+".stderr"))
	if err != nil {
		return Result{}, err
	}
	defer stderr.Close()

	result := Result{Program: program}
	result.Exit, err = execute(ctx, bed, program, limit, stdout, stderr)
	if err != nil {
		return result, err
	}
	if result.Left, err = bed.tidy(); err != nil {
		return result, err
	}
	if ctx.Err() != nil {
		return result, ctx.Err()
	}
	if _, err := stdout.Seek(0, 0); err != nil {
		return result, err
	}
	result.Assertions, err = readAssertions(stdout)
	return result, err
}

// execute runs a program and tells how it ended, in no words for exit code 0.
func execute(ctx context.Context, bed *Bed, program string, limit time.Duration, stdout, stderr *os.File) (string, error) {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	command := exec.CommandContext(limited, "./"+program)
	command.Dir = workDir
	command.Env = append(os.Environ(), "RUNTIME="+bed.Runtime, "TMPDIR="+bed.Temp)
	if setting := strict[program]; setting != "" {
		command.Env = append(command.Env, setting)
	}
	command.Stdout, command.Stderr = stdout, stderr
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }

	err := command.Run()
	exit := new(exec.ExitError)
	switch {
	case limited.Err() != nil:
		return fmt.Sprintf("stopped after %v", limit), nil
	case errors.As(err, &exit):
		return exit.String(), nil
	}
	return "", err
}
