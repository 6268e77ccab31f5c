package feed

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/restore"
	"github.com/redis/go-redis/v9"
)

func TestTargetWithReplica(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			img := sample(t, version, 60)
			s := testserver.Start(t, version)
			replica := testserver.StartReplica(t, version, s)
			report, err := loader(t, s, nil).Load(t.Context(), img, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range report.Warnings {
				t.Errorf("warning: %s", w) // such as that the replica isn't back
			}
			holds(t, s, img)
			testserver.Eventually(t, 20*time.Second, "the replica has the new data", func() error {
				c := replica.Client(t)
				if link := info(t, c)["master_link_status"]; link != "up" {
					return errors.New("its link is " + link)
				}
				if diff := testserver.Diff(img.contents, testserver.Snapshot(t, c)); diff != "" {
					return errors.New(diff)
				}
				return nil
			})
		})
	}
}

func TestTargetIsReplica(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			img := sample(t, version, 60)
			primary := testserver.Start(t, version, "--requirepass", "pw")
			testserver.Generate(t, primary.Client(t), 60, 3)
			s := testserver.StartReplica(t, version, primary)
			c := s.Client(t)
			l := loader(t, s, nil)
			refuses(t, l, s, img, "role", nil)
			contents := testserver.Snapshot(t, c)

			before := state(t, c)
			_, err := l.Load(t.Context(), broken{img, len(img.data) / 2, errStore}, replace)
			partialError(t, err, restore.TargetUnchanged)
			sameState(t, before, state(t, c))
			testserver.Eventually(t, 20*time.Second, "it is a replica again", func() error {
				if link := info(t, c)["master_link_status"]; link != "up" {
					return errors.New("its link is " + link)
				}
				return nil
			})
			if diff := testserver.Diff(contents, testserver.Snapshot(t, c)); diff != "" {
				t.Error(diff)
			}

			report, err := l.Load(t.Context(), img, replace)
			if err != nil {
				t.Fatal(err)
			}
			holds(t, s, img)
			if !strings.Contains(strings.Join(report.Warnings, "\n"), "was a replica of "+primary.Addr) {
				t.Errorf("nobody is told that it was a replica: %q", report.Warnings)
			}
			if got := state(t, c); got["role"] != "master" || got[setPassword] != "pw" {
				t.Errorf("the target is left with %v", got)
			}
		})
	}
}

func TestTLS(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			img := sample(t, version, 60)
			s := testserver.StartTLS(t, version, "--tls-replication", "yes")
			refuses(t, loader(t, s, nil), s, img, "tls", nil)

			// A certificate that the target's CA knows nothing of.
			foreign := testserver.StartTLS(t, version)
			for contact := 500 * time.Millisecond; ; contact *= 4 { // how long the target takes to come is for the machine to say
				_, err := loader(t, s, func(c *Config) { c.TLS, c.Contact = foreign.TLS.Listener, contact }).Load(t.Context(), img, nil)
				partialError(t, err, restore.TargetEmpty)
				if strings.Contains(err.Error(), "certificate") {
					break
				}
				if contact > 10*time.Second {
					t.Fatalf("the error doesn't tell of the certificate: %v", err)
				}
			}

			if _, err := loader(t, s, func(c *Config) { c.TLS = s.TLS.Listener }).Load(t.Context(), img, nil); err != nil {
				t.Fatal(err)
			}
			holds(t, s, img)

			plain := testserver.Start(t, version)
			refuses(t, loader(t, plain, func(c *Config) { c.TLS = s.TLS.Listener }), plain, img, "tls", nil)
		})
	}
}

func TestRights(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			img := sample(t, version, 60)
			s := testserver.Start(t, version)
			c := s.Client(t)
			as := func(name string, rules ...string) *Loader {
				s.AddUser(t, name, "pw", rules...)
				return loader(t, s, func(c *Config) { c.Options.Username, c.Options.Password = name, "pw" })
			}
			for name, rules := range map[string][]string{"nofollow": {"+@all", "-replicaof", "-slaveof"}, "noinfo": {"+@all", "-info"}} {
				point := map[string]string{"nofollow": "rights", "noinfo": "reachable"}[name]
				l := as(name, rules...)
				refuses(t, l, s, img, point, nil)
				if _, err := l.Load(t.Context(), img, nil); !strings.Contains(err.Error(), "ACL SETUSER") || !strings.Contains(err.Error(), "+replicaof") {
					t.Errorf("the error doesn't tell which right is missing: %v", err)
				}
			}
			before := state(t, c)
			for name, rules := range map[string][]string{
				"noset":  {"+@all", "-config", "+config|get"},
				"noget":  {"+@all", "-config", "+config|set"},
				"least":  {"+info", "+replicaof"},
				"enough": {"+info", "+replicaof", "+config|get", "+config|set"},
			} {
				l := as(name, rules...)
				v, err := l.Check(t.Context(), restore.Requirements{Backup: img.backup, Options: replace})
				if err != nil {
					t.Fatal(err)
				}
				told := "ACL SETUSER " + name
				if name == "enough" {
					told = "may be changed"
				}
				if p := verdictPoint(v, "settings"); p.Level != restore.Pass || !strings.Contains(p.Detail, told) {
					t.Errorf("user %s: the point is %+v, it has to say %q", name, p, told)
				}
				if err := c.FlushAll(t.Context()).Err(); err != nil {
					t.Fatal(err)
				}
				if err := c.FunctionFlush(t.Context()).Err(); err != nil {
					t.Fatal(err)
				}
				// Nobody can tell that one whether there is a database 15.
				var accept *restore.Options
				if name == "least" {
					if _, err := l.Load(t.Context(), img, nil); !errors.Is(err, restore.ErrNotAccepted) {
						t.Errorf("user %s: %v", name, err)
					}
					accept = &restore.Options{Accept: []string{"databases"}}
				}
				if _, err := l.Load(t.Context(), img, accept); err != nil {
					t.Fatalf("user %s: %v", name, err)
				}
				holds(t, s, img)
				sameState(t, before, state(t, c))
			}
		})
	}
}

// What the target can't take is refused before it is touched.
func TestRefuses(t *testing.T) {
	for _, version := range testserver.All() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			img := sample(t, version, 60)
			changed := func(change func(b *catalog.Backup)) *image {
				b, i := *img.backup, *img
				change(&b)
				i.backup = &b
				return &i
			}
			s := testserver.Start(t, version)
			c := s.Client(t)
			l := loader(t, s, nil)
			refuses(t, l, s, changed(func(b *catalog.Backup) { b.Parts = append(b.Parts, b.Parts[0]) }), "parts", nil)
			refuses(t, l, s, changed(func(b *catalog.Backup) { b.Parts = nil }), "parts", nil)
			refuses(t, l, s, changed(func(b *catalog.Backup) { b.Modules = []catalog.Module{{Name: "ReJSON-RL", Keys: 1}} }), "modules", nil)
			refuses(t, l, s, changed(func(b *catalog.Backup) { b.DBs = append(b.DBs, catalog.DB{Index: 16, Keys: 1}) }), "databases", nil)
			refuses(t, l, s, changed(func(b *catalog.Backup) { b.Parts = []catalog.Part{{Dialect: "redis:77", RawSize: 1}} }), "rdb-version", nil)
			if version == "redis-8.0" {
				for _, newer := range []string{"8.0.6", ""} {
					refuses(t, l, s, changed(func(b *catalog.Backup) {
						b.Modules, b.Source.Version = []catalog.Module{{Name: "vectorset", Keys: 1}}, newer
					}), "modules", nil)
				}
			}
			set(t, c, "maxmemory", "100000000", "maxmemory-policy", "allkeys-lru")
			refuses(t, l, s, changed(func(b *catalog.Backup) { b.Source.UsedMemory = 200_000_000 }), "memory", nil)
			set(t, c, "maxmemory", "0")
			testserver.LoadFunction(t, c, "mine")
			refuses(t, l, s, img, "empty", nil) // functions are data, too
			if got := testserver.Functions(t, c); len(got) != 1 {
				t.Errorf("the target's functions are %v", got)
			}
			if _, err := l.Load(t.Context(), img, replace); err != nil {
				t.Fatal(err)
			}
			holds(t, s, img) // the target's own function is gone

			few := testserver.Start(t, version, "--databases", "1")
			refuses(t, loader(t, few, nil), few, img, "databases", nil)
			cluster := testserver.Start(t, version, "--cluster-enabled", "yes")
			refuses(t, loader(t, cluster, nil), cluster, img, "cluster", nil)
		})
	}
}

func TestUnreachable(t *testing.T) {
	img := sample(t, "redis-7.0", 60)
	s := testserver.Start(t, "redis-7.0", "--requirepass", "right")
	closed, err := testserver.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string]*redis.Options{
		"wrong password": {Addr: s.Addr, Password: "CANARY-wrong"},
		"no password":    {Addr: s.Addr},
		"wrong user":     {Addr: s.Addr, Username: "nobody", Password: "CANARY-wrong"},
		"nobody there":   {Addr: closed},
		"no TLS there":   {Addr: s.Addr, TLSConfig: &tls.Config{}, DialTimeout: 200 * time.Millisecond},
		"provider fails": {Addr: s.Addr, CredentialsProviderContext: func(context.Context) (string, string, error) { return "", "", errStore }},
	} {
		l, err := New(Config{Options: opts})
		if err != nil {
			t.Fatal(err)
		}
		v, err := l.Check(t.Context(), restore.Requirements{Backup: img.backup})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if p := verdictPoint(v, "reachable"); p.Level != restore.Fail {
			t.Errorf("%s: the verdict is %+v", name, v)
		}
		_, err = l.Load(t.Context(), img, nil)
		if !errors.Is(err, restore.ErrRefused) || strings.Contains(err.Error(), "CANARY") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The target can't get back to us: that is told, and it is left alone.
func TestNoWayBack(t *testing.T) {
	img := sample(t, "valkey-8.1", 60)
	s := testserver.Start(t, "valkey-8.1")
	closed, err := testserver.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	before := state(t, s.Client(t))
	_, err = loader(t, s, func(c *Config) { c.Advertise, c.Contact = closed, 300*time.Millisecond }).Load(t.Context(), img, nil)
	partialError(t, err, restore.TargetEmpty)
	if !strings.Contains(err.Error(), "Config.Advertise") || !strings.Contains(err.Error(), "firewall") {
		t.Errorf("the error doesn't tell what to do: %v", err)
	}
	sameState(t, before, state(t, s.Client(t)))
}

// Without Advertise and on all addresses, which is the default.
func TestDefaultAddresses(t *testing.T) {
	img := sample(t, "valkey-9.1", 60)
	s := testserver.Start(t, "valkey-9.1")
	if _, err := loader(t, s, func(c *Config) { c.Listen = "" }).Load(t.Context(), img, nil); err != nil {
		t.Fatal(err)
	}
	holds(t, s, img)
	// Through a tunnel our own address is not known.
	l := loader(t, s, func(c *Config) {
		c.Listen = ""
		c.Options.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			return tunnel{conn}, err
		}
	})
	_, err := l.Load(t.Context(), img, replace)
	var partial *restore.PartialError
	if err == nil || errors.As(err, &partial) || !strings.Contains(err.Error(), "Config.Advertise") {
		t.Errorf("through a tunnel the error is %v", err)
	}
}

type tunnel struct{ net.Conn }

func (tunnel) LocalAddr() net.Addr  { return &net.UnixAddr{Name: "tunnel", Net: "unix"} }
func (tunnel) RemoteAddr() net.Addr { return &net.UnixAddr{Name: "tunnel", Net: "unix"} }

// Neither logs nor errors nor reports tell a password: ours, the target's own for its clients, or that for its primary.
func TestSecretsAreNotTold(t *testing.T) {
	img := sample(t, "redis-8.0", 60)
	s := testserver.Start(t, "redis-8.0", "--requirepass", "CANARY-client", "--masterauth", "CANARY-primary", "--masteruser", "someone")
	c := s.Client(t)
	var told lockedBuffer
	secrets := []string{"CANARY"}
	opts := &restore.Options{Conflict: restore.Replace, Progress: func(p restore.Progress) {
		if p.Stage == restore.StageLoad && p.Bytes == 0 {
			secrets = append(secrets, state(t, c)[setPassword])
		}
	}}
	l := loader(t, s, func(c *Config) {
		c.Logger = slog.New(slog.NewTextHandler(&told, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	report, err := l.Load(t.Context(), img, opts)
	if err != nil {
		t.Fatal(err)
	}
	told.WriteString(strings.Join(report.Warnings, "\n"))
	_, err = l.Load(t.Context(), broken{img, len(img.data) / 2, errStore}, opts)
	told.WriteString(err.Error())
	l.cfg.Grace = 300 * time.Millisecond
	_, err = l.Load(t.Context(), img, &restore.Options{Conflict: restore.Replace, Progress: func(p restore.Progress) {
		if p.Stage == restore.StageLoad {
			s.Kill() // so that the settings are listed in the error
		}
	}})
	told.WriteString(err.Error())
	if len(secrets) < 3 {
		t.Fatalf("the one-time passwords were not seen: %q", secrets)
	}
	for _, secret := range secrets {
		if secret == "" || strings.Contains(told.String(), secret) {
			t.Errorf("the secret %q was told: %s", secret, told.String())
		}
	}
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) WriteString(s string) { b.Write([]byte(s)) }

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// A Sentinel is known by its connections. It would change the target's role during the restore.
func TestSentinelIsSeen(t *testing.T) {
	img := sample(t, "valkey-8.1", 60)
	s := testserver.Start(t, "valkey-8.1")
	watcher := s.Client(t).Conn()
	defer watcher.Close()
	if err := watcher.ClientSetName(t.Context(), "sentinel-12345678-pubsub").Err(); err != nil {
		t.Fatal(err)
	}
	if err := watcher.Do(t.Context(), "SUBSCRIBE", "__sentinel__:hello").Err(); err != nil {
		t.Fatal(err)
	}
	v, err := loader(t, s, nil).Check(t.Context(), restore.Requirements{Backup: img.backup})
	if err != nil {
		t.Fatal(err)
	}
	if p := verdictPoint(v, "sentinel"); p.Level != restore.Warn {
		t.Errorf("the verdict is %+v", v)
	}
}

// As on a managed service.
func TestCommandIsRenamed(t *testing.T) {
	for _, version := range testserver.All() {
		img := sample(t, version, 60)
		s := testserver.Start(t, version, "--rename-command", "REPLICAOF", "hidden")
		refuses(t, loader(t, s, nil), s, img, "rights", nil)
		s = testserver.Start(t, version, "--rename-command", "CONFIG", "hidden")
		if _, err := loader(t, s, nil).Load(t.Context(), img, nil); err != nil {
			t.Error(err)
		}
		holds(t, s, img)
	}
}
