package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/amberkv/amber/catalog"
)

// size prints bytes for people.
func size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v := float64(n)
	for _, unit := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if v /= 1024; v < 1023.95 {
			return fmt.Sprintf("%.1f %s", v, unit)
		}
	}
	return fmt.Sprintf("%.1f PiB", v/1024)
}

// count prints a number with its thousands apart.
func count(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// plural prints a number of things.
func plural(n int64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return count(n) + " " + thing + "s"
}

// contents says what is in a backup.
func contents(b *catalog.Backup) string {
	text := plural(b.Keys, "key")
	if b.Commands > 0 {
		text += " and " + plural(b.Commands, "command")
	}
	return text
}

// took prints a duration with as many digits as matter.
func took(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// when prints a time in UTC.
func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}

// tookFor prints a duration, and the rate of so many bytes where they are enough to say something.
func tookFor(d time.Duration, n int64) string {
	if n < 1<<20 || d <= 0 {
		return took(d)
	}
	return fmt.Sprintf("%s (%s/s)", took(d), size(int64(float64(n)/d.Seconds())))
}

// byType prints how many keys there are of each type, most first.
func byType(types map[string]int64) string {
	names := slices.SortedFunc(maps.Keys(types), func(a, b string) int {
		if types[a] != types[b] {
			return int(min(1, max(-1, types[b]-types[a])))
		}
		return strings.Compare(a, b)
	})
	for i, name := range names {
		names[i] = name + " " + count(types[name])
	}
	return strings.Join(names, ", ")
}

// clean keeps what others wrote from steering a terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}

// table prints rows in columns.
func table(w io.Writer, rows ...[]string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			if cell = clean(cell); cell == "" && i > 0 {
				cell = "-"
			}
			if i > 0 {
				cell = "\t" + cell
			}
			io.WriteString(t, cell)
		}
		io.WriteString(t, "\n")
	}
	t.Flush() // output remembers what went wrong
}
