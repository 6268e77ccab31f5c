package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// measureArg makes the program run another one and tell what that took. A process of its own does this, because on Linux
// the peak memory of a child begins with that of the process that started it: this one must be small.
const measureArg = "-measure-child"

// cost is what a program took.
type cost struct {
	Wall    time.Duration // from its start to its end
	CPU     time.Duration // of all its threads, in the kernel too
	PeakRSS int64         // in bytes
}

// measure runs a program and returns what it took and what it wrote to standard output.
func measure(ctx context.Context, program string, args ...string) (cost, []byte, error) {
	var stdout bytes.Buffer
	c, err := measureInto(ctx, &stdout, program, args...)
	return c, stdout.Bytes(), err
}

// measureTo is measure with a file as the program's standard output, so that nobody spends time on reading it.
func measureTo(ctx context.Context, file, program string, args ...string) (cost, error) {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return cost{}, err
	}
	defer f.Close()
	return measureInto(ctx, f, program, args...)
}

func measureInto(ctx context.Context, stdout io.Writer, program string, args ...string) (cost, error) {
	self, err := os.Executable()
	if err != nil {
		return cost{}, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return cost{}, err
	}
	defer r.Close()
	cmd := exec.CommandContext(ctx, self, append([]string{measureArg, program}, args...)...)
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = stdout, &stderr
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err = cmd.Run()
	w.Close()
	if err != nil {
		out := ""
		if b, ok := stdout.(*bytes.Buffer); ok {
			out = string(tail(b.Bytes()))
		}
		return cost{}, fmt.Errorf("%s %q: %w\n%s%s", program, args, err, out, tail(stderr.Bytes()))
	}
	var c cost
	if err := json.NewDecoder(r).Decode(&c); err != nil {
		return cost{}, fmt.Errorf("measuring %s: %w", program, err)
	}
	return c, nil
}

func tail(text []byte) []byte { return text[max(0, len(text)-2000):] }

// measureChild is the child's side: it runs a program, writes the cost to file descriptor 3 and returns the exit status.
func measureChild(args []string) int {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	start := time.Now()
	err := cmd.Run()
	wall := time.Since(start)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(1, exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		fmt.Fprintln(os.Stderr, "no resource usage on this system")
		return 1
	}
	cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	c := cost{Wall: wall, CPU: cpu, PeakRSS: usage.Maxrss * 1024} // Linux tells it in KiB
	if err := json.NewEncoder(os.NewFile(3, "cost")).Encode(c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
