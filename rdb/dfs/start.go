package dfs

import (
	"path"
	"regexp"
	"strings"
	"time"
)

// DefaultName is what a Dragonfly calls its snapshots unless its flag --dbfilename says otherwise.
const DefaultName = "dump-{timestamp}"

// placeholders are what stands for a time in a dbfilename, as Go formats it and as a name in a bucket has to match it.
var placeholders = []struct{ text, layout, pattern string }{
	{"{timestamp}", "2006-01-02T15:04:05", "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}"},
	{"{Y}", "2006", "[0-9]{4}"},
	{"{m}", "01", "[0-9]{2}"},
	{"{d}", "02", "[0-9]{2}"},
}

// FillName puts a time for {timestamp}, {Y}, {m} and {d} in a dbfilename, as Dragonfly does when it begins to save. It takes the time of
// its own zone for that: dump-{timestamp} becomes such as dump-2026-08-22T11:55:03.
func FillName(dbfilename string, t time.Time) string {
	for _, p := range placeholders {
		dbfilename = strings.ReplaceAll(dbfilename, p.text, t.Format(p.layout))
	}
	return dbfilename
}

// A File is one of those that a server finds in its directory when it starts.
type File struct {
	Name    string // without the directory
	ModTime time.Time
}

// AtStart returns which of the files in its directory a Dragonfly with the given dbfilename loads when it starts: an RDB file, or the
// summary of a set; -1 if there is none and it starts empty. Whether the set is whole it doesn't look at. Redis and Valkey load the file
// of exactly that name, which comes to the same for a name with an extension.
//
// In a directory of the machine that is the file of exactly that name, else the one that was changed last of those whose names begin so, with
// anything for a placeholder; of several that were changed at the same instant anyone may be it, and it is the last one here. In a bucket (cloud) it
// is the one that was written last of those whose names are that name, with the digits of a time for a placeholder, and no more.
func AtStart(dbfilename string, files []File, cloud bool) int {
	matches := localRule(dbfilename)
	if cloud {
		matches = cloudRule(dbfilename)
	} else {
		for i, f := range files {
			if f.Name == dbfilename {
				return i
			}
		}
	}
	found := -1
	for i, f := range files {
		if !strings.HasSuffix(f.Name, ".rdb") && !strings.HasSuffix(f.Name, "summary.dfs") || !matches(f.Name) {
			continue
		}
		if found < 0 || !f.ModTime.Before(files[found].ModTime) {
			found = i
		}
	}
	return found
}

// hasExtension tells what C++ calls an extension: anything behind a dot that isn't the first character.
func hasExtension(name string) bool {
	return path.Ext(strings.TrimPrefix(name, ".")) != ""
}

// localRule is glob(3).
func localRule(dbfilename string) func(name string) bool {
	pattern := strings.ReplaceAll(dbfilename, "[!", "[^")
	for _, p := range placeholders {
		pattern = strings.ReplaceAll(pattern, p.text, "*")
	}
	if !hasExtension(dbfilename) {
		pattern += "*"
	}
	return func(name string) bool {
		ok, err := path.Match(pattern, name)
		return ok && err == nil && (name[0] != '.' || pattern[0] == '.')
	}
}

// cloudRule is a regular expression.
func cloudRule(dbfilename string) func(name string) bool {
	pattern := regexp.QuoteMeta(dbfilename)
	for _, p := range placeholders {
		pattern = strings.ReplaceAll(pattern, regexp.QuoteMeta(p.text), p.pattern)
	}
	if !hasExtension(dbfilename) {
		pattern += `(-summary\.dfs|\.rdb)`
	}
	return regexp.MustCompile("^(?:" + pattern + ")$").MatchString
}
