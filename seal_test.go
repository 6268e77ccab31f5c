package amber_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage/filestore"
	"github.com/amberkv/amber/storage/seal"
)

func newKey(t *testing.T) *age.X25519Identity {
	t.Helper()
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// serviceIn returns a Service over a directory.
func serviceIn(t *testing.T, dir string, cfg amber.Config) *amber.Service {
	t.Helper()
	store, err := filestore.New(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	cfg.Store = store
	service, err := amber.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return service
}

// canaries fills a server with values of every kind of which each name and each text begins with a mark.
func canaries(t *testing.T, c *redis.Client, mark string) {
	t.Helper()
	ctx := t.Context()
	name := func(kind string, i int) string { return fmt.Sprintf("%s-%s-%d", mark, kind, i) }
	p := c.Pipeline()
	for i := range 300 {
		p.Set(ctx, name("string", i), name("value", i)+strings.Repeat(" and some text that compresses", i%5), 0)
	}
	for i := range 20 {
		p.HSet(ctx, name("hash", i), name("field", 0), name("hashed", i), name("field", 1), strings.Repeat(name("long", i), 50))
		p.RPush(ctx, name("list", i), name("item", 0), name("item", 1))
		p.SAdd(ctx, name("set", i), name("member", 0), name("member", 1))
		p.ZAdd(ctx, name("zset", i), redis.Z{Score: 1, Member: name("scored", i)})
		p.XAdd(ctx, &redis.XAddArgs{Stream: name("stream", i), Values: []string{name("key", i), name("entry", i)}})
		p.XGroupCreate(ctx, name("stream", i), name("group", i), "0")
	}
	p.Set(ctx, name("big", 0), strings.Repeat(name("big", 1), 300_000), 0) // several frames
	p.FunctionLoad(ctx, "#!lua name="+strings.ReplaceAll(mark, "-", "_")+"\nredis.register_function('"+strings.ReplaceAll(mark, "-", "_")+"', function() return '"+mark+"' end)")
	if _, err := p.Exec(ctx); err != nil {
		t.Fatal(err)
	}
}

// spellings returns a text as it is, in hexadecimal, and as it shows in base64 wherever it begins.
func spellings(text string) map[string][]byte {
	all := map[string][]byte{
		"as it is":        []byte(text),
		"hexadecimal":     []byte(hex.EncodeToString([]byte(text))),
		"HEXADECIMAL":     []byte(strings.ToUpper(hex.EncodeToString([]byte(text)))),
		"two bytes each":  []byte(strings.Join(strings.Split(text, ""), "\x00")),
		"lower-case text": []byte(strings.ToLower(text)),
	}
	for at := range 3 {
		// The characters at both ends hold bits of what is beside it.
		encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("\x00", at) + text))
		from := (at*8 + 5) / 6
		all[fmt.Sprintf("base64 after %d", at)] = []byte(encoded[from : (at+len(text))*8/6])
	}
	return all
}

// leaks looks for texts in every file below a directory, as they are and in all that decompresses, and returns what it found.
func leaks(t *testing.T, dir string, texts ...string) (found []string, files int) {
	t.Helper()
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	look := func(where string, data []byte) {
		for _, text := range texts {
			for spelling, want := range spellings(text) {
				if bytes.Contains(data, want) {
					found = append(found, fmt.Sprintf("%s: %q, %s", where, text, spelling))
				}
			}
		}
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		look("the name "+path[len(dir):], []byte(d.Name()))
		if err != nil || d.IsDir() {
			return err
		}
		files++
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		look(d.Name(), data)
		for at := 0; ; at++ {
			i := bytes.Index(data[at:], []byte{0x28, 0xB5, 0x2F, 0xFD})
			if i < 0 {
				return nil
			}
			at += i
			var opened bytes.Buffer
			if err := decoder.Reset(bytes.NewReader(data[at:])); err != nil {
				return err
			}
			_, _ = io.Copy(&opened, decoder) // as far as it goes
			look(fmt.Sprintf("%s, decompressed from %d", d.Name(), at), opened.Bytes())
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return found, files
}

// TestCanary: of a server full of canaries nothing can be read in the store, neither of its backups, nor of the backup that is made before data
// is replaced, nor of a run that failed; nor are the secrets there. Without recipients all of that shows, or the test would prove nothing.
func TestCanary(t *testing.T) {
	t.Parallel()
	const mark, secondMark = "CANARY-4711", "CANARY-0815"
	from, to := testserver.Start(t, "redis-8.0"), testserver.Start(t, "redis-8.0")
	canaries(t, from.Client(t), mark)
	canaries(t, to.Client(t), secondMark)
	key := newKey(t)
	_, signer, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	secrets := []string{key.String(), string(signer.Seed())}
	for _, encrypted := range []bool{true, false} {
		dir := t.TempDir()
		cfg := amber.Config{Signer: signer, Trust: []ed25519.PublicKey{signer.Public().(ed25519.PublicKey)}, Identities: []age.Identity{key}}
		if encrypted {
			cfg.Recipients = []age.Recipient{key.Recipient()}
		}
		service := serviceIn(t, dir, cfg)
		b, err := service.Backup(t.Context(), amber.BackupRequest{DataStore: "orders", From: from.Options()})
		if err != nil {
			t.Fatal(err)
		}
		broken := brokenSnapshot(mark)
		if _, err := service.Backup(t.Context(), amber.BackupRequest{DataStore: "broken", Snapshotter: broken}); !errors.Is(err, backup.ErrNotSound) || !strings.Contains(err.Error(), mark) {
			t.Fatalf("the backup of something broken: %v", err)
		}
		rep, err := service.Restore(t.Context(), amber.RestoreRequest{Backup: b.ID, To: to.Options(), Conflict: restore.Replace, TargetStore: "other"})
		if err != nil || rep.Safety == "" {
			t.Fatalf("Restore: %+v, %v", rep, err)
		}
		if diff := testserver.Diff(testserver.Snapshot(t, from.Client(t)), testserver.Snapshot(t, to.Client(t))); diff != "" {
			t.Error(diff)
		}
		if _, err := service.Verify(t.Context(), rep.Safety, nil); err != nil {
			t.Errorf("the safety backup: %v", err)
		}
		if !encrypted { // what shows that the search finds every spelling
			for i := range 3 {
				text := strings.Repeat("~", i) + mark + strings.Repeat("~", i)
				spelled := base64.StdEncoding.EncodeToString([]byte(text)) + fmt.Sprintf(" %x %X", text, text)
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("spelled-%d", i)), []byte(spelled), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		found, files := leaks(t, dir, mark, secondMark, strings.ReplaceAll(mark, "-", "_"))
		if encrypted && len(found) > 0 {
			t.Errorf("%d leaks: %s", len(found), strings.Join(found[:min(len(found), 10)], "\n"))
		}
		if !encrypted {
			all := strings.Join(found, "\n")
			for _, want := range []string{mark, secondMark, "decompressed", "manifest", "base64 after 0", "base64 after 1", "base64 after 2", "hexadecimal", "HEXADECIMAL"} {
				if !strings.Contains(all, want) {
					t.Errorf("without encryption nothing was found by %q: %d times\n%s", want, len(found), all)
				}
			}
		}
		if files < 8 {
			t.Errorf("only %d files were looked at", files)
		}
		if found, _ := leaks(t, dir, secrets...); len(found) > 0 {
			t.Errorf("secrets are in the store: %q", found)
		}
		if err := to.Client(t).FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if err := to.Client(t).FunctionFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		canaries(t, to.Client(t), secondMark)
	}
}

// brokenSnapshot is a snapshot that breaks off in a key whose name is given.
type brokenSnapshot string

func (s brokenSnapshot) Snapshot(context.Context) (backup.Snapshot, error) { return s, nil }
func (s brokenSnapshot) Source() catalog.Source                            { return catalog.Source{} }
func (s brokenSnapshot) Parts() []backup.Part                              { return []backup.Part{{Name: "dump.rdb", Size: -1}} }
func (s brokenSnapshot) Close() error                                      { return nil }
func (s brokenSnapshot) Open(context.Context, backup.Part) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader("REDIS0010\xfe\x00\x00" + string(rune(len(s))) + string(s) + "\xC9" + strings.Repeat("\x00", 100))), nil
}

// TestSealedRestore: a host without identities makes the backups, another with them restores these, by feed and by command; the first one
// proves what it can, and restores nothing.
func TestSealedRestore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one, two := newKey(t), newKey(t)
	_, signer, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	trust := []ed25519.PublicKey{signer.Public().(ed25519.PublicKey)}
	from := testserver.Start(t, "valkey-9.1")
	testserver.Generate(t, from.Client(t), 500, 11)
	want := testserver.Snapshot(t, from.Client(t))
	host := serviceIn(t, dir, amber.Config{Recipients: []age.Recipient{one.Recipient(), two.Recipient()}, Signer: signer, Trust: trust, Level: seal.Better})
	older, err := host.Backup(t.Context(), amber.BackupRequest{DataStore: "orders", From: from.Options(), Recipients: []age.Recipient{two.Recipient()}})
	if err != nil || len(older.Recipients) != 1 {
		t.Fatalf("for one recipient: %+v, %v", older, err)
	}
	b, err := host.Backup(t.Context(), amber.BackupRequest{DataStore: "orders", From: from.Options()})
	if err != nil || len(b.Recipients) != 2 {
		t.Fatalf("for two recipients: %+v, %v", b, err)
	}
	if v, err := host.Verify(t.Context(), b.ID, nil); err != nil || !v.Sealed {
		t.Errorf("without identity: %+v, %v", v, err)
	}

	target := testserver.Start(t, "valkey-9.1")
	testserver.Generate(t, target.Client(t), 20, 12)
	held := testserver.Snapshot(t, target.Client(t))
	untouched := func(what string) {
		t.Helper()
		if diff := testserver.Diff(held, testserver.Snapshot(t, target.Client(t))); diff != "" {
			t.Errorf("%s: the target was touched: %s", what, diff)
		}
		if role, err := target.Client(t).Do(t.Context(), "ROLE").Slice(); err != nil || role[0] != "master" {
			t.Errorf("%s: the target's role is %v, %v", what, role, err)
		}
	}
	into := func(method amber.Method) amber.RestoreRequest {
		return amber.RestoreRequest{Backup: b.ID, To: target.Options(), Method: method, Conflict: restore.Replace, NoSafetyBackup: true}
	}
	methods := []amber.Method{amber.MethodFeed, amber.MethodCommand}
	for _, method := range methods {
		if _, err := host.Restore(t.Context(), into(method)); !errors.Is(err, seal.ErrNoIdentity) || !strings.Contains(err.Error(), two.Recipient().String()) {
			t.Errorf("%s, without identity: %v", method, err)
		}
		stranger := serviceIn(t, dir, amber.Config{Identities: []age.Identity{newKey(t)}})
		if _, err := stranger.Restore(t.Context(), into(method)); !errors.Is(err, seal.ErrNoIdentity) {
			t.Errorf("%s, another identity: %v", method, err)
		}
		untouched(string(method) + ", no identity")
		suspicious := serviceIn(t, dir, amber.Config{Identities: []age.Identity{one}, Trust: []ed25519.PublicKey{make([]byte, 32)}})
		if _, err := suspicious.Restore(t.Context(), into(method)); !errors.Is(err, catalog.ErrNotTrusted) || !errors.Is(err, restore.ErrNotVerified) {
			t.Errorf("%s, another's signature: %v", method, err)
		}
		untouched(string(method) + ", another's signature")
	}
	// Who lacks the identity for the newest backup doesn't get an older one in its place.
	empty := testserver.Start(t, "valkey-9.1")
	stranger := serviceIn(t, dir, amber.Config{Identities: []age.Identity{newKey(t)}})
	if _, err := stranger.RestoreLatest(t.Context(), "orders", amber.RestoreRequest{To: empty.Options()}); !errors.Is(err, seal.ErrNoIdentity) || errors.Is(err, amber.ErrNoBackup) {
		t.Errorf("the latest, another identity: %v", err)
	}

	part := filepath.Join(dir, filepath.FromSlash(b.Parts[0].Key))
	good, err := os.ReadFile(part)
	if err != nil {
		t.Fatal(err)
	}
	opener := serviceIn(t, dir, amber.Config{Identities: []age.Identity{one}, Trust: trust})
	for _, at := range []int{30, 150, len(good) / 2, len(good) - 1} {
		changed := bytes.Clone(good)
		changed[at] ^= 1
		if err := os.WriteFile(part, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, method := range methods {
			if _, err := opener.Restore(t.Context(), into(method)); !errors.Is(err, restore.ErrNotVerified) || errors.Is(err, seal.ErrNoIdentity) {
				t.Errorf("%s, byte %d changed: %v", method, at, err)
			}
		}
		untouched(fmt.Sprintf("byte %d changed", at))
	}
	if err := os.WriteFile(part, good, 0o600); err != nil {
		t.Fatal(err)
	}
	// The safety backup isn't less sealed than what takes the data's place.
	q := into(amber.MethodFeed)
	q.NoSafetyBackup = false
	if _, err := opener.Restore(t.Context(), q); err == nil || !strings.Contains(err.Error(), "Config.Recipients") {
		t.Errorf("a safety backup for nobody: %v", err)
	}
	untouched("a safety backup for nobody")
	for _, id := range []age.Identity{one, two} {
		opener := serviceIn(t, dir, amber.Config{Identities: []age.Identity{id}, Trust: trust})
		for _, method := range methods {
			if _, err := opener.Restore(t.Context(), into(method)); err != nil {
				t.Errorf("%s: %v", method, err)
				continue
			}
			if diff := testserver.Diff(want, testserver.Snapshot(t, target.Client(t))); diff != "" {
				t.Errorf("%s: %s", method, diff)
			}
		}
	}
	if rep, err := opener.RestoreLatest(t.Context(), "orders", amber.RestoreRequest{To: empty.Options(), Select: restore.Selection{Match: "*"}}); err != nil || rep.Backup != b.ID {
		t.Errorf("the latest: %+v, %v", rep, err)
	}
	if diff := testserver.Diff(want, testserver.Snapshot(t, empty.Client(t))); diff != "" {
		t.Errorf("the latest: %s", diff)
	}
}
