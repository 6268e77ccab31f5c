package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/amberkv/amber/rdb/inspect"
)

// shownName is how much of a name a table shows.
const shownName = 60

// escape writes a name as "rdb json" does, before JSON quotes it.
func escape(name string) string {
	var b strings.Builder
	for i := range len(name) {
		switch c := name[i]; {
		case c == '\\':
			b.WriteString(`\\`)
		case c < 0x20 || c > 0x7e:
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// escapeNames makes the names in a report text that JSON can carry.
func escapeNames(r *inspect.Report) {
	for i := range r.Prefixes {
		r.Prefixes[i].Prefix = escape(r.Prefixes[i].Prefix)
	}
	for i := range r.Biggest {
		r.Biggest[i].Key = escape(r.Biggest[i].Key)
	}
}

// shorten cuts an escaped name for a table.
func shorten(name string) string {
	if len(name) > shownName {
		return name[:shownName-1] + "…"
	}
	return name
}

// reportTables prints what is inside; of prefixes as many as of the biggest keys.
func reportTables(w io.Writer, r *inspect.Report, top int) {
	if r.Total.Keys == 0 {
		return
	}
	section := func(head []string, rows [][]string) {
		if len(rows) > 0 {
			fmt.Fprintln(w)
			table(w, append([][]string{head}, rows...)...)
		}
	}
	sums := func(s *inspect.Sums, name ...string) []string {
		return append(name, count(s.Keys), size(s.Bytes), size(s.Memory), share(s.Memory, r.Total.Memory))
	}

	var rows [][]string
	for _, t := range r.Types {
		rows = append(rows, append(sums(&t.Sums, t.Type), count(t.Elements), count(t.Expires)))
	}
	section([]string{"TYPE", "KEYS", "SIZE", "MEMORY", "SHARE", "ELEMENTS", "EXPIRES"}, rows)

	rows = nil
	for _, e := range r.Encodings {
		rows = append(rows, sums(&e.Sums, e.Encoding, e.Type))
	}
	section([]string{"ENCODING", "TYPE", "KEYS", "SIZE", "MEMORY", "SHARE"}, rows)

	rows = nil
	rest := r.Other
	for i, p := range r.Prefixes {
		if i >= top {
			rest.Keys += p.Keys
			rest.Bytes += p.Bytes
			rest.Memory += p.Memory
			continue
		}
		name := shorten(p.Prefix)
		if name == "" {
			name = "(none)"
		}
		row := sums(&p.Sums, name)
		if p.Missed > 0 {
			row = append(row, "and up to "+size(p.Missed))
		}
		rows = append(rows, row)
	}
	if len(rows) > 0 && rest.Keys > 0 {
		rows = append(rows, sums(&rest, "(all others)"))
	}
	section([]string{"PREFIX", "KEYS", "SIZE", "MEMORY", "SHARE"}, rows)

	rows = nil
	for _, k := range r.Biggest {
		elements := ""
		if k.Elements >= 0 {
			elements = count(k.Elements)
		}
		rows = append(rows, []string{shorten(k.Key), strconv.Itoa(k.DB), k.Type, k.Encoding, elements, size(k.Bytes), size(k.Memory)})
	}
	section([]string{"BIGGEST KEYS", "DB", "TYPE", "ENCODING", "ELEMENTS", "SIZE", "MEMORY"}, rows)

	for _, h := range []struct {
		name    string
		buckets []inspect.Bucket
	}{{"EXPIRES IN", r.Expiry}, {"IDLE FOR", r.Idle}, {"FREQUENCY", r.Freq}} {
		rows = nil
		for _, b := range h.buckets {
			if b.Keys > 0 {
				rows = append(rows, []string{b.Name, count(b.Keys), size(b.Memory), share(b.Memory, r.Total.Memory)})
			}
		}
		section([]string{h.name, "KEYS", "MEMORY", "SHARE"}, rows)
	}
}

// share prints a part of a whole.
func share(n, of int64) string {
	if of == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f %%", 100*float64(n)/float64(of))
}
