package resp

import (
	"iter"
	"strconv"
	"strings"
)

// Info is the answer to INFO, without its sections: fields are unique across them.
type Info map[string]string

// ParseInfo parses the answer to INFO. Lines that are no fields are skipped.
func ParseInfo(text string) Info {
	info := Info{}
	for line := range strings.Lines(text) {
		field, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
		if ok && !strings.HasPrefix(field, "#") {
			info[field] = value
		}
	}
	return info
}

// Int returns a field's number, or 0 if it is absent or none.
func (i Info) Int(field string) int64 {
	n, _ := strconv.ParseInt(i[field], 10, 64)
	return n
}

// Attributes gives the names and values of a field such as "keys=3,expires=0" or "ip=::1,port=6379".
func (i Info) Attributes(field string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for item := range strings.SplitSeq(i[field], ",") {
			if name, value, ok := strings.Cut(item, "="); ok && !yield(name, value) {
				return
			}
		}
	}
}
