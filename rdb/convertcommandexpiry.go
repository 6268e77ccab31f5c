package rdb

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"github.com/amberkv/amber/internal/cmdtable"
)

// expire does with the times of a command what the options say of those of keys, and tells whether nothing more is to be done with it.
func (x *commandConverter) expire() (done, ok bool) {
	if x.info.Name == "HSETEX" {
		return true, x.hsetex()
	}
	t, has := cmdtable.Expiry(x.info, x.args)
	if !has {
		return false, true
	}
	if x.opts.DropExpiry {
		return x.dropExpiry(t)
	}
	n, err := strconv.ParseInt(string(x.args[t.Arg]), 10, 64)
	if err != nil {
		return true, x.drop(LossCommand, x.name+" with an expiry that is no number")
	}
	if t.Relative {
		_, ok = x.lose(LossRelative, false, x.name+" says in how long something expires")
		return false, ok
	}
	if x.opts.ShiftExpiry != 0 {
		ms := n
		if t.Unit > 1 {
			ms = saturated(n, t.Unit)
		}
		if ms > 0 {
			x.args[t.Arg] = strconv.AppendInt(nil, (x.opts.shift(ms)+t.Unit-1)/t.Unit, 10)
		}
	}
	return false, true
}

// saturated multiplies.
func saturated(n, by int64) int64 {
	if n > latestExpiry/by {
		return latestExpiry
	}
	return n * by
}

// dropExpiry makes a command one by which nothing expires.
func (x *commandConverter) dropExpiry(t cmdtable.Time) (done, ok bool) {
	switch x.name {
	case "SET", "MSETEX":
		x.args = slices.Delete(x.args, t.Arg-1, t.Arg+1)
		return false, true
	case "SETEX", "PSETEX":
		return true, x.write(text("SET"), x.args[1], x.args[3])
	case "SADDEX":
		return true, x.write(append([][]byte{text("SADD"), x.args[1]}, x.args[3:]...)...)
	}
	return true, x.unwanted() // it does nothing else
}

// translate writes a command as the target has it.
func (x *commandConverter) translate() bool {
	to := x.dst.dialect
	if x.from.Family != Dragonfly || to.Family == Dragonfly {
		return x.write(x.args...)
	}
	switch {
	case x.name == "STICK":
		return x.drop(LossFlags, "that keys are sticky")
	case x.name == "SADDEX":
		if _, err := strconv.ParseInt(string(x.args[2]), 10, 64); err != nil || len(x.args) < 4 {
			return x.drop(LossCommand, "a SADDEX with options")
		}
		if _, ok := x.lose(LossMemberExpiry, false, "when members of a set expire"); !ok {
			return false
		}
		return x.write(append([][]byte{text("SADD"), x.args[1]}, x.args[3:]...)...)
	case x.name == "FIELDEXPIRE":
		return x.drop(LossFieldExpiry, "when fields of a hash, or members of a set, expire")
	case x.info.Type == "json" && !slices.Contains(x.opts.Modules, rejson.Name()):
		return x.drop(LossType, "a command about a JSON document")
	case sketch(x.info.Name):
		return x.drop(LossType, "a command about a value of a type that the target doesn't have")
	}
	if t, ok := cmdtable.Expiry(x.info, x.args); ok && t.Field {
		if _, ok := to.expiryHash(); !ok {
			return x.drop(LossFieldExpiry, "when fields of a hash expire")
		}
	}
	return x.write(x.args...)
}

// sketch tells of commands about values of Dragonfly's own types, which no other server has in its encodings.
func sketch(name string) bool {
	for _, prefix := range []string{"BF.", "CF.", "CMS.", "TOPK."} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// hsetex writes HSETEX, which is one thing in Dragonfly and another in Redis and Valkey, as the target has it, or as HSET and what gives fields their
// expiry.
func (x *commandConverter) hsetex() bool {
	pairs, at, relative, plain := x.fieldsToSet()
	keeps := slices.ContainsFunc(x.args[2:], func(a []byte) bool { return bytes.EqualFold(a, text("KEEPTTL")) })
	if pairs == nil && keeps && x.from.Family != Dragonfly && x.dst.dialect.Family != Dragonfly {
		return x.write(x.args...)
	}
	if pairs == nil {
		return x.drop(LossCommand, "a HSETEX with options that only its own server has")
	}
	to := x.dst.dialect
	own := (x.from.Family == Dragonfly) == (to.Family == Dragonfly)
	if x.opts.DropExpiry || plain {
		at = 0
	}
	if at != 0 && relative {
		if _, ok := x.lose(LossRelative, false, "HSETEX says in how long fields expire"); !ok {
			return false
		}
	}
	if own && to.Family == Dragonfly && at != 0 {
		return x.write(x.args...)
	}
	if at != 0 && !relative {
		at = x.opts.shift(at)
	} else if at != 0 {
		at += x.opts.Commands.Now
	}
	if !x.write(append([][]byte{text("HSET"), x.args[1]}, pairs...)...) {
		return false
	}
	if at == 0 {
		return true
	}
	if _, ok := to.expiryHash(); !ok || to.Family == Dragonfly || !x.has("HPEXPIREAT") {
		_, ok := x.lose(LossFieldExpiry, false, "when fields of a hash expire")
		return ok
	}
	args := [][]byte{text("HPEXPIREAT"), x.args[1], strconv.AppendInt(nil, at, 10), text("FIELDS"), strconv.AppendInt(nil, int64(len(pairs)/2), 10)}
	for i := 0; i < len(pairs); i += 2 {
		args = append(args, pairs[i])
	}
	return x.write(args...)
}

// fieldsToSet takes HSETEX apart: the fields and values, and when they expire, in milliseconds, which may be a time from now. Plain says that they get no
// expiry. The pairs are nil if it says something that HSET doesn't.
func (x *commandConverter) fieldsToSet() (pairs [][]byte, at int64, relative, plain bool) {
	args := x.args
	if x.from.Family == Dragonfly { // HSETEX key seconds field value …
		if len(args) < 5 || len(args)%2 == 0 {
			return nil, 0, false, false
		}
		n, err := strconv.ParseInt(string(args[2]), 10, 64)
		if err != nil || n <= 0 {
			return nil, 0, false, false
		}
		return args[3:], saturated(n, 1000), true, false
	}
	plain = true
	for i := 2; i < len(args); i++ {
		switch opt := strings.ToUpper(string(args[i][:min(len(args[i]), 8)])); opt {
		case "FNX", "FXX": // servers write the command down only if the condition held, which it does again
		case "EX", "PX", "EXAT", "PXAT":
			if i++; i == len(args) {
				return nil, 0, false, false
			}
			n, err := strconv.ParseInt(string(args[i]), 10, 64)
			if err != nil || n <= 0 {
				return nil, 0, false, false
			}
			if !strings.HasPrefix(opt, "P") {
				n = saturated(n, 1000)
			}
			at, relative, plain = n, !strings.HasSuffix(opt, "AT"), false
		case "FIELDS":
			n, err := strconv.Atoi(string(args[min(i+1, len(args)-1)]))
			if err != nil || n <= 0 || n > len(args) || i+2+2*n != len(args) {
				return nil, 0, false, false
			}
			return args[i+2:], at, relative, plain
		default: // KEEPTTL, which HSET can't
			return nil, 0, false, false
		}
	}
	return nil, 0, false, false
}
