package redact

import "testing"

func TestURLs(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 "",
		"dial tcp 10.0.0.1:6379":           "dial tcp 10.0.0.1:6379",
		"what? an @ and a ? without a URL": "what? an @ and a ? without a URL",
		`Get "https://bucket.example/a/b.rdb?X-Amz-Signature=abc&x=1": 403`:    `Get "https://bucket.example/a/b.rdb?***": 403`,
		"redis://user:p@ss:w0rd@host:6379/0: refused, and rediss://:x@h?db=1.": "redis://***@host:6379/0: refused, and rediss://***@h?***",
		"see https://example.com/@home and https://example.com/x":              "see https://example.com/@home and https://example.com/x",
		"s3://bucket?region=eu\nhttp://h":                                      "s3://bucket?***\nhttp://h",
	} {
		if got := URLs(text); got != want {
			t.Errorf("URLs(%q) gives %q, want %q", text, got, want)
		}
	}
}
