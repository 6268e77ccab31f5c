package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"syscall"
	"time"

	"github.com/amberkv/amber/backup/scan"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/redis/go-redis/v9"
)

// scan compares reading every key of a server: a snapshot key by key, with the RDB that comes of it, and the loop that one writes with go-redis, which throws away what it
// gets. Both run in this process, and nothing is stored.
func (b *bench) scan(ctx context.Context, s *source) error {
	small, err := b.prepare(ctx, fmt.Sprintf("%d strings of 32 bytes", b.keys), nil, func(s *testserver.Server) error {
		c := redis.NewClient(s.Options())
		defer c.Close()
		return c.Do(ctx, "DEBUG", "POPULATE", b.keys, "key", 32).Err()
	})
	if err != nil {
		return err
	}
	defer small.server.Close()
	var rows []comparison
	costs := ""
	for _, set := range []struct {
		name   string
		server *testserver.Server
	}{{"mixed values", s.server}, {"strings of 32 bytes", small.server}} {
		c := comparison{name: fmt.Sprintf("every key of %d read, with its expiry: %s", b.keys, set.name), amber: "backup/scan", peer: "go-redis: SCAN COUNT 1000, pipeline of 1000 × (PEXPIRETIME, DUMP)",
			wanted: "≥ 1.5", faster: true}
		var spent [2][]readCost
		for i := range b.runs {
			var pair [2]readCost
			for k, read := range []func(context.Context, *testserver.Server) (int64, error){scanKeys, loopKeys} {
				if pair[k], err = readOnce(ctx, set.server, int64(b.keys), read); err != nil {
					return err
				}
				spent[k] = append(spent[k], pair[k])
			}
			c.pairs = append(c.pairs, [2]time.Duration{pair[0].wall, pair[1].wall})
			b.say("scan %d, %s: %.2f s, go-redis %.2f s", i+1, set.name, pair[0].wall.Seconds(), pair[1].wall.Seconds())
		}
		rows = append(rows, c)
		for k, who := range []string{"backup/scan", "go-redis"} {
			var wall, client, server []time.Duration
			for _, r := range spent[k] {
				wall, client, server = append(wall, r.wall), append(client, r.client), append(server, r.server)
			}
			perKey := func(d []time.Duration) float64 { return float64(median(d).Nanoseconds()) / 1e3 / float64(b.keys) }
			costs += fmt.Sprintf("| %s, %s | %.0f | %.2f | %.2f |\n", set.name, who, float64(b.keys)/median(wall).Seconds(), perKey(client), perKey(server))
		}
	}
	b.table(rows...)
	fmt.Fprintf(b.out, "| | keys a second | CPU of the client, µs a key | CPU of the server, µs a key |\n|---|---|---|---|\n%s\n"+
		"In the client's CPU of backup/scan is also making the RDB and checking each checksum of DUMP; it reads a key's value and expiry in one transaction, and strings with MGET.\n\n", costs)
	return nil
}

type readCost struct{ wall, client, server time.Duration }

// readOnce measures one way to read all keys, of which there have to be as many as that.
func readOnce(ctx context.Context, s *testserver.Server, keys int64, read func(context.Context, *testserver.Server) (int64, error)) (readCost, error) {
	before, err := serverCPU(ctx, s)
	if err != nil {
		return readCost{}, err
	}
	start, own := time.Now(), ownCPU()
	n, err := read(ctx, s)
	c := readCost{wall: time.Since(start), client: ownCPU() - own}
	if err == nil && n != keys {
		err = fmt.Errorf("%d keys were read of %d", n, keys)
	}
	if err != nil {
		return readCost{}, err
	}
	after, err := serverCPU(ctx, s)
	c.server = after - before
	return c, err
}

// scanKeys reads all keys by a snapshot.
func scanKeys(ctx context.Context, s *testserver.Server) (keys int64, err error) {
	sr, err := scan.New(scan.Config{Options: s.Options()})
	if err != nil {
		return 0, err
	}
	sn, err := sr.Snapshot(ctx)
	if err != nil {
		return 0, err
	}
	defer sn.Close()
	r, err := sn.Open(ctx, sn.Parts()[0])
	if err != nil {
		return 0, err
	}
	defer r.Close()
	if _, err := io.Copy(io.Discard, r); err != nil {
		return 0, err
	}
	return sn.Source().Scan.Listed, nil
}

// loopKeys reads all keys by go-redis.
func loopKeys(ctx context.Context, s *testserver.Server) (keys int64, err error) {
	opts := s.Options()
	opts.ReadTimeout = time.Minute
	c := redis.NewClient(opts)
	defer c.Close()
	var cursor uint64
	for {
		names, next, err := c.Scan(ctx, cursor, "", 1000).Result()
		if err != nil {
			return 0, err
		}
		p := c.Pipeline()
		for _, name := range names {
			p.PExpireTime(ctx, name)
			p.Dump(ctx, name)
		}
		if _, err := p.Exec(ctx); err != nil {
			return 0, err
		}
		keys += int64(len(names))
		if cursor = next; cursor == 0 {
			return keys, nil
		}
	}
}

func ownCPU() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// serverCPU returns how much time of the processor a server has taken.
func serverCPU(ctx context.Context, s *testserver.Server) (time.Duration, error) {
	c := redis.NewClient(s.Options())
	defer c.Close()
	info, err := c.InfoMap(ctx, "cpu").Result()
	if err != nil {
		return 0, err
	}
	var total float64
	for _, field := range []string{"used_cpu_user", "used_cpu_sys"} {
		seconds, err := strconv.ParseFloat(info["CPU"][field], 64)
		if err != nil {
			return 0, err
		}
		total += seconds
	}
	return time.Duration(total * float64(time.Second)), nil
}
