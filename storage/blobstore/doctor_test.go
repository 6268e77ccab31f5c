package blobstore_test

import (
	"testing"

	"gocloud.dev/blob/fileblob"

	"github.com/amberkv/amber/storage"
	"github.com/amberkv/amber/storage/blobstore"
)

// TestDoctor: fileblob takes an exclusive create and isn't exclusive, which is found if a host says that it is, and a warning if not.
func TestDoctor(t *testing.T) {
	for _, claimed := range []bool{false, true} {
		bucket, err := fileblob.OpenBucket(t.TempDir(), &fileblob.Options{Metadata: fileblob.MetadataDontWrite})
		if err != nil {
			t.Fatal(err)
		}
		s := open(t, bucket, &blobstore.Options{Exclusive: claimed})
		lost := false
		for range 300 { // between its look and its rename there is little time, so most races have one winner
			d := storage.Doctor(t.Context(), s, &storage.DoctorOptions{LargeSize: 64 << 10})
			for _, f := range d.Findings {
				switch {
				case !claimed && f.Check == "exclusive create":
					if f.Result != "warn" {
						t.Errorf("%+v", f)
					}
				case claimed && f.Check == "exclusive race":
					lost = lost || f.Result == "fail"
				case f.Result != "ok":
					t.Errorf("exclusive %v: %+v", claimed, f)
				}
			}
			if !claimed || lost {
				break
			}
		}
		if claimed && !lost {
			t.Error("fileblob was never found not to be exclusive")
		}
	}
}
