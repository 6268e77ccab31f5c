package cmdtable

import "strings"

// A Time is an argument that says when something expires.
type Time struct {
	Arg      int
	Unit     int64 // of the number, in milliseconds: 1 or 1000
	Relative bool  // it counts from when the command is executed
	Field    bool  // it is of fields or members, not of the key
}

// Expiry returns the argument of a command that says when something expires, if it has one. Of RESTORE, and of HSETEX, whose syntax isn't the same
// everywhere, it tells nothing.
func Expiry(c *Command, args [][]byte) (t Time, ok bool) {
	switch c.Name {
	case "SET":
		return option(args, 3)
	case "GETEX":
		return option(args, 2)
	case "MSETEX":
		n, err := number(args, 1)
		if err != nil {
			return t, false
		}
		return option(args, 2+2*n)
	case "HGETEX":
		t, ok = option(args, 2)
		t.Field = true
		return t, ok && t.Arg <= 3
	case "SETEX", "EXPIRE":
		t = Time{Arg: 2, Unit: 1000, Relative: true}
	case "PSETEX", "PEXPIRE":
		t = Time{Arg: 2, Unit: 1, Relative: true}
	case "EXPIREAT":
		t = Time{Arg: 2, Unit: 1000}
	case "PEXPIREAT":
		t = Time{Arg: 2, Unit: 1}
	case "HEXPIRE", "FIELDEXPIRE", "SADDEX":
		t = Time{Arg: 2, Unit: 1000, Relative: true, Field: true}
	case "HPEXPIRE":
		t = Time{Arg: 2, Unit: 1, Relative: true, Field: true}
	case "HEXPIREAT":
		t = Time{Arg: 2, Unit: 1000, Field: true}
	case "HPEXPIREAT":
		t = Time{Arg: 2, Unit: 1, Field: true}
	default:
		return t, false
	}
	return t, t.Arg < len(args)
}

// option looks for EX, PX, EXAT or PXAT from an argument on.
func option(args [][]byte, from int) (t Time, ok bool) {
	for i := from; i+1 < len(args); i++ {
		if len(args[i]) > 4 {
			continue
		}
		switch strings.ToUpper(string(args[i])) {
		case "EX":
			return Time{Arg: i + 1, Unit: 1000, Relative: true}, true
		case "PX":
			return Time{Arg: i + 1, Unit: 1, Relative: true}, true
		case "EXAT":
			return Time{Arg: i + 1, Unit: 1000}, true
		case "PXAT":
			return Time{Arg: i + 1, Unit: 1}, true
		case "IFEQ":
			i++ // what it is compared with may read like an option
		}
	}
	return t, false
}

// IsBlind tells whether a command is Blind with these arguments.
func IsBlind(c *Command, args [][]byte) bool {
	if !c.Blind {
		return false
	}
	switch c.Name {
	case "SET":
		for i := 3; i < len(args); i++ {
			switch strings.ToUpper(string(args[i][:min(len(args[i]), 8)])) {
			case "PXAT", "EXAT":
				i++
			default: // a condition, GET, KEEPTTL, or a time that counts from now
				return false
			}
		}
		return true
	case "SETEX", "PSETEX", "GETSET", "MSETNX":
		return false
	}
	return true
}
