package main

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A Bed is where one run of the suite happens. It knows what was there before, so
// that it takes away what the suite leaves behind and nothing else.
type Bed struct {
	Runtime string // a command without arguments, all that the suite can call
	Temp    string // for bundles; open to other users, some containers are theirs
	Dir     string // holds both, and the runtime's state

	before map[string]bool // the suite's cgroups that others made
	lock   *os.File
}

// newBed makes a bed around a runtime, which gets a state folder of its own there.
// It waits for other runs: the suite's cgroups have fixed names.
func newBed(command string) (*Bed, error) {
	lock, err := os.Open("/sys/fs/cgroup")
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		fmt.Println("another conformance run is under way: waiting for it")
		if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
			return nil, fmt.Errorf("flock %s: %w", lock.Name(), err)
		}
	}
	before, err := suiteCgroups()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "conformance-")
	if err != nil {
		return nil, err
	}
	bed := &Bed{Runtime: dir + "/runtime", Temp: dir + "/tmp", Dir: dir, before: before, lock: lock}
	quoted := "'" + strings.ReplaceAll(command, "'", `'\''`) + "'"
	wrapper := fmt.Sprintf("#!/bin/sh\nexec %s --root '%s/state' \"$@\"\n", quoted, dir)
	for _, step := range []func() error{
		func() error { return os.Chmod(dir, 0o755) },
		func() error { return passable(dir) },
		func() error { return os.Mkdir(bed.Temp, 0o755) },
		func() error { return os.Mkdir(bed.state(), 0o700) },
		func() error { return os.WriteFile(bed.Runtime, []byte(wrapper), 0o755) },
	} {
		if err := step(); err != nil {
			os.RemoveAll(dir)
			return nil, err
		}
	}
	return bed, nil
}

func (bed *Bed) state() string { return bed.Dir + "/state" }

// passable checks that a container of any user can reach the directory.
func passable(dir string) error {
	for ; dir != "/"; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if info.Mode()&0o001 == 0 {
			return fmt.Errorf("TMPDIR: %s is closed to other users (mode %o)", dir, info.Mode().Perm())
		}
	}
	return nil
}

// close removes the bed.
func (bed *Bed) close() error {
	defer bed.lock.Close()
	if _, err := bed.tidy(); err != nil {
		return err
	}
	return os.RemoveAll(bed.Dir)
}

// A Left is something that a program left behind, and why it is still there, if it
// could not be removed.
type Left struct {
	Kind, Name string
	Err        error
}

// tidy removes what a program left: containers first, since they hold on to the
// rest, and mounts before the directories they lie in.
func (bed *Bed) tidy() ([]Left, error) {
	left, err := bed.tidyContainers()
	if err != nil {
		return left, err
	}
	mounts, err := readMounts()
	if err != nil {
		return left, err
	}
	below := func(m Mount) bool { return m.at(bed.Dir) }
	for _, mount := range mounts {
		if below(mount) {
			left = append(left, Left{Kind: "mount", Name: mount.Point})
		}
	}
	if err := unmount(mounts, below); err != nil {
		return left, err // what lies under a mount that stays may be the machine's own
	}
	bundles, err := os.ReadDir(bed.Temp)
	if err != nil {
		return left, err
	}
	for _, bundle := range bundles {
		err := os.RemoveAll(filepath.Join(bed.Temp, bundle.Name()))
		left = append(left, Left{"bundle", bundle.Name(), err})
	}
	cgroups, err := suiteCgroups()
	if err != nil {
		return left, err
	}
	// The longest path first: a cgroup goes after those below it.
	for _, cgroup := range slices.Backward(slices.Sorted(maps.Keys(cgroups))) {
		if !bed.before[cgroup] {
			left = append(left, Left{"cgroup", cgroup, os.Remove(cgroup)})
		}
	}
	return left, nil
}

func (bed *Bed) tidyContainers() ([]Left, error) {
	entries, err := os.ReadDir(bed.state())
	if err != nil {
		return nil, err
	}
	var left []Left
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		left = append(left, Left{"container", entry.Name(), bed.deleteByForce(entry.Name())})
	}
	return left, nil
}

func (bed *Bed) deleteByForce(id string) error {
	// Not the caller's context: what is left goes, also after an interrupt.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	output, err := exec.CommandContext(ctx, bed.Runtime, "delete", "--force", id).CombinedOutput()
	if err != nil {
		return fmt.Errorf("delete --force: %w: %s", err, output)
	}
	return nil
}

// suiteCgroups finds the cgroups that bear the suite's names, and those below them.
// A relative path may be placed anywhere, so it looks everywhere.
func suiteCgroups() (map[string]bool, error) {
	mounts, err := readMounts()
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for _, mount := range mounts {
		if mount.Type != "cgroup" && mount.Type != "cgroup2" {
			continue
		}
		// Cgroups come and go while we walk: an error here is no news.
		_ = filepath.WalkDir(mount.Point, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.IsDir() {
				return nil
			}
			if name := entry.Name(); name == "cgrouptest" || name == "testdir" || found[filepath.Dir(path)] {
				found[path] = true
			}
			return nil
		})
	}
	return found, nil
}
