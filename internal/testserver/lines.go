package testserver

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Lines reads a .jsonl file of a fixture, gzipped or not, and returns what Snapshot says of a server that holds what is in it. Package jsonl
// describes the form. Keys that have expired are left out and counted.
//
// There are these differences from a server: a member of a set that may expire (Dragonfly) has " expires" behind it; what isn't told of a
// stream is "<nil>"; and of values that none of the servers has, only the type is in the text.
func Lines(t testing.TB, name string) (contents map[string]string, expired map[int]int64) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err == nil && strings.HasSuffix(name, ".gz") {
		var z *gzip.Reader
		if z, err = gzip.NewReader(bytes.NewReader(data)); err == nil {
			data, err = io.ReadAll(z)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	contents, expired = make(map[string]string), make(map[int]int64)
	now := time.Now().UnixMilli()
	in := bufio.NewScanner(bytes.NewReader(data))
	in.Buffer(nil, 1<<30)
	for in.Scan() {
		var l line
		d := json.NewDecoder(bytes.NewReader(in.Bytes()))
		d.UseNumber()
		if err := d.Decode(&l); err != nil {
			t.Fatalf("%s: %v in %.200s", name, err, in.Bytes())
		}
		if l.Expire != nil && *l.Expire <= now {
			expired[l.DB]++
			continue
		}
		text, err := l.text()
		if err != nil {
			t.Fatalf("%s: key %s: %v", name, l.Key, err)
		}
		if l.Expire != nil {
			text = "expires " + strconv.FormatInt(*l.Expire, 10) + "\n" + text
		}
		contents[strconv.Itoa(l.DB)+"/"+unescape(l.Key)] = l.Type + "\n" + text
	}
	if err := in.Err(); err != nil {
		t.Fatal(err)
	}
	return contents, expired
}

// A line is one key of a .jsonl file.
type line struct {
	DB     int
	Key    string
	Type   string
	Expire *int64 `json:"expire_ms"`
	Value  any
}

// text returns the value as canonical does.
func (l *line) text() (string, error) {
	switch v := unescapeAll(l.Value).(type) {
	case string:
		if l.Type == "string" {
			return strconv.Quote(v), nil
		}
	case map[string]any:
		switch l.Type {
		case "stream":
			return streamText(v)
		case "vectorset":
			return vectorSetText(v)
		}
	case []any:
		var lines []string
		for _, item := range v {
			if list, _ := item.([]any); l.Type == "hash" && list[2] != nil {
				if at, err := list[2].(json.Number).Int64(); err == nil && at <= time.Now().UnixMilli() {
					continue
				}
			}
			text, err := l.element(item)
			if err != nil {
				return "", err
			}
			lines = append(lines, text)
		}
		if l.Type == "set" || l.Type == "hash" {
			slices.Sort(lines)
		}
		return strings.Join(lines, "\n"), nil
	}
	return "", nil // of no server here
}

// element returns the text of one element of a list, set, sorted set or hash.
func (l *line) element(item any) (string, error) {
	list, _ := item.([]any)
	switch {
	case l.Type == "list", l.Type == "set" && list == nil:
		return strconv.Quote(item.(string)), nil
	case l.Type == "set" && list[1] == false:
		return strconv.Quote(list[0].(string)), nil
	case l.Type == "set":
		return strconv.Quote(list[0].(string)) + " expires", nil
	case l.Type == "zset":
		score, err := appendShortest(nil, list[1].(string))
		return string(score) + " " + strconv.Quote(list[0].(string)), err
	case l.Type == "hash":
		text := strconv.Quote(list[0].(string)) + " = " + strconv.Quote(list[1].(string))
		if list[2] != nil {
			text += " expires " + fmt.Sprint(list[2])
		}
		return text, nil
	}
	return "", fmt.Errorf("a %s with elements", l.Type)
}

// streamText writes what canonicalStream does.
func streamText(stream map[string]any) (string, error) {
	var out []byte
	for _, e := range anys(stream["entries"]) {
		entry := anys(e)
		if len(entry) != 2 {
			return "", fmt.Errorf("entry %v", e)
		}
		out = fmt.Appendf(out, "%v %q\n", entry[0], entry[1])
	}
	out = write(out, "stream", stream, "length", "last-generated-id", "max-deleted-entry-id", "entries-added", "recorded-first-entry-id")
	for _, g := range byName(stream["groups"]) {
		g := withPending(g)
		out = write(out, "group", g, "name", "last-delivered-id", "entries-read", "pel-count", "pending")
		for _, c := range byName(g["consumers"]) {
			out = write(out, "consumer", withPending(c), "name", "seen-time", "pel-count", "pending")
		}
	}
	return string(out), nil
}

// byName sorts groups or consumers as servers do: by the bytes of their names, not by the text of these.
func byName(v any) []any {
	list := anys(v)
	slices.SortFunc(list, func(a, b any) int {
		return strings.Compare(fmt.Sprint(a.(map[string]any)["name"]), fmt.Sprint(b.(map[string]any)["name"]))
	})
	return list
}

// withPending names the pending entries as XINFO does.
func withPending(v any) map[string]any {
	m, _ := v.(map[string]any)
	pel := anys(m["pel"])
	m["pending"], m["pel-count"] = pel, len(pel)
	return m
}

func anys(v any) []any {
	list, _ := v.([]any)
	return list
}

// vectorSetText writes what canonicalVectorSet does.
func vectorSetText(set map[string]any) (string, error) {
	info, _ := set["info"].(map[string]any)
	var lines []string
	for _, e := range anys(set["elements"]) {
		element := anys(e)
		if len(element) != 3 {
			return "", fmt.Errorf("element %v", e)
		}
		var vector []string
		for _, number := range anys(element[1]) {
			text, err := appendShortest(nil, fmt.Sprint(number))
			if err != nil {
				return "", err
			}
			vector = append(vector, string(text))
		}
		attributes, _ := element[2].(string)
		lines = append(lines, strconv.Quote(element[0].(string))+" "+strings.Join(vector, ",")+" "+strconv.Quote(attributes))
	}
	slices.Sort(lines)
	return string(write(nil, "vectorset", info, "quant-type", "vector-dim", "size", "hnsw-m")) + strings.Join(lines, "\n"), nil
}

func unescapeAll(v any) any {
	switch v := v.(type) {
	case string:
		return unescape(v)
	case []any:
		for i := range v {
			v[i] = unescapeAll(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = unescapeAll(v[k])
		}
	}
	return v
}

// unescape makes bytes of their text: a backslash is written \\, a byte outside of printable ASCII \xHH.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			out = append(out, s[i])
			continue
		}
		if i+3 < len(s) && s[i+1] == 'x' {
			b, _ := strconv.ParseUint(s[i+2:i+4], 16, 8)
			out = append(out, byte(b))
			i += 3
			continue
		}
		out = append(out, '\\')
		i++
	}
	return string(out)
}

// Lose takes from contents, which are as those of Snapshot or Lines, what a target doesn't have after a restore that reports a loss, by its
// name in package rdb, and returns how many keys that is about. Of what no command shows, such as flags of Dragonfly, that is none.
func Lose(contents map[string]string, loss string) (keys int64) {
	for key, text := range contents {
		typ, value, _ := strings.Cut(text, "\n")
		switch loss {
		case "type", "module":
			if !slices.Contains([]string{"string", "list", "set", "zset", "hash", "stream"}, typ) {
				delete(contents, key)
				keys++
			}
			continue
		case "field-expiry":
			if typ != "hash" {
				continue
			}
		case "member-expiry":
			if typ != "set" {
				continue
			}
		default:
			continue
		}
		if without := withoutExpiry(value); without != value {
			contents[key] = typ + "\n" + without
			keys++
		}
	}
	return keys
}

// withoutExpiry takes the expiry of fields or members from a value, whose first line may be the expiry of the key.
func withoutExpiry(value string) string {
	lines := strings.Split(value, "\n")
	for i, l := range lines {
		if end := strings.LastIndex(l, `" expires`); end > 0 && strings.Trim(l[end+len(`" expires`):], " 0123456789") == "" {
			lines[i] = l[:end+1]
		}
	}
	return strings.Join(lines, "\n")
}
