package rdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/amberkv/amber/internal/cmdtable"
)

// CommandOptions say how commands are converted that come with the keys: those of a Dragonfly's journal, and those that ConvertCommands is given.
//
// Their keys are selected and renamed as those of the stream are. What can't be done with a command is a [LossCommand]: one that isn't known, that the
// target doesn't have, or of whose keys only some are selected, where it can't be made one for these.
//
// RESTORE becomes a key of the stream, with a DEL before it; a later key replaces an earlier one of its name. Since later commands may give a key longer to
// live, keys that have expired are not left out: see ConvertOptions.ExpiredAt.
type CommandOptions struct {
	// Has tells whether the target has a command, by its name in small letters. Nil: it has those that servers of its dialect have in common.
	Has func(name string) bool
	// Flush says that the target holds nothing else than what is written to it, so that commands may remove everything: FLUSHALL, FLUSHDB and
	// SWAPDB. Without it they are a loss.
	Flush bool
	// Now is the time in Unix milliseconds, from which the times of commands count that only say in how long something expires.
	Now int64
	// From is the dialect of the server that executed the commands. Convert takes that of the stream.
	From Dialect
}

// maxCommand is how large a command may be, in bytes with all its arguments, and how many arguments it may have: it is held in memory.
const (
	maxCommand     = 512 << 20
	maxCommandArgs = 1 << 20
)

// convertJournal converts the command of an entry of the stream.
func (c *converter) convertJournal() bool {
	cmd := Command{DB: c.entry.DB, Offset: c.entry.Offset}
	size, open := 0, false
	for {
		e, err := c.src.Element()
		if err == io.EOF {
			break
		}
		if err != nil {
			return false
		}
		if size += len(e.Value); size > maxCommand || len(cmd.Args) > maxCommandArgs {
			c.err = &TooLargeError{What: "a command", Size: uint64(size), Limit: maxCommand}
			return false
		}
		if !open {
			cmd.Args = append(cmd.Args, nil)
		}
		last := &cmd.Args[len(cmd.Args)-1]
		*last = append(*last, e.Value...)
		open = e.More
	}
	from := c.src.dialect
	if from.Family != Dragonfly && c.opts.Commands.From != (Dialect{}) {
		from = c.opts.Commands.From // the stream is one that Convert has made
	}
	return c.command(&cmd, from)
}

// ConvertCommands converts the commands that next returns, one after the other until io.EOF, and writes them to dst behind what is there already: those
// of append-only files, behind the stream that they follow. Of the options, those count that Convert would apply to commands of its stream; Commands has
// to be set. The command that next returns is borrowed until the next call.
func ConvertCommands(dst *Writer, next func() (*Command, error), opts *ConvertOptions) (*ConvertReport, error) {
	if opts == nil || opts.Commands == nil {
		return nil, errors.New("rdb: converting commands: ConvertOptions.Commands is required")
	}
	c := &converter{dst: dst, opts: *opts}
	err := c.runCommands(next)
	c.report.From, c.report.To = opts.Commands.From, dst.Dialect()
	c.report.DBs, c.report.Modules = c.counts.databases(), c.counts.moduleStats()
	if err != nil && dst.err == nil {
		dst.err = err
	}
	return &c.report, err
}

func (c *converter) runCommands(next func() (*Command, error)) error {
	entry := Entry{Kind: KindJournal}
	for {
		cmd, err := next()
		if err == io.EOF {
			if !c.dst.end() {
				return c.dst.err
			}
			c.remember()
			return nil
		}
		if err != nil {
			return err
		}
		entry.DB, entry.Offset = cmd.DB, cmd.Offset
		c.entry = &entry
		if !c.command(cmd, c.opts.Commands.From) {
			switch {
			case c.err != nil:
			case c.dst.fail() != nil:
				c.err = c.dst.err
			}
			return c.err
		}
	}
}

// A commandConverter is a command that is being converted.
type commandConverter struct {
	*converter
	cmd  *Command
	info *cmdtable.Command
	from Dialect
	name string // in upper case
	args [][]byte
	db   int // in the target
	keys []int
}

// command converts a command.
func (c *converter) command(cmd *Command, from Dialect) bool {
	if len(cmd.Args) == 0 {
		c.err = &CorruptError{Offset: cmd.Offset, DB: cmd.DB, Why: "a command without a name"}
		return false
	}
	x := &commandConverter{converter: c, cmd: cmd, from: from, args: cmd.Args, info: cmdtable.Lookup(cmd.Args[0])}
	x.name = strings.ToUpper(string(cmd.Args[0][:min(len(cmd.Args[0]), shownKey)]))
	// What a report names is the key, or a command without one.
	e := c.entry
	if e.Kind == KindJournal {
		e.Key = nil
		defer func() { e.Key = nil }()
	}
	if x.info == nil {
		return x.drop(LossCommand, "the command "+x.name+", of which isn't known which keys it has")
	}
	var err error
	if x.keys, _, err = x.info.Keys(x.args, nil); err != nil {
		c.err = &CorruptError{Offset: cmd.Offset, DB: cmd.DB, Why: err.Error()}
		return false
	}
	if len(x.keys) > 0 && e.Kind == KindJournal {
		e.Key = x.args[x.keys[0]]
	}
	switch x.info.Kind {
	case cmdtable.Nothing:
		c.report.Dropped++
		return true
	case cmdtable.Script, cmdtable.Index, cmdtable.Function:
		return x.server()
	case cmdtable.Flush, cmdtable.Swap:
		return x.databases()
	}
	return x.keyed()
}

// drop leaves the command out as a loss.
func (x *commandConverter) drop(l Loss, what string) bool {
	_, ok := x.lose(l, true, what)
	return ok
}

// has tells whether the target has a command.
func (x *commandConverter) has(name string) bool {
	has := x.opts.Commands.Has
	return has == nil || has(strings.ToLower(name))
}

// write writes a command of the given arguments.
func (x *commandConverter) write(args ...[]byte) bool {
	if name := string(args[0]); !x.has(name) {
		if t, ok := cmdtable.Expiry(x.info, x.args); ok && t.Field {
			return x.drop(LossFieldExpiry, "when fields of a hash expire: the target doesn't have the command "+name)
		}
		return x.drop(LossCommand, "the command "+name+", which the target doesn't have")
	}
	if x.dst.WriteCommand(&Command{DB: x.db, Offset: x.cmd.Offset, Args: args}) != nil {
		return false
	}
	x.report.Commands++
	if c := x.converter; len(x.keys) > 0 && (c.counts.db == nil || c.counted != x.db) {
		// The target has to have it, even if no key of the stream is in it.
		if c.counts.selectDB(x.db) {
			c.counted = x.db
		}
	}
	return true
}

func text(s string) []byte { return []byte(s) }

// server converts a command about something else than keys.
func (x *commandConverter) server() bool {
	to := x.dst.dialect
	dragonflys := x.from.Family == Dragonfly && to.Family == Dragonfly
	switch x.info.Kind {
	case cmdtable.Script:
		if !dragonflys { // a cache, which servers forget
			x.report.Dropped++
			return true
		}
	case cmdtable.Index:
		if !dragonflys || x.opts.NoIndexes {
			return x.drop(LossIndex, "the definition of a search index")
		}
	case cmdtable.Function:
		if !to.functions() {
			return x.drop(LossFunction, "a change of the libraries of functions")
		}
		if len(x.args) > 1 && strings.EqualFold(string(x.args[1]), "FLUSH") && !x.opts.Commands.Flush {
			return x.drop(LossCommand, "FUNCTION FLUSH, in a target that may have functions of its own")
		}
	}
	return x.write(x.args...)
}

// mapDB gives the database a number in the target.
func (x *commandConverter) mapDB(db int) (int, bool) {
	h := x.header
	defer func() { x.header = h }()
	if !x.place(&Entry{Kind: KindJournal, DB: db, Key: []byte(x.opts.TrimPrefix)}) {
		return 0, false
	}
	return x.header.DB, true
}

// wantsDB tells whether a database is selected.
func (x *commandConverter) wantsDB(db int) bool {
	return x.opts.DBs == nil || slices.Contains(x.opts.DBs, db)
}

// wants tells whether a key is selected, by all but its type.
func (x *commandConverter) wants(db int, key []byte) bool {
	o := &x.opts
	return x.wantsDB(db) && (o.Match == "" || matchGlob(o.Match, key)) && (o.TrimPrefix == "" || bytes.HasPrefix(key, []byte(o.TrimPrefix)))
}

// rename returns the name of a key in the target.
func (x *commandConverter) rename(key []byte) []byte {
	o := &x.opts
	if o.TrimPrefix == "" && o.AddPrefix == "" {
		return key
	}
	return append([]byte(o.AddPrefix), key[len(o.TrimPrefix):]...)
}

// renames tells whether keys get other names.
func (x *commandConverter) renames() bool { return x.opts.TrimPrefix != "" || x.opts.AddPrefix != "" }

// unwanted leaves a command out that changes nothing that is selected.
func (x *commandConverter) unwanted() bool {
	x.report.Unwanted++
	return true
}

// databases converts a command about whole databases.
func (x *commandConverter) databases() bool {
	if !x.opts.Commands.Flush {
		return x.drop(LossCommand, x.name+", in a target that may hold other data, or of several parts")
	}
	var ok bool
	switch x.name {
	case "FLUSHDB":
		if !x.wantsDB(x.cmd.DB) {
			return x.unwanted()
		}
		if x.db, ok = x.mapDB(x.cmd.DB); !ok {
			return false
		}
		return x.write(text("FLUSHDB"))
	case "SWAPDB":
		if len(x.args) != 3 || x.opts.DBs != nil {
			return x.drop(LossCommand, "SWAPDB, when databases are selected")
		}
		args := [][]byte{text("SWAPDB"), nil, nil}
		for i := 1; i < 3; i++ {
			db, err := strconv.Atoi(string(x.args[i]))
			if err != nil || db < 0 {
				return x.drop(LossCommand, "SWAPDB of what is no database")
			}
			if db, ok = x.mapDB(db); !ok {
				return false
			}
			args[i] = strconv.AppendInt(nil, int64(db), 10)
		}
		return x.write(args...)
	}
	return x.write(text("FLUSHALL"))
}

// keyed converts a command that has keys.
func (x *commandConverter) keyed() bool {
	if len(x.keys) == 0 { // a script without any
		if x.opts.DBs == nil && x.opts.Match == "" && !x.renames() && x.opts.Types == nil {
			db, ok := x.mapDB(x.cmd.DB)
			x.db = db
			return ok && x.write(x.args...)
		}
		return x.drop(LossCommand, "a "+x.name+" without keys, when keys are selected or renamed")
	}
	if !x.wantsDB(x.cmd.DB) && x.name != "MOVE" && x.name != "COPY" {
		return x.unwanted()
	}
	var ok bool
	if x.wantsDB(x.cmd.DB) {
		if x.db, ok = x.mapDB(x.cmd.DB); !ok {
			return false
		}
	}
	if x.args, ok = slices.Clone(x.args), true; x.name == "MOVE" || x.name == "COPY" {
		if done, ok := x.elsewhere(); done || !ok {
			return ok
		}
	} else if done, ok := x.choose(); done || !ok {
		return ok
	}
	if x.renames() {
		if x.name == "SORT" && slices.ContainsFunc(x.args[2:], func(a []byte) bool { return bytes.EqualFold(a, text("BY")) || bytes.EqualFold(a, text("GET")) }) {
			return x.drop(LossCommand, "a SORT by other keys, when keys are renamed")
		}
		for _, k := range x.keys {
			x.args[k] = x.rename(x.args[k])
		}
	}
	if x.info.Kind == cmdtable.Restore {
		return x.payload()
	}
	if done, ok := x.typed(); done || !ok {
		return ok
	}
	if done, ok := x.expire(); done || !ok {
		return ok
	}
	return x.translate()
}

// choose makes of a command one about the keys that are selected, and tells whether that is done already. The keys are in args under their old names.
func (x *commandConverter) choose() (done, ok bool) {
	_, written, _ := x.info.Keys(x.args, nil)
	if x.opts.Match == "" && x.opts.TrimPrefix == "" {
		return false, true
	}
	var wanted, all, first int
	for i, k := range x.keys {
		if !x.wants(x.cmd.DB, x.args[k]) {
			continue
		}
		all++
		if i < written {
			wanted++
		}
		if i == 0 {
			first = 1
		}
	}
	switch {
	case all == len(x.keys):
		return false, true
	case wanted == 0:
		return true, x.unwanted()
	case x.info.Kind == cmdtable.Each:
		x.split()
		return false, true
	case first == 1 && written == 2:
		// What it takes from the first key goes where nothing is selected.
		key := x.rename(x.args[1])
		switch x.name {
		case "RENAME", "RENAMENX":
			return true, x.write(text("DEL"), key)
		case "SMOVE":
			return true, x.write(text("SREM"), key, x.args[3])
		case "RPOPLPUSH":
			return true, x.write(text("RPOP"), key)
		case "LMOVE":
			if len(x.args) == 5 && bytes.EqualFold(x.args[3], text("LEFT")) {
				return true, x.write(text("LPOP"), key)
			}
			return true, x.write(text("RPOP"), key)
		}
	}
	return true, x.drop(LossCommand, x.name+", of whose keys only some are selected")
}

// split leaves out the keys that aren't selected, of a command that does the same with each.
func (x *commandConverter) split() {
	step := x.info.Step()
	args, keys := x.args[:1:1], x.keys[:0]
	for i := 1; i+step <= len(x.args); i += step {
		if x.wants(x.cmd.DB, x.args[i]) {
			keys = append(keys, len(args))
			args = append(args, x.args[i:i+step]...)
		}
	}
	x.args, x.keys = args, keys
}

// elsewhere converts MOVE and COPY, which may be about two databases.
func (x *commandConverter) elsewhere() (done, ok bool) {
	from, to, at := 1, 1, 2 // keys, and the database of the second
	if x.name == "COPY" {
		to, at = 2, 0
		for i := 3; i+1 < len(x.args); i++ {
			if bytes.EqualFold(x.args[i], text("DB")) {
				at = i + 1
			}
		}
	}
	db := x.cmd.DB
	if at != 0 {
		var err error
		if at >= len(x.args) {
			return true, x.drop(LossCommand, x.name+" without a database")
		}
		if db, err = strconv.Atoi(string(x.args[at])); err != nil || db < 0 {
			return true, x.drop(LossCommand, x.name+" to what is no database")
		}
	}
	source, dest := x.wants(x.cmd.DB, x.args[from]), x.wants(db, x.args[to])
	switch {
	case !source && !dest, !dest && x.name == "COPY":
		return true, x.unwanted()
	case !dest:
		return true, x.write(text("DEL"), x.rename(x.args[from]))
	case !source:
		return true, x.drop(LossCommand, x.name+" from a key that isn't selected to one that is")
	}
	if at != 0 {
		if db, ok = x.mapDB(db); !ok {
			return true, false
		}
		x.args[at] = strconv.AppendInt(nil, int64(db), 10)
	}
	return false, true
}

// typed leaves out what is about keys of types that aren't selected. The keys are in args under their new names.
func (x *commandConverter) typed() (done, ok bool) {
	if x.opts.Types == nil {
		return false, true
	}
	in := slices.ContainsFunc(x.opts.Types, func(t Type) bool { return t.String() == x.info.Type })
	switch {
	case x.info.Mixes:
		return true, x.drop(LossCommand, x.name+", when types are selected: of which types its keys are isn't known")
	case x.info.Type == "" || in:
		return false, true
	case x.info.Overwrites:
		// A key of a type that is selected may have been there.
		args := [][]byte{text("DEL")}
		_, written, _ := x.info.Keys(x.args, nil)
		for _, k := range x.keys[:written] {
			args = append(args, x.args[k])
		}
		return true, x.write(args...)
	}
	return true, x.unwanted()
}

// payload makes a key of RESTORE. The key is in args under its new name.
func (x *commandConverter) payload() bool {
	if len(x.args) < 4 {
		return x.drop(LossCommand, "a RESTORE without a value")
	}
	data := x.args[3]
	if why := checkPayload(data); why != "" {
		x.err = &CorruptError{Offset: x.cmd.Offset, DB: x.cmd.DB, Key: string(x.cmd.Args[1]), Why: why}
		return false
	}
	ttl, err := strconv.ParseInt(string(x.args[2]), 10, 64)
	if err != nil {
		return x.drop(LossCommand, "a RESTORE whose expiry is no number")
	}
	absolute := false
	flags := uint32(0)
	for _, a := range x.args[4:] {
		absolute = absolute || bytes.EqualFold(a, text("ABSTTL"))
		if bytes.EqualFold(a, text("STICK")) {
			flags = 1
		}
	}
	if ttl > 0 && !absolute {
		if _, ok := x.lose(LossRelative, false, "a RESTORE that says in how long the key expires"); !ok {
			return false
		}
		ttl += x.opts.Commands.Now
	}
	// Under its old name, for that is what is selected by.
	old := x.cmd.Args[1]
	if !x.write(text("DEL"), x.args[1]) {
		return false
	}
	dialect := x.from
	if version := int(binary.LittleEndian.Uint16(data[len(data)-footerLen:])); dialect.Family != Dragonfly {
		dialect = Dialect{Redis, version}
		if version >= valkeyVersion {
			dialect.Family = Valkey
		}
	}
	if !dialect.known() {
		return x.drop(LossCommand, "a RESTORE of a payload of "+dialect.String())
	}
	in := NewPayloadReader(bytes.NewReader(data), dialect, &Entry{Key: old, DB: x.cmd.DB}, nil)
	e, err := in.Next()
	if err != nil {
		x.err = fmt.Errorf("the payload of a RESTORE, at byte %d: %w", x.cmd.Offset, err)
		return false
	}
	if dialect.Family == Dragonfly {
		in.dialect.Family = Dragonfly
	}
	e.HasExpiry, e.ExpireAt, e.Flags = ttl > 0, ttl, flags
	e.Offset = x.cmd.Offset
	c := x.converter
	sub := *c
	sub.src, sub.entry, sub.table = in, e, nil
	err = sub.convertKey()
	entry, src := c.entry, c.src
	*c = sub
	c.src, c.entry, c.table = src, entry, nil
	if err != nil {
		c.err = err
	}
	return err == nil
}
