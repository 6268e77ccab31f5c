package s3store_test

import (
	"strings"
	"testing"
	"time"

	"github.com/amberkv/amber/internal/teststore"
	"github.com/amberkv/amber/storage"
)

// TestDoctor: a real server is well, and a clock that is off is found by the server's own.
func TestDoctor(t *testing.T) {
	server := teststore.StartS3(t)
	s := open(t, config(server, server.Bucket("doctor")))
	d := storage.Doctor(t.Context(), s, nil)
	for _, f := range d.Findings {
		if f.Result != "ok" {
			t.Errorf("%s: %+v", f.Check, f)
		}
	}
	if !d.OK || len(d.Facts) == 0 {
		t.Errorf("the doctor finds %+v", d)
	}
	for skew, want := range map[time.Duration]string{time.Hour: "behind", -time.Hour: "ahead"} {
		d := storage.Doctor(t.Context(), s, &storage.DoctorOptions{LargeSize: 1 << 20, Now: func() time.Time { return time.Now().Add(skew) }})
		for _, f := range d.Findings {
			if (f.Result == "fail") != (f.Check == "clock") {
				t.Errorf("a clock that is %v off: %+v", skew, f)
			}
			if f.Check == "clock" && (!strings.Contains(f.Seen, want) || !strings.Contains(f.Advice, "NTP")) {
				t.Errorf("a clock that is %v off: %+v", skew, f)
			}
		}
	}
	for info, err := range s.List(t.Context(), "") {
		t.Errorf("left: %v, %v", info, err)
	}
}
