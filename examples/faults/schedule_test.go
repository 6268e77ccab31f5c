//go:build unix

package faults

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/chaos"
	"github.com/amberkv/amber/internal/testserver"
	"github.com/amberkv/amber/internal/teststore"
	"github.com/amberkv/amber/schedule"
	"github.com/amberkv/amber/schedule/journaltest"
	"github.com/amberkv/amber/schedule/storejournal"
	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/blobstore/s3store"
)

// childStore tells a process of these tests which store to use: the server's URL, the bucket and the prefix.
const childStore = "FAULTS_CHILD_STORE"

func TestMain(m *testing.M) {
	if chaos.IsScheduler() {
		if err := schedules(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	if err := testserver.MoreAtOnce(8); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func schedules() error {
	var url, bucket, prefix string
	if _, err := fmt.Sscan(os.Getenv(childStore), &url, &bucket, &prefix); err != nil {
		return err
	}
	ctx := context.Background()
	s, err := s3store.New(ctx, config(url, bucket, prefix))
	if err != nil {
		return err
	}
	defer s.Close()
	return chaos.RunScheduler(ctx, s)
}

// TestSchedulersInS3: as in a directory, with schedulers that share a bucket.
func TestSchedulersInS3(t *testing.T) {
	t.Parallel()
	s := teststore.StartS3(t)
	bucket := s.Bucket("schedules")
	campaign := func(t *testing.T, c chaos.ScheduleCampaign) chaos.ScheduleCount {
		prefix := fmt.Sprint("with-", c.Processes, "-for-", c.For)
		store, err := s3store.New(t.Context(), config(s.URL, bucket, prefix))
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		c.Store = store
		c.Process = func() *exec.Cmd {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), childStore+"="+strings.Join([]string{s.URL, bucket, prefix}, " "))
			return cmd
		}
		n := c.Run(t)
		t.Log(n)
		for _, why := range n.Violations {
			t.Error(why)
		}
		return n
	}
	if !whole() {
		// How much comes of it in a time is for the machine to say.
		for long := 3 * time.Second; ; long *= 2 {
			n := campaign(t, chaos.ScheduleCampaign{Processes: 2, Policies: 3, For: long, Dawdle: 20 * time.Millisecond, Harm: long / 3})
			if n.Due >= 2 && n.Ready > 0 {
				return
			}
			if long > 30*time.Second {
				t.Fatal("nothing was tried")
			}
		}
	}
	for _, processes := range []int{2, 5, 8} {
		t.Run(fmt.Sprint(processes), func(t *testing.T) {
			n := campaign(t, chaos.ScheduleCampaign{Processes: processes, Policies: 16, For: 130 * time.Second, Dawdle: 400 * time.Millisecond, Harm: 700 * time.Millisecond})
			if n.Due < 25 || n.Kills < 10 || n.Pauses < 10 || n.Done < 12 || n.TakenOver == 0 {
				t.Error("the campaign has shown too little")
			}
		})
	}
}

// TestJournalInS3: a journal in a bucket keeps its contract.
func TestJournalInS3(t *testing.T) {
	t.Parallel()
	s := teststore.StartS3(t)
	open := opener(s, s.Bucket("journals"))
	stores := map[schedule.Journal]storage.Store{}
	journal := func(t *testing.T, s storage.Store) schedule.Journal {
		j, err := storejournal.New(storejournal.Config{Store: s})
		if err != nil {
			t.Fatal(err)
		}
		stores[j] = s
		return j
	}
	journaltest.Run(t, func(t *testing.T) schedule.Journal {
		s, remove := open(t)
		t.Cleanup(remove)
		return journal(t, s)
	}, &journaltest.Options{Another: func(t *testing.T, j schedule.Journal) schedule.Journal { return journal(t, stores[j]) }})
}
