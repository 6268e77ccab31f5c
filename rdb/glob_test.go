package rdb

import "testing"

func TestMatchGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"", "", true}, {"", "a", false}, {"*", "", true}, {"*", "abc", true}, {"***", "", false}, {"***", "a", true}, {"a*", "abc", true},
		{"*c", "abc", true}, {"*b", "abc", false}, {"a*c*e", "abcde", true}, {"a*c*e", "abcd", false},
		{"?", "", false}, {"?", "a", true}, {"?b", "ab", true}, {"??", "a", false}, {"a?*", "a", false},
		{"*ab", "aab", true}, {"*aab*", "aaaab", true}, {"*a?c", "abcaxc", true},
		{"[abc]", "b", true}, {"[abc]", "d", false}, {"[^abc]", "d", true}, {"[^abc]", "a", false},
		{"[a-c]x", "bx", true}, {"[c-a]", "b", true}, {"[a-c", "b", true}, {"[a-", "-", true}, {"[a-", "b", false},
		{"[", "[", false}, {"[", "", false}, {"[^", "a", true}, {"[]", "]", false}, {"[^]", "x", true}, {"[^]", "", false},
		{"[]a]", "a]", false}, {"[a-]]", "b]", false}, {"[a-]", "^", true}, {"[a-]", "b", false}, {`[\]]`, "]", true}, {`[\^a]`, "^", true},
		{`[\a-c]`, "b", false}, {`[\a-c]`, "-", true}, {`[a-\c]`, `]`, true}, {`[\`, `\`, true},
		{`\*`, "*", true}, {`\*`, "a", false}, {`\`, `\`, true}, {`a\`, `a\`, true}, {`\\`, `\`, true}, {`\a`, "a", true},
		{"k\x00*", "k\x00\xff", true}, {"[\x80-\xff]", "\xc3", true}, {"a]", "a]", true}, {"h[^e]llo", "hello", false},
	} {
		if got := matchGlob(c.pattern, []byte(c.name)); got != c.want {
			t.Errorf("%q of %q: %v", c.pattern, c.name, got)
		}
	}
}
