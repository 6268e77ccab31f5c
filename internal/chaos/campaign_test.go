package chaos

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/filestore"
	"github.com/amberkv/amber/storage/memstore"
)

// whole says whether everything is tried; else every call fails in one way, another one each day.
func whole() bool { return os.Getenv("CAMPAIGN") != "" }

// openDirectory opens a directory in memory, where there is such a file system: what a fault leaves doesn't depend on how long a disk takes.
func openDirectory(t testing.TB) (storage.Store, func()) {
	dir, err := os.MkdirTemp("/dev/shm", "amber-chaos-")
	if err != nil {
		dir = t.TempDir()
	}
	s, err := filestore.New(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s, func() {
		if err := errors.Join(s.Close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	}
}

// TestCampaignInMemory fails every second call, in one way each day; the whole campaign every one in every way.
func TestCampaignInMemory(t *testing.T) {
	t.Parallel()
	c := Campaign{Open: func(testing.TB) (storage.Store, func()) { return memstore.New(nil), func() {} }, Full: whole(), Turn: time.Now().YearDay()}
	if !c.Full {
		c.Every = 2
	}
	report(t, c.Run(t))
}

// TestCampaignInDirectory fails every seventh call, others each day; the whole campaign every one in every way.
func TestCampaignInDirectory(t *testing.T) {
	t.Parallel()
	c := Campaign{Open: openDirectory, Full: whole(), Turn: time.Now().YearDay() + 1}
	if !c.Full {
		c.Every = 7
	}
	report(t, c.Run(t))
}

func report(t *testing.T, n Count) {
	t.Helper()
	t.Logf("%d calls × %d kinds of fault: %d faults, %d operations failed, %d violations", n.Sites, n.Kinds, n.Injections, n.Failed, n.Violations)
	if n.Injections < 100 || n.Failed == 0 || n.Failed == n.Injections {
		t.Error("the campaign has shown nothing")
	}
}
