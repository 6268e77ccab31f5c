// Package cmdtable knows of the commands that change something which of their arguments are names of keys, which of these keys they
// write, and which arguments say when something expires: what it takes to execute a command of one server on another, under other names, or on
// the node of a cluster that has its keys.
//
// Servers tell where keys are by COMMAND INFO; a backup has to be understood without one. Tests hold the table against real servers.
package cmdtable

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A Kind says what is done with a command that has no keys, or in another way than others.
type Kind uint8

// The kinds of commands.
const (
	Plain    Kind = iota // it has keys, and writes the first, or those that Command.Keys says
	Each                 // it does the same with each of its keys, one after the other: it can be split
	Flush                // FLUSHALL and FLUSHDB
	Swap                 // SWAPDB
	Function             // FUNCTION: libraries
	Script               // SCRIPT: the cache of scripts, which servers forget when they end
	Index                // FT.*: definitions of search indexes
	Nothing              // it changes no data: PING, PUBLISH and so on
	Restore              // RESTORE: its value is a payload
)

// A Command says what is known of one.
type Command struct {
	Name string // in upper case
	Kind Kind
	// Type is that of the values that it works on, as TYPE names it; empty: any, or it isn't known.
	Type string
	// Overwrites: what it writes takes the place of a value of whatever type.
	Overwrites bool
	// Mixes: it may read values of other types than it writes.
	Mixes bool
	// Blind: what it does doesn't depend on what was there before, so that a row of such commands, of which some were executed, comes to the same if it
	// is executed once more from its beginning.
	Blind bool

	first, last, step int // of the keys among the arguments, as COMMAND INFO tells
	written           int // how many of the keys it writes, from the first; 0: all
	find              func(args [][]byte) ([]int, int, error)
}

// ErrMalformed is the error of arguments that no server takes.
var ErrMalformed = errors.New("the arguments are malformed")

// Lookup returns what is known of the command of that name, in whatever case; nil if it isn't known.
func Lookup(name []byte) *Command {
	if len(name) > maxName {
		return nil
	}
	var upper [maxName]byte
	for i, c := range name {
		if c >= 'a' && c <= 'z' {
			c -= 'a' - 'A'
		}
		upper[i] = c
	}
	if c, ok := table[string(upper[:len(name)])]; ok {
		return c
	}
	for _, f := range families {
		if len(name) > len(f.prefix) && string(upper[:len(f.prefix)]) == f.prefix {
			return f.command
		}
	}
	return nil
}

const maxName = 32

// Keys returns which arguments are names of keys, those first that are written, and how many these are. A command that is known has keys unless
// its Kind says otherwise. The slice is appended to dst.
func (c *Command) Keys(args [][]byte, dst []int) (keys []int, written int, err error) {
	if c.find != nil {
		found, written, err := c.find(args)
		if err != nil {
			return dst, 0, fmt.Errorf("%s: %w", c.Name, err)
		}
		return append(dst, found...), written, nil
	}
	if c.first == 0 {
		return dst, 0, nil
	}
	last := c.last
	if last < 0 {
		last += len(args)
	}
	if last >= len(args) || last < c.first || (last-c.first)%c.step != 0 && c.last != -1 {
		return dst, 0, fmt.Errorf("%s of %d arguments: %w", c.Name, len(args)-1, ErrMalformed)
	}
	if c.Kind == Each && (len(args)-c.first)%c.step != 0 {
		return dst, 0, fmt.Errorf("%s of %d arguments: %w", c.Name, len(args)-1, ErrMalformed)
	}
	n := 0
	for i := c.first; i <= last; i += c.step {
		dst = append(dst, i)
		n++
	}
	if c.written > 0 {
		n = min(n, c.written)
	}
	return dst, n, nil
}

// Step is how many arguments a command of kind Each has for each key, its name included.
func (c *Command) Step() int { return c.step }

// number reads a decimal argument.
func number(args [][]byte, at int) (int, error) {
	if at >= len(args) {
		return 0, ErrMalformed
	}
	n, err := strconv.Atoi(string(args[at][:min(len(args[at]), 20)]))
	if err != nil || n < 0 || n > len(args) {
		return 0, ErrMalformed
	}
	return n, nil
}

// span lists n arguments from the first on.
func span(args [][]byte, first, n int) ([]int, error) {
	if first+n > len(args) {
		return nil, ErrMalformed
	}
	out := make([]int, n)
	for i := range out {
		out[i] = first + i
	}
	return out, nil
}

// counted is a destination, the number of keys, and these: ZUNIONSTORE and its like. A negative destination is none, and all keys are written.
func counted(dest, count int) func(args [][]byte) ([]int, int, error) {
	return func(args [][]byte) ([]int, int, error) {
		n, err := number(args, count)
		if err != nil {
			return nil, 0, err
		}
		keys, err := span(args, count+1, n)
		if err != nil || dest < 0 {
			return keys, len(keys), err
		}
		return append([]int{dest}, keys...), 1, nil
	}
}

// storing finds the key behind STORE, and for those that may have it STOREDIST, of a command that reads its first key. Without one it writes nothing.
func storing(from int, options ...string) func(args [][]byte) ([]int, int, error) {
	return func(args [][]byte) ([]int, int, error) {
		if len(args) < 2 {
			return nil, 0, ErrMalformed
		}
		to := 0
		for i := from; i+1 < len(args); i++ {
			for _, o := range options {
				if strings.EqualFold(string(args[i][:min(len(args[i]), 16)]), o) {
					to = i + 1 // of several the last counts
				}
			}
		}
		if to == 0 {
			return []int{1}, 0, nil
		}
		return []int{to, 1}, 1, nil
	}
}

// fixed are keys at known places, of which so many are written.
func fixed(written int, at ...int) func(args [][]byte) ([]int, int, error) {
	return func(args [][]byte) ([]int, int, error) {
		for _, i := range at {
			if i >= len(args) {
				return nil, 0, ErrMalformed
			}
		}
		return at, written, nil
	}
}

// msetex are the pairs of MSETEX numkeys key value ….
func msetex(args [][]byte) ([]int, int, error) {
	n, err := number(args, 1)
	if err != nil || 2+2*n > len(args) {
		return nil, 0, ErrMalformed
	}
	out := make([]int, n)
	for i := range out {
		out[i] = 2 + 2*i
	}
	return out, n, nil
}
