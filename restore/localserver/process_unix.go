//go:build unix

package localserver

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

const supported = true

// ownGroup lets a command lead a process group, to which its children belong. A Ctrl-C at the terminal is then for this process
// only, which removes what it has started.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// killGroup kills a process that leads a group, and its children.
func killGroup(pid int) { syscall.Kill(-pid, syscall.SIGKILL) }

// A watchdog is a shell that cleans up when this process ends without having done so. It waits for the end of a pipe that only
// this process holds. A line says that the server process is gone, a second one that its directory is gone too.
type watchdog struct {
	cmd *exec.Cmd
	w   *os.File
}

const script = `read -r _ || kill -9 -"$1"; read -r _ || rm -rf "$2"`

func watch(pid int, dir string) (*watchdog, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command("/bin/sh", "-c", script, "sh", strconv.Itoa(pid), dir)
	cmd.Stdin = r
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("starting the shell that ends the server if this process can't: %w", err)
	}
	return &watchdog{cmd, w}, nil
}

func (d *watchdog) processGone() {
	if d != nil {
		d.w.WriteString("\n")
	}
}

// allGone ends the watchdog. It is called after processGone.
func (d *watchdog) allGone() {
	if d != nil {
		d.w.WriteString("\n")
		d.w.Close()
		d.cmd.Wait()
	}
}
