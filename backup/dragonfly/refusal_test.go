package dragonfly_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/backup/dragonfly"
	"github.com/amberkv/amber/internal/dflymaster"
	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/internal/testserver"
)

// TestNew refuses what can't be.
func TestNew(t *testing.T) {
	o := &redis.Options{Addr: "127.0.0.1:1"}
	for want, cfg := range map[string]dragonfly.Config{
		"dragonfly: Config.Options is required: use the options of a redis.Client, or redis.ParseURL": {},
		"dragonfly: a timeout of Config is negative":                                                  {Options: o, StallTimeout: -1},
		"dragonfly: Config.SpoolLimit is negative: -1":                                                {Options: o, SpoolLimit: -1},
	} {
		if _, err := dragonfly.New(cfg); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// answers makes a master answer a command, which begins with words, in another way.
func answers(words, answer string) func(*dflymaster.Config) {
	return func(cfg *dflymaster.Config) {
		cfg.Answer = func(args []string) []byte {
			if strings.HasPrefix(strings.Join(args, " "), words) {
				return []byte(answer)
			}
			return nil
		}
	}
}

// TestRefused has servers that can't be the source, and errors that say so, in text and kind.
func TestRefused(t *testing.T) {
	goroutines(t)
	capa := func(elements ...string) func(*dflymaster.Config) {
		return answers("REPLCONF capa dragonfly", fmt.Sprintf("*%d\r\n%s\r\n", len(elements), strings.Join(elements, "\r\n")))
	}
	id := "+" + recordedID
	for name, test := range map[string]struct {
		change func(*dflymaster.Config)
		kind   error
		want   string
	}{
		"replica":          {func(c *dflymaster.Config) { c.Replica = true }, backup.ErrUnsupported, "take the snapshot from its primary, 10.1.2.3:6379"},
		"loading":          {func(c *dflymaster.Config) { c.Loading = true }, backup.ErrTransient, "try again when it is done"},
		"loading later":    {answers("DFLY FLOW", "-LOADING Dragonfly is loading the dataset in memory\r\n"), backup.ErrTransient, "DFLY FLOW"},
		"no dragonfly":     {answers("INFO", "$22\r\nredis_version:7.0.15\r\n\r\n"), backup.ErrUnsupported, "this is no Dragonfly but redis 7.0.15"},
		"plain OK":         {answers("REPLCONF capa dragonfly", "+OK\r\n"), backup.ErrUnsupported, "backup/replica"},
		"no REPLCONF":      {answers("REPLCONF", "-ERR unknown command `REPLCONF`\r\n"), backup.ErrUnsupported, "use another snapshotter"},
		"no permission":    {answers("DFLY", "-NOPERM this user has no permissions to run the 'dfly' command\r\n"), backup.ErrPermission, "+info +replconf +dfly"},
		"two elements":     {capa(id, "+SYNC1"), resp.ErrProtocol, "3 to 5 elements"},
		"six elements":     {capa(id, "+SYNC1", ":2", ":5", id, id), resp.ErrProtocol, "3 to 5 elements"},
		"short ID":         {capa("+abc", "+SYNC1", ":2"), resp.ErrProtocol, "replication ID"},
		"no session":       {capa(id, "+GO", ":2"), resp.ErrProtocol, "no session"},
		"no shards":        {capa(id, "+SYNC1", ":0"), resp.ErrProtocol, "tells 0 shards"},
		"too many shards":  {capa(id, "+SYNC1", ":1025"), resp.ErrProtocol, "tells 1025 shards"},
		"text for shards":  {capa(id, "+SYNC1", "+2"), resp.ErrProtocol, "shards"},
		"negative version": {capa(id, "+SYNC1", ":2", ":-1"), resp.ErrProtocol, "version"},
		"another ID":       {capa(id, "+SYNC1", ":2", ":5", id), nil, "replication ID changed"},
		"partial":          {answers("DFLY FLOW", "*2\r\n+PARTIAL\r\n+"+recordedID+"\r\n"), resp.ErrProtocol, "PARTIAL"},
		"short token":      {answers("DFLY FLOW", "*2\r\n+FULL\r\n+abc\r\n"), resp.ErrProtocol, "token"},
		"no array":         {answers("DFLY FLOW", "+OK\r\n"), resp.ErrProtocol, "token"},
		"session is gone":  {answers("DFLY SYNC", "-ERR syncid not found\r\n"), nil, "ended the synchronisation"},
		"invalid state":    {answers("DFLY SYNC", "-ERR invalid state\r\n"), nil, "invalid state"},
		"odd answer":       {answers("DFLY SYNC", ":1\r\n"), resp.ErrProtocol, "not OK"},
		"hangs up":         {answers("DFLY FLOW", ""), nil, "the server closed the connection"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := dflymaster.Config{Flows: dflymaster.Keys(2, 2)}
			test.change(&cfg)
			m := dflymaster.Start(t, cfg)
			_, _, err := take(t, snapshotter(t, m, nil))
			var e *backup.SourceError
			if !errors.As(err, &e) || e.Addr != m.Addr() || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want a *SourceError of %s with %q", err, m.Addr(), test.want)
			}
			if test.kind != nil && !errors.Is(err, test.kind) {
				t.Errorf("%v is not of the kind %v", err, test.kind)
			}
			gone(t, m)
		})
	}
}

// TestOtherServers are no Dragonflies.
func TestOtherServers(t *testing.T) {
	for _, version := range []string{"redis-7.0", "valkey-8.1"} {
		s, err := dragonfly.New(dragonfly.Config{Options: testserver.Start(t, version).Options()})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Snapshot(t.Context()); !errors.Is(err, backup.ErrUnsupported) || !strings.Contains(err.Error(), "backup/replica") {
			t.Errorf("%s: %v", version, err)
		}
	}
}

// TestWithoutInfo takes a snapshot where INFO isn't allowed.
func TestWithoutInfo(t *testing.T) {
	cfg := dflymaster.Config{Flows: dflymaster.Keys(2, 2)}
	answers("INFO", "-NOPERM this user has no permissions to run the 'info' command\r\n")(&cfg)
	m := dflymaster.Start(t, cfg)
	sn, _ := mustTake(t, snapshotter(t, m, nil))
	if src := sn.Source(); src.Engine != "dragonfly" || src.Version != "" || src.ReplicationID != m.ID() {
		t.Errorf("%+v", src)
	}
}

// TestVersions tells each master the newest version of the protocol that both know, and one that doesn't know of versions none.
func TestVersions(t *testing.T) {
	for version, want := range map[int]string{1: "1", 2: "2", 3: "3", 4: "4", 5: "5", 6: "5", 99: "5"} {
		m := dflymaster.Start(t, dflymaster.Config{Version: version, Elements: 4 + version%2})
		mustTake(t, snapshotter(t, m, nil))
		if said := m.Commands(); !slices.Contains(said, "REPLCONF CLIENT-VERSION "+want) {
			t.Errorf("version %d: %q", version, said)
		}
	}
	m := dflymaster.Start(t, dflymaster.Config{Elements: 3})
	mustTake(t, snapshotter(t, m, nil))
	if said := strings.Join(m.Commands(), "\n"); strings.Contains(said, "CLIENT-VERSION") || strings.Count(said, "capa dragonfly") != 1 {
		t.Errorf("a master without versions was told %s", said)
	}
}

// TestAuthenticated gives the password on every connection: also one with spaces, by a user, over TLS.
func TestAuthenticated(t *testing.T) {
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.StartTLS() // for its certificate
	defer server.Close()
	secure := server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	secure.ServerName = "example.com"
	for name, cfg := range map[string]dflymaster.Config{
		"password": {Password: canary},
		"user":     {Password: canary, Username: "backup"},
		"TLS":      {Password: canary, TLS: server.TLS},
	} {
		t.Run(name, func(t *testing.T) {
			cfg.Flows = dflymaster.Keys(5, 10)
			m := dflymaster.Start(t, cfg)
			_, parts := mustTake(t, snapshotter(t, m, func(c *dragonfly.Config) {
				if cfg.TLS != nil {
					c.Options.TLSConfig = secure
				}
			}))
			if len(parts) != 6 {
				t.Errorf("%d parts", len(parts))
			}
			auths := 0
			for _, c := range m.Commands() {
				if strings.HasPrefix(c, "AUTH") {
					auths++
				}
			}
			if auths != 6 {
				t.Errorf("AUTH was said %d times on 6 connections", auths)
			}
			if cfg.TLS == nil {
				return
			}
			if _, _, err := take(t, snapshotter(t, m, nil)); err == nil || strings.Contains(err.Error(), canary) {
				t.Errorf("without TLS: %v", err)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		m := dflymaster.Start(t, dflymaster.Config{Password: canary})
		_, _, err := take(t, snapshotter(t, m, func(c *dragonfly.Config) { c.Options.Password = "" }))
		if !errors.Is(err, backup.ErrAuth) {
			t.Errorf("%v", err)
		}
	})
	t.Run("changed meanwhile", func(t *testing.T) {
		cfg := dflymaster.Config{Flows: dflymaster.Keys(5, 10), Password: canary}
		said := make(chan struct{}, 100)
		cfg.Answer = func(args []string) []byte {
			if args[0] == "AUTH" {
				said <- struct{}{}
				if len(said) > 1 {
					return []byte("-WRONGPASS invalid username-password pair or user is disabled.\r\n")
				}
			}
			return nil
		}
		m := dflymaster.Start(t, cfg)
		if _, _, err := take(t, snapshotter(t, m, nil)); !errors.Is(err, backup.ErrAuth) || strings.Contains(err.Error(), canary) {
			t.Errorf("%v", err)
		}
		gone(t, m)
	})
}
