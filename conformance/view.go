package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// A View is the layout of cgroups that the runtime finds. The suite reads and
// writes v1 only; in the v2 view its cgroup programs fail by design.
type View string

// Each view but hybrid, the machine as it is, is made in a mount namespace.
const (
	ViewV1     View = "v1"
	ViewHybrid View = "hybrid"
	ViewV2     View = "v2"
)

// insideView tells the driver that it runs in a mount namespace of its own.
const insideView = "CONFORMANCE_INSIDE_VIEW"

// enterOwnNamespace runs this driver once more, in a private mount namespace, and
// returns its exit code. It outlives interruptions: the inner one tidies up.
func enterOwnNamespace() (int, error) {
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)

	inner := exec.Command("/proc/self/exe", os.Args[1:]...)
	inner.Env = append(os.Environ(), insideView+"=1")
	inner.Stdout, inner.Stderr = os.Stdout, os.Stderr
	inner.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Setpgid: true}
	if err := inner.Start(); err != nil {
		return 1, fmt.Errorf("a private mount namespace: %w", err)
	}
	go func() {
		for interrupt := range interrupts {
			_ = inner.Process.Signal(interrupt) // it may have ended just now
		}
	}()
	err := inner.Wait()
	if inner.ProcessState.Exited() {
		return inner.ProcessState.ExitCode(), nil
	}
	return 1, err
}

// arrange turns the cgroup mounts of this mount namespace into the view.
func (view View) arrange() error {
	if os.Getenv(insideView) == "" {
		return fmt.Errorf("cgroup mounts change in a private mount namespace only")
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make / private: %w", err)
	}
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	switch view {
	case ViewHybrid:
		return nil
	case ViewV1:
		if len(controllers(mounts)) == 0 {
			return fmt.Errorf("no cgroup v1 hierarchy is mounted: use -view v2")
		}
		return unmount(mounts, func(m Mount) bool { return m.Type == "cgroup2" })
	case ViewV2:
		const root = "/sys/fs/cgroup"
		err := unmount(mounts, func(m Mount) bool { return m.at(root) })
		if err == nil {
			err = syscall.Mount("none", root, "cgroup2", 0, "")
		}
		if err != nil {
			return fmt.Errorf("mount cgroup2 on %s: %w", root, err)
		}
		return nil
	}
	return fmt.Errorf("view %q: want v1, hybrid or v2", view)
}

// A Mount is one line of /proc/self/mountinfo.
type Mount struct {
	Point, Type string
	Options     []string // of the file system: controllers, for cgroup v1
}

// at tells whether the mount lies on the path or below it.
func (m Mount) at(path string) bool {
	return m.Point == path || strings.HasPrefix(m.Point, path+"/")
}

func readMounts() ([]Mount, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var mounts []Mount
	for lines := bufio.NewScanner(file); lines.Scan(); {
		// proc(5): mount point in field 5; after the separator type, source, options.
		before, after, _ := strings.Cut(lines.Text(), " - ")
		place, kind := strings.Fields(before), strings.Fields(after)
		if len(place) < 5 || len(kind) < 3 {
			return nil, fmt.Errorf("/proc/self/mountinfo: %q", lines.Text())
		}
		point := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(place[4])
		mounts = append(mounts, Mount{point, kind[0], strings.Split(kind[2], ",")})
	}
	return mounts, nil
}

// unmount takes away the wanted mounts, the newest first: it may lie on another.
func unmount(mounts []Mount, wanted func(Mount) bool) error {
	for _, mount := range slices.Backward(mounts) {
		if !wanted(mount) {
			continue
		}
		if err := syscall.Unmount(mount.Point, syscall.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", mount.Point, err)
		}
	}
	return nil
}

// controllers lists what the mounted cgroup v1 hierarchies control.
func controllers(mounts []Mount) []string {
	var names []string
	for _, mount := range mounts {
		if mount.Type == "cgroup" {
			names = append(names, mount.Options...)
		}
	}
	return names
}
