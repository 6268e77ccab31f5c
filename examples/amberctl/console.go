package main

import (
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"
)

// console is standard error: progress, logs and errors share it. No secret gets through.
type console struct {
	terminal bool

	mu      sync.Mutex
	w       io.Writer
	secrets []string
	bar     bool // the cursor is in the line of a progress bar
}

func newConsole(w io.Writer, env func(string) string) *console {
	f, ok := w.(*os.File)
	return &console{w: w, terminal: ok && env("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))}
}

// hide makes the console mask secrets.
func (c *console) hide(secrets ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range secrets {
		if s != "" {
			c.secrets = append(c.secrets, s)
		}
	}
}

// Write writes whole lines, in a line of their own.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := string(p)
	for _, s := range c.secrets {
		text = strings.ReplaceAll(text, s, "***")
	}
	if c.bar {
		text = clearLine + text
		c.bar = false
	}
	if _, err := io.WriteString(c.w, text); err != nil {
		return 0, err
	}
	return len(p), nil
}

const clearLine = "\r\x1b[K"

// fail tells an error, in one line whatever it quotes.
func (c *console) fail(err error) {
	io.WriteString(c, "amberctl: "+clean(strings.ReplaceAll(err.Error(), "\n", "; "))+"\n")
}

// barWriter is where a progress bar draws itself.
type barWriter struct{ *console }

func (b barWriter) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bar = true
	return b.w.Write(p)
}

// clearBar takes a progress bar's line away.
func (c *console) clearBar() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bar {
		c.bar = false
		io.WriteString(c.w, clearLine)
	}
}
