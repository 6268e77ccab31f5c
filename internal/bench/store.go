package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/amberkv/amber/internal/teststore"
)

// getArg makes the program read objects by URL, one after the other, into nothing: the peer of reading a backup.
const getArg = "-get-child"

// store compares a bucket, of an S3 server on this machine, with a directory; and proving a backup in it with a plain GET of its objects.
func (b *bench) store(ctx context.Context, s *source) error {
	dir, err := os.MkdirTemp(b.dir, "s3-")
	if err != nil {
		return err
	}
	s3, err := teststore.LaunchS3(dir)
	if err != nil {
		return err
	}
	defer s3.Close()
	if err := s3.MakeBucket("bench"); err != nil {
		return err
	}
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": teststore.S3AccessKey, "AWS_SECRET_ACCESS_KEY": teststore.S3SecretKey, "AWS_REGION": teststore.S3Region} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	bucket := "s3://bench?endpoint=" + s3.URL
	const amber = "amberctl backup, s3://"
	backup := comparison{name: "backup into a bucket of an S3 server on the same machine", amber: amber, peer: "the same, file://", wanted: "≤ 1.15"}
	verify := comparison{name: "download and verify a backup: hashed, decompressed, parsed, counted", amber: "amberctl verify, s3://", peer: "plain GET of its objects", wanted: "≤ 1.43"}
	var peaks [2]int64
	var cpus [2][]time.Duration
	for i := range b.runs {
		took, out, err := measure(ctx, b.amberctl, "--store", bucket, "--json", "backup", "--from", s.server.URL(), "--id", "bench")
		if err != nil {
			return err
		}
		var made struct {
			ID    string
			Parts []struct{ Key string }
		}
		if err := json.Unmarshal(out, &made); err != nil || len(made.Parts) == 0 {
			return fmt.Errorf("amberctl backup --json wrote no parts: %w\n%s", err, tail(out))
		}
		store, _, peer, err := b.takeBackup(ctx, s.server)
		if err != nil {
			return err
		}
		if err := os.RemoveAll(strings.TrimPrefix(store, "file://")); err != nil {
			return err
		}
		backup.pairs = append(backup.pairs, [2]time.Duration{took.Wall, peer.Wall})
		proof, _, err := measure(ctx, b.amberctl, "--store", bucket, "--json", "verify", made.ID)
		if err != nil {
			return err
		}
		get := []string{getArg}
		for _, p := range made.Parts {
			get = append(get, s3.SignedURL(http.MethodGet, "bench", p.Key, time.Now(), time.Hour))
		}
		self, err := os.Executable()
		if err != nil {
			return err
		}
		plain, _, err := measure(ctx, self, get...)
		if err != nil {
			return err
		}
		verify.pairs = append(verify.pairs, [2]time.Duration{proof.Wall, plain.Wall})
		peaks = [2]int64{max(peaks[0], took.PeakRSS), max(peaks[1], proof.PeakRSS)}
		cpus[0], cpus[1] = append(cpus[0], took.CPU), append(cpus[1], peer.CPU)
		b.say("store %d: backup %.2f s, into a directory %.2f s; verify %.2f s, plain GET %.2f s", i+1, took.Wall.Seconds(), peer.Wall.Seconds(),
			proof.Wall.Seconds(), plain.Wall.Seconds())
		if err := os.RemoveAll(filepath.Join(s3.Objects("bench"), "bench")); err != nil {
			return err
		}
	}
	b.table(backup, verify)
	fmt.Fprintf(b.out, "CPU time of the client: %.2f s into the bucket, %.2f s into a directory. Peak memory %.1f MiB while backing up, %.1f MiB while verifying "+
		"(wanted ≤ 96).\n\n", median(cpus[0]).Seconds(), median(cpus[1]).Seconds(), mib(peaks[0]), mib(peaks[1]))
	return nil
}

// getChild is the child's side of a plain GET.
func getChild(urls []string) (err error) {
	for _, url := range urls {
		resp, err := http.Get(url)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
	}
	return nil
}
