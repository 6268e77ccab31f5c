package jsonl_test

import (
	"log"
	"os"

	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/rdb/jsonl"
)

func Example() {
	f, err := os.Open("../testdata/redis-8.6.3/hash_field_ttl.rdb")
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	r := rdb.NewReader(f, nil)
	w := jsonl.NewWriter(os.Stdout, nil)
	for e, err := range r.Entries() {
		if err != nil {
			log.Fatal(err) // says at which byte, in which key, and why
		}
		if e.Kind == rdb.KindKey && string(e.Key) == "lp_some" {
			if err := w.WriteKey(e, r); err != nil {
				log.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// {"db":0,"key":"lp_some","type":"hash","expire_ms":null,"value":[["a","1",4102444800111],["b","two",null],["c","3",4102444800111],["d","four",null]]}
}
