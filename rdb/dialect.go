package rdb

import (
	"fmt"
	"strconv"
	"strings"
)

// A Family is a line of servers whose streams number their types and opcodes alike.
type Family string

// The families. Valkey up to 8.1 and KeyDB write streams of the Redis family.
const (
	Redis     Family = "redis"
	Valkey    Family = "valkey"
	Dragonfly Family = "dragonfly"
)

// The versions of each family that this package knows.
const (
	maxRedis         = 15 // Redis 8.10
	maxDragonfly     = 12 // up to here numbers from 30 are Dragonfly's: Redis uses them since 15
	valkeyVersion    = 80 // Valkey 9.0 and 9.1
	dragonflyVersion = 9  // all that Dragonfly writes
)

// A Dialect says which RDB family and version a stream speaks.
type Dialect struct {
	Family  Family
	Version int
}

// String returns family and version as in "redis:12", or "unknown" for the zero Dialect.
func (d Dialect) String() string {
	if d == (Dialect{}) {
		return "unknown"
	}
	return string(d.Family) + ":" + strconv.Itoa(d.Version)
}

// known tells whether this package reads the dialect.
func (d Dialect) known() bool {
	switch d.Family {
	case Redis:
		return d.Version >= 1 && d.Version <= maxRedis
	case Valkey:
		return d.Version == valkeyVersion
	case Dragonfly:
		return d.Version == dragonflyVersion
	}
	return false
}

// ParseDialect reads what String writes. The error wraps ErrUnsupported if the dialect is none that this package knows.
func ParseDialect(s string) (Dialect, error) {
	family, version, ok := strings.Cut(s, ":")
	n, valid := digits(version)
	d := Dialect{Family(family), n}
	if !ok || !valid || d.String() != s || !d.known() {
		return Dialect{}, fmt.Errorf("rdb: %w dialect %q: known are redis:1 to redis:%d, valkey:%d and dragonfly:%d",
			ErrUnsupported, s, maxRedis, valkeyVersion, dragonflyVersion)
	}
	return d, nil
}

// magicLen is the length of the first thing in every stream: a name and digits that make nine bytes.
const magicLen = 9

// dialectOf reads the magic. Servers use atoi, which takes blanks and ignores what follows the digits; we don't.
func dialectOf(magic string) (Dialect, bool) {
	for _, f := range []struct {
		name   string
		family Family
	}{{"REDIS", Redis}, {"VALKEY", Valkey}} {
		if rest, ok := strings.CutPrefix(magic, f.name); ok {
			n, valid := digits(rest)
			return Dialect{f.family, n}, valid
		}
	}
	return Dialect{}, false
}

// digits reads a short decimal number of digits alone.
func digits(s string) (n int, ok bool) {
	if s == "" || len(s) > 9 {
		return 0, false
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}
