package restore

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"io"
	"strconv"
	"strings"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/cmdtable"
	"github.com/amberkv/amber/rdb"
)

// What commands of a backup change can't be held against it: what a key has to be after them nobody has computed. The keys that no command touches
// can. A sample leaves a key out as soon as a command touches it; a comparison of all keys reads the commands first.

// A touch tells which keys a command touches.
type touch struct {
	words []byte
	ends  []int
	args  [][]byte
	at    []int
	name  []byte
}

// touchedArg is how much is looked at of an argument: longer ones are no names of keys, or of keys of which nobody can be sure.
const touchedArg = 1 << 20

// read reads the command that the reader stands at and tells whose keys it touches: each as its database and name, whole databases, or everything.
func (t *touch) read(r *rdb.Reader, e *rdb.Entry, key func(name []byte), db func(n int), all func()) error {
	t.words, t.ends = t.words[:0], t.ends[:0]
	cut, open := false, 0
	for el, err := range r.Elements() {
		if err != nil {
			return err
		}
		if room := touchedArg - open; len(el.Value) <= room {
			t.words = append(t.words, el.Value...)
		} else {
			t.words, cut = append(t.words, el.Value[:max(room, 0)]...), true
		}
		open += len(el.Value)
		if !el.More {
			t.ends, open = append(t.ends, len(t.words)), 0
		}
	}
	t.args = t.args[:0]
	start := 0
	for _, end := range t.ends {
		t.args = append(t.args, t.words[start:end])
		start = end
	}
	if len(t.args) == 0 {
		return nil
	}
	known := cmdtable.Lookup(t.args[0])
	if known == nil {
		all()
		return nil
	}
	switch known.Kind {
	case cmdtable.Nothing, cmdtable.Script, cmdtable.Index, cmdtable.Function:
		return nil
	case cmdtable.Swap:
		all()
		return nil
	case cmdtable.Flush:
		if known.Name == "FLUSHDB" {
			db(e.DB)
		} else {
			all()
		}
		return nil
	}
	var err error
	if t.at, _, err = known.Keys(t.args, t.at[:0]); err != nil || len(t.at) == 0 {
		all() // a script without keys may do anything
		return nil
	}
	for _, i := range t.at {
		if cut && len(t.args[i]) >= touchedArg {
			all()
			return nil
		}
		key(t.key(e.DB, t.args[i]))
	}
	if other := t.otherDB(known.Name); other >= 0 {
		key(t.key(other, t.args[t.at[0]]))
	}
	return nil
}

// otherDB returns the database that MOVE and COPY write to, -1 for others.
func (t *touch) otherDB(name string) int {
	at := 0
	switch name {
	case "MOVE":
		at = 2
	case "COPY":
		for i := 3; i+1 < len(t.args); i++ {
			if strings.EqualFold(string(t.args[i]), "DB") {
				at = i + 1
			}
		}
	}
	if at == 0 || at >= len(t.args) {
		return -1
	}
	n, err := strconv.Atoi(string(t.args[at]))
	if err != nil {
		return -1
	}
	return n
}

func (t *touch) key(db int, key []byte) []byte {
	t.name = append(binary.AppendUvarint(t.name[:0], uint64(db)), key...)
	return t.name
}

// touchedKeys is a set of names that may say of a few more that they are in it: a Bloom filter of 8 MiB, which is wrong about one in a
// thousand names when it has four million.
type touchedKeys struct {
	seed  maphash.Seed
	bits  []uint64
	dbs   map[int]bool // of which all keys count
	every bool
	any   bool
}

const (
	touchedWords  = 1 << 20
	touchedHashes = 5
)

func (s *touchedKeys) places(name []byte, f func(word, bit uint64) bool) bool {
	h := maphash.Bytes(s.seed, name)
	step := h>>32 | 1
	for range touchedHashes {
		n := h % (touchedWords * 64)
		if !f(n/64, 1<<(n%64)) {
			return false
		}
		h += step * 0x9e3779b97f4a7c15
	}
	return true
}

func (s *touchedKeys) add(name []byte) {
	s.any = true
	s.places(name, func(word, bit uint64) bool { s.bits[word] |= bit; return true })
}

func (s *touchedKeys) has(e *rdb.Entry, t *touch) bool {
	return s != nil && (s.every || s.dbs[e.DB] || s.any && s.places(t.key(e.DB, e.Key), func(word, bit uint64) bool { return s.bits[word]&bit != 0 }))
}

// touchedBy reads the commands of a source; nil if it has none.
func touchedBy(ctx context.Context, src Source) (*touchedKeys, error) {
	b := src.Backup()
	if b.Commands == 0 {
		return nil, nil
	}
	s := &touchedKeys{seed: maphash.MakeSeed(), bits: make([]uint64, touchedWords), dbs: map[int]bool{}}
	for _, p := range b.Parts {
		if err := s.part(ctx, src, p); err != nil {
			return nil, fmt.Errorf("part %s: %w", p.Name, err)
		}
	}
	return s, nil
}

func (s *touchedKeys) part(ctx context.Context, src Source, p catalog.Part) error {
	in, err := src.Open(ctx, p)
	if err != nil {
		return err
	}
	defer in.Close()
	var t touch
	r := rdb.NewReader(in, &rdb.ReaderOptions{Commands: true})
	for e, err := range r.Entries() {
		if err != nil {
			return err
		}
		if e.Kind != rdb.KindJournal {
			continue
		}
		if err := t.read(r, e, s.add, func(db int) { s.dbs[db] = true }, func() { s.every = true }); err != nil {
			return err
		}
	}
	_, err = io.Copy(io.Discard, in) // its end proves it
	return err
}

// touch leaves out of the sample what a command touches.
func (s *sampler) touch(r *rdb.Reader, e *rdb.Entry, t *touch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.touched++
	return t.read(r, e, func(name []byte) {
		for i := range s.classes {
			c := &s.classes[i]
			if k := c.keys[string(name)]; k != nil {
				c.bytes -= len(k.payload) + len(name)
				delete(c.keys, string(name))
			}
		}
	}, func(db int) { s.forget(func(k *sampledKey) bool { return k.entry.DB == db }) },
		func() { s.forget(func(*sampledKey) bool { return true }) })
}

// forget leaves some keys out. The caller has s.mu.
func (s *sampler) forget(which func(*sampledKey) bool) {
	for i := range s.classes {
		c := &s.classes[i]
		for name, k := range c.keys {
			if which(k) {
				c.bytes -= len(k.payload) + len(name)
				delete(c.keys, name)
			}
		}
	}
}
