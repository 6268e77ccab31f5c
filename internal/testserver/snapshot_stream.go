package testserver

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// canonicalStream writes the entries of a stream, and what XINFO STREAM FULL says of its groups: the fields that every
// version has, in a fixed order.
func canonicalStream(entries, info *redis.Cmd) (string, error) {
	var out strings.Builder
	list, err := entries.Slice()
	if err != nil {
		return "", err
	}
	for _, e := range list {
		entry, ok := e.([]any)
		if !ok || len(entry) != 2 {
			return "", fmt.Errorf("XRANGE gave an entry %v", e)
		}
		fmt.Fprintf(&out, "%v %q\n", entry[0], entry[1])
	}
	all, err := info.Slice()
	if err != nil {
		return "", err
	}
	stream := pairs(all)
	write(&out, "stream", stream, "length", "last-generated-id", "max-deleted-entry-id", "entries-added", "recorded-first-entry-id")
	for _, g := range children(stream, "groups") {
		write(&out, "group", g, "name", "last-delivered-id", "entries-read", "pel-count", "pending")
		for _, c := range children(g, "consumers") {
			write(&out, "consumer", c, "name", "seen-time", "pel-count", "pending")
		}
	}
	return out.String(), nil
}

func write(out *strings.Builder, what string, m map[string]any, fields ...string) {
	out.WriteString(what)
	for _, f := range fields {
		fmt.Fprintf(out, " %s=%q", f, fmt.Sprint(m[f]))
	}
	out.WriteByte('\n')
}

// pairs makes a map of a flat list of names and values, which is what a map is in RESP 2.
func pairs(list []any) map[string]any {
	m := make(map[string]any, len(list)/2)
	for i := 0; i+1 < len(list); i += 2 {
		m[fmt.Sprint(list[i])] = list[i+1]
	}
	return m
}

func children(m map[string]any, field string) []map[string]any {
	list, _ := m[field].([]any)
	out := make([]map[string]any, 0, len(list))
	for _, item := range list {
		if flat, ok := item.([]any); ok {
			out = append(out, pairs(flat))
		}
	}
	return out
}

// elements asks for the vector and the attributes of each element of a vector set.
func elements(ctx context.Context, p redis.Pipeliner, key string, names *redis.Cmd) []*redis.Cmd {
	list, err := names.StringSlice()
	if err != nil {
		return nil // canonicalVectorSet tells
	}
	cmds := make([]*redis.Cmd, 0, 2*len(list))
	for _, name := range list {
		cmds = append(cmds, p.Do(ctx, "VEMB", key, name), p.Do(ctx, "VGETATTR", key, name))
	}
	return cmds
}

// canonicalVectorSet writes the parameters of a vector set and each element's vector and attributes. The graph that links
// them is left out: no command shows it.
func canonicalVectorSet(info, names *redis.Cmd, inner []*redis.Cmd) (string, error) {
	all, err := info.Slice()
	if err != nil {
		return "", err
	}
	list, err := names.StringSlice()
	if err != nil {
		return "", err
	}
	lines := make([]string, len(list))
	for i, name := range list {
		vector, err := inner[2*i].StringSlice()
		if err != nil {
			return "", err
		}
		for j, number := range vector {
			if vector[j], err = shortest(number); err != nil {
				return "", err
			}
		}
		attributes, _ := inner[2*i+1].Text() // none is no error
		lines[i] = strconv.Quote(name) + " " + strings.Join(vector, ",") + " " + strconv.Quote(attributes)
	}
	slices.Sort(lines)
	var out strings.Builder
	write(&out, "vectorset", pairs(all), "quant-type", "vector-dim", "size", "hnsw-m")
	out.WriteString(strings.Join(lines, "\n"))
	return out.String(), nil
}
