package main

import (
	"bufio"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/rdb/jsonl"
)

// show prints a key for a person: what is known about it, and its value, an element a line.
func (a *app) show(w *jsonl.Writer, e *rdb.Entry, r *rdb.Reader) error {
	expires := "never"
	if e.HasExpiry {
		expires = moment(e.ExpireAt)
	}
	rows := [][]string{{"Key", string(shown(nil, e.Key, ""))}, {"Database", strconv.Itoa(e.DB)}, {"Type", typeOf(e)}, {"Expires", expires}}
	if e.Freq >= 0 {
		rows = append(rows, []string{"Frequency", strconv.Itoa(e.Freq)})
	}
	if e.Idle >= 0 {
		rows = append(rows, []string{"Idle", took(time.Duration(e.Idle) * time.Second)})
	}
	table(a.out, rows...)
	fmt.Fprintln(a.out)
	switch e.Type {
	case rdb.TypeString, rdb.TypeJSON, rdb.TypeList, rdb.TypeSet, rdb.TypeZSet, rdb.TypeHash, rdb.TypeStream, rdb.TypeArray:
		p := &printer{w: bufio.NewWriter(a.out), first: true}
		for el, err := range r.Elements() {
			if err != nil {
				return err
			}
			p.element(el)
		}
		if !p.first {
			p.text("\n")
		}
		return p.w.Flush()
	}
	if err := w.WriteValue(e, r); err != nil {
		return err
	}
	return w.Flush()
}

// typeOf is the name of an entry's type, with the module that it belongs to.
func typeOf(e *rdb.Entry) string {
	if e.Type == rdb.TypeModule {
		return fmt.Sprintf("%s (a module's, version %d)", e.Module.Name(), e.Module.Version())
	}
	return e.Type.String()
}

// moment is a time in milliseconds. What lies beyond the year 9999 is no date to anybody.
func moment(ms int64) string {
	if ms < 0 || ms > 253402300799999 {
		return strconv.FormatInt(ms, 10) + " ms"
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02 15:04:05.000 UTC")
}

// A printer prints elements.
type printer struct {
	w     *bufio.Writer
	buf   []byte
	first bool
	more  bool // the element goes on
}

func (p *printer) text(s string) { _, _ = p.w.WriteString(s) } // Flush tells whether it failed

func (p *printer) string(s []byte) {
	p.buf = shown(p.buf[:0], s, "")
	_, _ = p.w.Write(p.buf)
}

// element prints an element, or the next piece of one.
func (p *printer) element(e *rdb.Element) {
	if e.Kind == rdb.ElementBytes {
		p.first = false
		p.buf = shown(p.buf[:0], e.Value, "\n\t") // a text has lines
		_, _ = p.w.Write(p.buf)
		return
	}
	if p.more {
		p.string(e.Value)
		p.more = e.More
		return
	}
	if !p.first {
		p.text("\n")
	}
	p.first, p.more = false, e.More
	switch e.Kind {
	case rdb.ElementItem:
		p.string(e.Value)
	case rdb.ElementMember:
		p.string(e.Value)
		p.expiry(e.ExpireAt)
	case rdb.ElementScored:
		p.text(strconv.FormatFloat(e.Score, 'g', -1, 64) + "  ")
		p.string(e.Value)
	case rdb.ElementField:
		p.string(e.Field)
		p.expiry(e.ExpireAt)
		p.text(": ")
		p.string(e.Value)
	case rdb.ElementIndexed:
		p.text(strconv.FormatUint(e.Index, 10) + ": ")
		p.string(e.Value)
	case rdb.ElementEntry:
		p.text(e.ID.String())
		for i := 0; i+1 < len(e.Fields); i += 2 {
			p.text("  ")
			p.string(e.Fields[i])
			p.text("=")
			p.string(e.Fields[i+1])
		}
	case rdb.ElementStream:
		p.text(fmt.Sprintf("%s, last id %v", plurals(int64(e.Stream.Length), "entry", "entries"), e.Stream.LastID))
		if e.Stream.HasHistory {
			p.text(fmt.Sprintf(", %s ever added", count(int64(e.Stream.EntriesAdded))))
		}
	case rdb.ElementGroup:
		p.text("group ")
		p.string(e.Value)
		p.text(fmt.Sprintf(": last delivered %v, %s pending", e.ID, count(e.Count)))
	case rdb.ElementPending:
		p.text(fmt.Sprintf("  %v, delivered %s, %s", e.ID, moment(e.Delivered), plurals(e.Count, "time", "times")))
	case rdb.ElementConsumer:
		p.text("  consumer ")
		p.string(e.Value)
		p.text(fmt.Sprintf(": seen %s, %s pending", moment(e.Seen), count(e.Count)))
	case rdb.ElementOwned:
		p.text("    " + e.ID.String())
	case rdb.ElementNacked:
		p.text(fmt.Sprintf("  %v has no consumer", e.ID))
	case rdb.ElementIDMP:
		p.text(fmt.Sprintf("ids of producers are kept for %d s, up to %d", e.Stream.IDMPDuration, e.Stream.IDMPMaxSize))
	case rdb.ElementProducer:
		p.text("producer ")
		p.string(e.Value)
	case rdb.ElementProduced:
		p.text("  ")
		p.string(e.Value)
		p.text(": " + e.ID.String())
	case rdb.ElementIDMPEnd:
		p.text(fmt.Sprintf("%s added by producers, %s refused as duplicates", count(int64(e.Stream.IDMPAdded)), count(int64(e.Stream.IDMPDuplicates))))
	default:
		p.text(e.Kind.String())
	}
}

func (p *printer) expiry(at int64) {
	if at != 0 {
		p.text(" (expires " + moment(at) + ")")
	}
}

// shown appends s as a terminal can take it: text, and the control characters in keep, as it is, what is none as \xHH.
func shown(dst, s []byte, keep string) []byte {
	for len(s) > 0 {
		r, n := utf8.DecodeRune(s)
		if r == utf8.RuneError && n <= 1 || !unicode.IsPrint(r) && !strings.ContainsRune(keep, r) {
			for _, c := range s[:n] {
				dst = fmt.Appendf(dst, `\x%02x`, c)
			}
		} else {
			dst = append(dst, s[:n]...)
		}
		s = s[n:]
	}
	return dst
}
