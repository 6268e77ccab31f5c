// Package chaos makes stores fail, and looks at what that leaves.
//
// [Look] reads a store from outside: it knows the layout of keys and the form of manifests, from their documentation, and decodes both
// by itself; of Amber's code it uses only package rdb, to parse a part to its end. A [State] then tells what of Amber's promises
// doesn't hold. A [Campaign] makes each call that an operation makes of its store fail in each way, and has a State judge every outcome.
package chaos

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/storage"
)

// A State is all that a store holds.
type State struct {
	Objects map[string]Object  // by key
	Backups map[string]*Backup // by what their keys begin with: "<data store>/<id>/"
}

// An Object is an object.
type Object struct {
	Size    int64
	ModTime time.Time
	SHA256  string
	data    []byte
}

// A Backup is what a manifest says, as far as it can be held against the store.
type Backup struct {
	ID, DataStore, State, Error string
	Policy                      string
	DueTime, CreatedAt, ReadyAt time.Time

	Keys, Expires, Functions int64
	DBs                      []DB
	RawBytes, Bytes          int64
	Parts                    []Part
	Verification             struct {
		Structure, ReadBack bool
		Checksum            string
	}

	revisions []int // in ascending order; the last is the one that was read
	broken    error // why the manifest can't be trusted
}

// DB counts keys.
type DB struct {
	Index         int
	Keys, Expires int64
	Types         map[string]int64
}

// A Part is a part.
type Part struct {
	Name, Key, Dialect, Compression, Encryption, SHA256, RawSHA256 string
	Size, RawSize, Keys                                            int64
	Adopted                                                        bool
}

// Look reads a whole store.
func Look(ctx context.Context, s storage.Store) (*State, error) {
	st := &State{Objects: map[string]Object{}, Backups: map[string]*Backup{}}
	last := ""
	for info, err := range s.List(ctx, "") {
		if err != nil {
			return nil, err
		}
		if info.Key <= last {
			return nil, fmt.Errorf("%s is listed behind %s", info.Key, last)
		}
		last = info.Key
		data, err := storage.ReadFile(ctx, s, info.Key, 1<<30)
		if err != nil {
			return nil, err
		}
		if int64(len(data)) != info.Size {
			return nil, fmt.Errorf("%s is listed with %d bytes and has %d", info.Key, info.Size, len(data))
		}
		st.Objects[info.Key] = objectOf(info, data)
		if n := revision(path.Base(info.Key)); n > 0 && strings.Count(info.Key, "/") == 2 {
			dir := path.Dir(info.Key) + "/"
			if st.Backups[dir] == nil {
				st.Backups[dir] = &Backup{}
			}
			st.Backups[dir].revisions = append(st.Backups[dir].revisions, n)
		}
	}
	for dir, b := range st.Backups {
		slices.Sort(b.revisions)
		b.read(dir, st.Objects[dir+manifestName(b.revisions[len(b.revisions)-1])].data)
	}
	return st, nil
}

func objectOf(info storage.Info, data []byte) Object {
	sum := sha256.Sum256(data)
	return Object{Size: info.Size, ModTime: info.ModTime, SHA256: hex.EncodeToString(sum[:]), data: data}
}

// manifestName is how the object of a manifest's revision is called.
func manifestName(n int) string {
	switch n {
	case 1:
		return "run.json"
	case 2:
		return "manifest.json"
	}
	return fmt.Sprintf("manifest-%06d.json", n)
}

func revision(name string) int {
	n := 1
	if name == "manifest.json" {
		n = 2
	} else if digits, ok := strings.CutPrefix(name, "manifest-"); ok {
		n, _ = strconv.Atoi(strings.TrimSuffix(digits, ".json"))
	}
	if n > 0 && manifestName(n) == name {
		return n
	}
	return 0
}

// read decodes a manifest: a JSON object whose last field is the SHA-256 of what is before it.
func (b *Backup) read(dir string, data []byte) {
	const field = ",\n  \"sha256\": \""
	at := bytes.LastIndex(data, []byte(field))
	if at < 0 {
		b.broken = errors.New("it has no hash in its end")
		return
	}
	sum := sha256.Sum256(data[:at])
	if want := field + hex.EncodeToString(sum[:]) + "\"\n}\n"; string(data[at:]) != want {
		b.broken = errors.New("its hash is not that of what is before it")
		return
	}
	if err := json.Unmarshal(data, b); err != nil {
		b.broken = err
		return
	}
	if b.DataStore+"/"+b.ID+"/" != dir {
		b.broken = fmt.Errorf("it says that it is of %s/%s", b.DataStore, b.ID)
	}
}

// listed tells whether a backup is there to be restored.
func (b *Backup) listed() bool { return b.broken == nil && b.State == "ready" && b.revisions[0] == 1 }

// Ready returns what the keys of every backup that is ready begin with, oldest first.
func (st *State) Ready() []string {
	var out []string
	for dir, b := range st.Backups {
		if b.listed() {
			out = append(out, dir)
		}
	}
	slices.SortFunc(out, func(a, b string) int { return strings.Compare(path.Base(a), path.Base(b)) })
	return out
}

// Violations says what is wrong with what is listed: a backup that is ready and lacks a part, has a part that is not what its manifest says, or
// that can't be parsed to its end with what the manifest counts; and manifests that can't be trusted.
func (st *State) Violations() []string {
	var out []string
	for _, dir := range slices.Sorted(maps.Keys(st.Backups)) {
		b := st.Backups[dir]
		switch {
		case b.broken != nil:
			out = append(out, fmt.Sprintf("%s: the manifest: %v", dir, b.broken))
		case b.revisions[0] != 1 && b.State != "deleting":
			out = append(out, fmt.Sprintf("%s: a manifest that says %s has no run.json", dir, b.State))
		case b.listed():
			for _, why := range st.judge(dir, b) {
				out = append(out, dir+": it is ready, and "+why)
			}
		}
	}
	return out
}

// judge proves a backup that is ready.
func (st *State) judge(dir string, b *Backup) []string {
	var out []string
	wrong := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if len(b.Parts) == 0 {
		wrong("it has no parts")
	}
	if v := b.Verification; !v.Structure || !v.ReadBack {
		wrong("its manifest doesn't say that it was verified")
	}
	var all rdb.Stats
	var raw, stored int64
	opaque := false
	for _, p := range b.Parts {
		raw, stored = raw+p.RawSize, stored+p.Size
		o, there := st.Objects[p.Key]
		switch {
		case !there:
			wrong("its part %s is not there", p.Key)
			continue
		case !p.Adopted && !strings.HasPrefix(p.Key, dir):
			wrong("its part %s is not below its own prefix", p.Key)
		case o.Size != p.Size || o.SHA256 != p.SHA256:
			wrong("its part %s has %d bytes of hash %s, the manifest says %d of %s", p.Key, o.Size, o.SHA256, p.Size, p.SHA256)
		}
		if p.Encryption != "" {
			opaque = true
			continue
		}
		stats, err := parse(o.data, p)
		if err != nil {
			wrong("its part %s: %v", p.Key, err)
			continue
		}
		if stats.Keys != p.Keys {
			wrong("its part %s has %d keys, the manifest says %d", p.Key, stats.Keys, p.Keys)
		}
		all.Add(stats)
	}
	if raw != b.RawBytes || stored != b.Bytes {
		wrong("its parts have %d bytes and %d raw ones, the manifest says %d and %d", stored, raw, b.Bytes, b.RawBytes)
	}
	if opaque || len(out) > 0 {
		return out
	}
	if all.Keys != b.Keys || all.Expires != b.Expires || all.Functions != b.Functions {
		wrong("it has %d keys, %d of them with an expiry, and %d libraries; the manifest says %d, %d and %d", all.Keys, all.Expires, all.Functions,
			b.Keys, b.Expires, b.Functions)
	}
	if len(all.DBs) != len(b.DBs) {
		wrong("it has keys in %d databases, the manifest says in %d", len(all.DBs), len(b.DBs))
		return out
	}
	for i, db := range all.DBs {
		if want := b.DBs[i]; db.DB != want.Index || db.Keys != want.Keys || db.Expires != want.Expires {
			wrong("database %d has %d keys, %d with an expiry; the manifest says %+v", db.DB, db.Keys, db.Expires, want)
		}
	}
	return out
}

// parse takes a part apart to its end.
func parse(stored []byte, p Part) (rdb.Stats, error) {
	var in io.Reader = bytes.NewReader(stored)
	switch p.Compression {
	case "none":
	case "zstd":
		z, err := zstd.NewReader(in)
		if err != nil {
			return rdb.Stats{}, err
		}
		defer z.Close()
		in = z
	default:
		return rdb.Stats{}, fmt.Errorf("nobody knows how to decompress %q", p.Compression)
	}
	raw, err := io.ReadAll(in)
	if err != nil {
		return rdb.Stats{}, err
	}
	if sum := sha256.Sum256(raw); int64(len(raw)) != p.RawSize || hex.EncodeToString(sum[:]) != p.RawSHA256 {
		return rdb.Stats{}, fmt.Errorf("it expands to %d bytes of hash %x, the manifest says %d of %s", len(raw), sum, p.RawSize, p.RawSHA256)
	}
	r := rdb.NewReader(bytes.NewReader(raw), nil)
	for {
		_, err := r.Next()
		if err == io.EOF {
			return r.Stats(), nil
		}
		if err != nil {
			return rdb.Stats{}, err
		}
	}
}

// ours matches the keys of everything that belongs to a backup; what else is in a store, but for leases, is somebody else's.
var ours = regexp.MustCompile(`^[^/]+/\d{8}T\d{6}\.\d{3}Z-[a-z0-9]{4}/[^/]+$`)

// Garbage returns the keys of Amber's that no backup that is ready needs: what a sweep without grace has to have removed.
func (st *State) Garbage() []string {
	needed := map[string]bool{}
	for dir, b := range st.Backups {
		if !b.listed() {
			continue
		}
		for _, n := range b.revisions {
			needed[dir+manifestName(n)] = true
		}
		for _, p := range b.Parts {
			needed[p.Key] = true
		}
	}
	var out []string
	for _, key := range slices.Sorted(maps.Keys(st.Objects)) {
		if !needed[key] && ours.MatchString(key) {
			out = append(out, key)
		}
	}
	return out
}

// Touched returns the keys that were there before and are gone or have become something else, but for those that mine says may.
func (st *State) Touched(before *State, mine func(key string) bool) []string {
	var out []string
	for _, key := range slices.Sorted(maps.Keys(before.Objects)) {
		was := before.Objects[key]
		if now, there := st.Objects[key]; mine(key) || there && now.SHA256 == was.SHA256 && now.ModTime.Equal(was.ModTime) {
			continue
		}
		out = append(out, key)
	}
	return out
}

// Secrets says where one of the secrets shows: in the key of an object, in a manifest or a lease, or in an error.
func (st *State) Secrets(secrets []string, errs ...error) []string {
	var out []string
	for _, secret := range secrets {
		for key, o := range st.Objects {
			if strings.Contains(key, secret) {
				out = append(out, "in the key "+key)
			}
			if strings.HasSuffix(key, ".json") && bytes.Contains(o.data, []byte(secret)) {
				out = append(out, "in "+key)
			}
		}
		for _, err := range errs {
			if err != nil && strings.Contains(fmt.Sprintf("%v %+v", err, err), secret) {
				out = append(out, "in the error "+err.Error())
			}
		}
	}
	slices.Sort(out)
	return out
}
