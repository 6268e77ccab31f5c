package storetest

import (
	"errors"
	"slices"
	"strings"

	"github.com/amberkv/amber/storage"
)

// goodKeys are keys that every store has to take. None is a directory of another.
var goodKeys = []string{
	"a",
	"a.b",
	"a-b",
	"a..b/c..",
	"A/B",
	"0",
	"orders/20261123T221700.123Z-k7f3/manifest.json",
	"_leases/backup-orders/0000000000000001.json",
	"with space/and more ",
	" leading",
	"-rf",
	"--/--",
	"~/x",
	"$HOME",
	"%2e%2e/%2f",
	"%",
	"%s%d%n",
	"a+b=c&d?e#f",
	"*?[x]",
	`"quoted"'`,
	"<x>|y;z`",
	"c:/d",
	"ümläut/日本語/кириллица/🦀",
	"e\u0301",            // e and an accent of its own
	"\u00a0\u200b\u2028", // characters that print as nothing
	"\ufeffbom",
	"con/aux.txt",
	"x.tmp/y.lock/z~",
	"one/two/three/four/five/six/seven/eight/nine/ten/eleven/twelve",
	strings.Repeat("s", 200),
	strings.Repeat("d/", 100) + "dd",
	strings.Repeat(strings.Repeat("l", 170)+"/", 2) + strings.Repeat("l", 170),
}

// badKeys are keys that no store may take, nor let near what it has.
var badKeys = []string{
	"",
	"/",
	"//",
	".",
	"..",
	"...",
	"./",
	"../",
	"./a",
	"../a",
	"../../../../../../../../etc/passwd",
	"a/.",
	"a/..",
	"a/./b",
	"a/../b",
	"kept/../kept/object",
	"kept/./object",
	"kept//object",
	"kept/object/",
	"kept/object/.",
	"kept/object/..",
	"kept/",
	"/kept/object",
	"//kept/object",
	"a/../../b",
	"a//b",
	"a///b",
	"a/b/",
	"a/b//",
	"/etc/passwd",
	"/tmp/x",
	".hidden",
	".hidden/a",
	"a/.hidden",
	"a/.hidden/b",
	".git/config",
	".amber-tmp-x",
	"a/.tmp",
	"..a",
	"a/..b",
	"\\",
	"a\\b",
	"..\\a",
	"a\\..\\b",
	"c:\\windows",
	"\\\\host\\share",
	"a/b\\",
	"\x00",
	"a\x00",
	"a\x00b",
	"kept/object\x00",
	"kept/object\x00.txt",
	"a\nb",
	"a\n",
	"\na",
	"a\r\nb",
	"a\tb",
	"a\x01b",
	"a\x1bb",
	"a\x1f",
	"a\x7f",
	"\x7f",
	"\xff",
	"a\xffb",
	"a\xc3",
	"\xc3\x28",
	"\xed\xa0\x80",     // half of a surrogate pair
	"\xc0\xae\xc0\xae", // dots, spelled too long
	"\xe0\x80\xaf",
	"\xf4\x90\x80\x80", // past the end of Unicode
	"kept/obje\xff",
	strings.Repeat("s", 201),
	"a/" + strings.Repeat("s", 201),
	strings.Repeat("s", 201) + "/a",
	strings.Repeat("d/", 256) + "d",
	strings.Repeat("a/", 10_000) + "a",
	strings.Repeat("x", 1<<20),
	strings.Repeat("../", 100) + "etc/passwd",
}

func validKeys(c *check) {
	for _, key := range goodKeys {
		if err := storage.ValidKey(key); err != nil {
			c.Fatalf("storetest: %q is no example of a valid key: %v", key, err)
		}
		c.need("creating "+key, storage.WriteFile(c.ctx, c.store, key, []byte(key), c.new()))
	}
	for _, key := range goodKeys {
		c.holds(key, []byte(key))
	}
	want := slices.Sorted(slices.Values(goodKeys))
	if got := c.list(""); !slices.Equal(got, want) {
		c.broken("List gives %q, want %q", got, want)
	}
	for _, key := range goodKeys {
		c.put(key, []byte("replaced "+key))
		c.holds(key, []byte("replaced "+key))
		c.need("Delete", c.store.Delete(c.ctx, key))
		c.absent(key, "after Delete")
	}
}

func invalidKeys(c *check) {
	data := []byte("kept")
	c.put("kept/object", data)
	unharmed := func(key string) {
		c.Helper()
		if got := c.list(""); !slices.Equal(got, []string{"kept/object"}) {
			c.broken("after a use of %.60q the store lists %.200q, want only kept/object", key, got)
		}
		if got, err := c.get("kept/object"); err != nil || string(got) != string(data) {
			c.broken("after a use of %.60q another object reads %q, %v", key, got, err)
		}
	}
	for _, key := range badKeys {
		if storage.ValidKey(key) == nil {
			c.Fatalf("storetest: %q is no example of an invalid key", key)
		}
		refused := func(method string, err error) {
			c.Helper()
			if !errors.Is(err, storage.ErrInvalidKey) {
				c.broken("%s of %.60q: the error is %v, want ErrInvalidKey", method, key, err)
			}
		}
		for _, opts := range []*storage.CreateOptions{nil, {}, onlyNew} {
			w, err := c.store.Create(c.ctx, key, opts)
			if err == nil {
				w.Abort()
			}
			refused("Create", err)
		}
		for _, r := range [][2]int64{{0, -1}, {0, 0}, {1, 1}} {
			in, err := c.store.Open(c.ctx, key, r[0], r[1])
			if err == nil {
				in.Close()
			}
			refused("Open", err)
		}
		_, err := c.store.Stat(c.ctx, key)
		refused("Stat", err)
		refused("Delete", c.store.Delete(c.ctx, key))
		unharmed(key)

		// As a prefix it may be one of a valid key, as "kept/" is; else there is nothing that begins with it.
		for info, err := range c.store.List(c.ctx, key) {
			if err != nil {
				refused("List", err)
				break
			}
			if info.Key != "kept/object" || !strings.HasPrefix(info.Key, key) {
				c.broken("List of the prefix %.60q gives %q", key, info.Key)
			}
		}
	}
	unharmed("all of them")
}
