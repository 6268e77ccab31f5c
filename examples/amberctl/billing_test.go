package main

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/catalog"
)

// A backup is billed while it is there, also when it isn't any more; periods add up; and what a period is can be said in several ways.
func TestBilling(t *testing.T) {
	t.Parallel()
	c := newCtl(t)
	plain := writeFile(t, filepath.Join(t.TempDir(), "dump.rdb"), readFile(t, someRDB))
	gone := parse[catalog.Backup](t, c, exitDone, "import", "--id", "orders", plain)
	kept := parse[catalog.Backup](t, c, exitDone, "import", "--id", "carts", plain)
	time.Sleep(2 * time.Second)
	c.run(t, exitDone, "delete", string(gone.ID))
	year := time.Now().UTC()
	from, until := year.AddDate(0, 0, -1).Format(time.DateOnly), year.AddDate(0, 0, 2).Format(time.DateOnly)
	u := parse[amber.Usage](t, c, exitDone, "usage", "--from", from, "--until", until)
	if len(u.Rows) != 2 || u.Rows[0].DataStore != "carts" || u.Rows[0].Bytes != kept.StoredBytes || u.Rows[1].DataStore != "orders" || u.Rows[1].Bytes != 0 ||
		u.Rows[1].Kind != catalog.KindImport || u.Total.Backups != 1 || !strings.HasPrefix(u.Rows[1].GiBHours, "0.") {
		t.Errorf("%+v", u)
	}
	seconds := u.Rows[1].ByteSeconds.Big().Int64() / gone.StoredBytes
	if u.Rows[1].ByteSeconds.Big().Int64()%gone.StoredBytes != 0 || seconds < 1 || seconds > 600 {
		t.Errorf("%s byte-seconds of a backup of %d bytes that was there for about two seconds", u.Rows[1].ByteSeconds, gone.StoredBytes)
	}
	half := gone.ReadyAt.Add(time.Second).Format(time.RFC3339)
	first := parse[amber.Usage](t, c, exitDone, "usage", "--id", "orders", "--from", from, "--until", half)
	second := parse[amber.Usage](t, c, exitDone, "usage", "--id", "orders", "--from", half)
	if sum := first.Total.ByteSeconds.Plus(second.Total.ByteSeconds); sum.String() != u.Rows[1].ByteSeconds.String() {
		t.Errorf("until %s %s and since then %s, in all %s", half, first.Total.ByteSeconds, second.Total.ByteSeconds, u.Rows[1].ByteSeconds)
	}
	out, _ := c.run(t, exitDone, "usage", "--from", "2020-02", "--until", until)
	for _, want := range []string{`^2020-02-01 00:00:00 until .* \(UTC\)\n`, `(?m)^DATA STORE +KIND +BACKUPS +SIZE +GIB-HOURS$`, `(?m)^orders +import +0 +0 B +0\.\d{6}$`, `(?m)^TOTAL +- +1 `} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
	if u := parse[amber.Usage](t, c, exitDone, "usage", "--until", "2020-03"); u.From.Format(time.DateOnly) != "2020-02-01" || len(u.Rows) != 1 || u.Total.ByteSeconds.String() != "0" {
		t.Errorf("of a month long ago: %+v", u)
	}

	// A manifest that can't be read is an error, and the rest is told.
	writeFile(t, filepath.Join(c.store, kept.Prefix()+"manifest.json"), []byte("{}"))
	out, errs := c.run(t, exitFailed, "usage", "--json")
	if u := decode[amber.Usage](t, out); len(u.Rows) != 1 || !strings.Contains(errs, string(kept.ID)) || !strings.Contains(errs, "not complete") {
		t.Errorf("%+v\n%s", u, errs)
	}
}
