package testserver

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// canonicalStream writes the entries of a stream, and what XINFO STREAM FULL says of its groups: the fields that every
// version has, in a fixed order.
func canonicalStream(entries, info *redis.Cmd) (string, error) {
	var out []byte
	list, err := entries.Slice()
	if err != nil {
		return "", err
	}
	for _, e := range list {
		entry, ok := e.([]any)
		if !ok || len(entry) != 2 {
			return "", fmt.Errorf("XRANGE gave an entry %v", e)
		}
		fields, ok := entry[1].([]any)
		if !ok {
			return "", fmt.Errorf("XRANGE gave an entry %v", e)
		}
		out = append(appendPlain(out, entry[0]), " ["...)
		for i, field := range fields {
			text, ok := field.(string)
			if !ok {
				return "", fmt.Errorf("XRANGE gave an entry %v", e)
			}
			if i > 0 {
				out = append(out, ' ')
			}
			out = appendQuoted(out, text)
		}
		out = append(out, "]\n"...)
	}
	all, err := info.Slice()
	if err != nil {
		return "", err
	}
	stream := pairs(all)
	out = write(out, "stream", stream, "length", "last-generated-id", "max-deleted-entry-id", "entries-added", "recorded-first-entry-id")
	for _, g := range children(stream, "groups") {
		out = write(out, "group", g, "name", "last-delivered-id", "entries-read", "pel-count", "pending")
		for _, c := range children(g, "consumers") {
			out = write(out, "consumer", c, "name", "seen-time", "pel-count", "pending")
		}
	}
	return string(out), nil
}

func write(out []byte, what string, m map[string]any, fields ...string) []byte {
	out = append(out, what...)
	for _, f := range fields {
		out = append(append(append(out, ' '), f...), '=')
		out = appendQuoted(out, string(appendPlain(nil, m[f])))
	}
	return append(out, '\n')
}

// pairs makes a map of a flat list of names and values, which is what a map is in RESP 2.
func pairs(list []any) map[string]any {
	m := make(map[string]any, len(list)/2)
	for i := 0; i+1 < len(list); i += 2 {
		m[string(appendPlain(nil, list[i]))] = list[i+1]
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
	var l textLines
	for i, name := range list {
		vector, err := inner[2*i].StringSlice()
		if err != nil {
			return "", err
		}
		l.text = append(appendQuoted(l.text, name), ' ')
		for j, number := range vector {
			if j > 0 {
				l.text = append(l.text, ',')
			}
			if l.text, err = appendShortest(l.text, number); err != nil {
				return "", err
			}
		}
		attributes, _ := inner[2*i+1].Text() // none is no error
		l.text = appendQuoted(append(l.text, ' '), attributes)
		l.end()
	}
	return string(write(nil, "vectorset", pairs(all), "quant-type", "vector-dim", "size", "hnsw-m")) + l.join(true), nil
}
