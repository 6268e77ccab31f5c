package rdb_test

import (
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/amberkv/amber/rdb"
)

// Verify a file: its structure and its checksum.
func ExampleReader() {
	f, err := os.Open("testdata/redis-8.6.3/expires.rdb")
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	r := rdb.NewReader(f, nil)
	for {
		if _, err := r.Next(); err == io.EOF {
			break
		} else if err != nil {
			log.Fatal(err)
		}
	}
	s := r.Stats()
	fmt.Printf("%v, checksum %s: %d keys, %d with an expiry\n", r.Dialect(), s.Checksum, s.Keys, s.Expires)
	for _, db := range s.DBs {
		fmt.Printf("database %d: %d keys, %d of them strings\n", db.DB, db.Keys, db.Types[rdb.TypeString])
	}
	// Output:
	// redis:13, checksum crc64: 28 keys, 24 with an expiry
	// database 0: 7 keys, 3 of them strings
	// database 1: 7 keys, 3 of them strings
	// database 9: 7 keys, 3 of them strings
	// database 15: 7 keys, 3 of them strings
}

// List keys, and take the value of one for RESTORE.
func ExampleReader_Entries() {
	f, err := os.Open("testdata/handmade/hash_pre_ga_22.rdb")
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	r := rdb.NewReader(f, nil)
	for e, err := range r.Entries() {
		if err != nil {
			log.Fatal(err)
		}
		if e.Kind != rdb.KindKey {
			continue
		}
		fmt.Printf("db %d: %s %q\n", e.DB, e.Type, e.Key)
		if e.HasExpiry {
			fmt.Println("expires at", time.UnixMilli(e.ExpireAt).UTC())
		}
		if string(e.Key) == "h" {
			payload, err := r.AppendRaw(nil, 1<<20)
			if err != nil {
				log.Fatal(err)
			}
			fmt.Printf("RESTORE h 0 %.12q…\n", payload)
		}
	}
	// Output:
	// db 0: hash "h"
	// RESTORE h 0 "\x16\x03\x81\x00\x00\x03\xbb,\xc3\xd8\x05\x01"…
}

// Read a hash field by field, in memory that doesn't depend on its size.
func ExampleReader_Elements() {
	f, err := os.Open("testdata/redis-7.4/hash_field_ttl.rdb")
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	r := rdb.NewReader(f, nil)
	for e, err := range r.Entries() {
		if err != nil {
			log.Fatal(err)
		}
		if e.Type != rdb.TypeHash || string(e.Key) != "lp_some" {
			continue
		}
		for el, err := range r.Elements() {
			if err != nil {
				log.Fatal(err)
			}
			fmt.Printf("%s = %s, expires at %d\n", el.Field, el.Value, el.ExpireAt)
		}
	}
	// Output:
	// c = 3, expires at 4102444800111
	// a = 1, expires at 4102444800111
	// b = two, expires at 0
	// d = four, expires at 0
}

// Make a file of Redis 8 one that Redis 7.0 loads: the keys of one database, without what Redis 7.0 can't express.
func ExampleConvert() {
	f, err := os.Open("testdata/redis-7.4/hash_field_ttl.rdb")
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	w, err := rdb.NewWriter(io.Discard, rdb.Dialect{Family: rdb.Redis, Version: 10}, nil)
	if err != nil {
		log.Fatal(err)
	}
	report, err := rdb.Convert(w, rdb.NewReader(f, nil), &rdb.ConvertOptions{DBs: []int{0}, Policy: rdb.DropDetail})
	if err != nil {
		log.Fatal(err)
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%v to %v: %d keys\n", report.From, report.To, report.Keys)
	for _, l := range report.Losses {
		fmt.Printf("%s: lost by %d keys, the first is %s\n", l.Loss, l.Count, l.Keys[0])
	}
	// Output:
	// redis:12 to redis:10: 7 keys
	// field-expiry: lost by 6 keys, the first is 0/ht_some
}

// Prove that a server would load a file, and that nothing in it would trouble it later.
func ExampleCheck() {
	f, err := os.Open("testdata/redis-8.6.3/streams.rdb")
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	err = rdb.Check(rdb.NewReader(f, nil), &rdb.CheckOptions{
		Databases: 16,
		Spool:     func() (rdb.Spool, error) { return os.CreateTemp("", "rdb-check-") }, // used only for very many keys
	})
	fmt.Println(err)
	// Output: <nil>
}
