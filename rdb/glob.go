package rdb

// matchGlob tells whether a name matches a pattern, as the KEYS and SCAN commands do:
//
//   - any bytes, also none
//     ?      any one byte
//     [abc]  one of these; [^abc] none of these; [a-z] one of a range, which may be given in either direction
//     \x     x, whatever it means otherwise, also within brackets
//
// There are no wrong patterns: a bracket that is not closed ends with the pattern, a backslash at the end is itself, and
// a range may end with what would else close the bracket. Servers have one whim: of all patterns that are stars alone,
// only a single star matches the empty name.
func matchGlob(pattern string, name []byte) bool {
	if len(name) == 0 {
		return pattern == "" || pattern == "*"
	}
	p, n := 0, 0
	star, from := -1, 0 // the pattern behind the last star, and what of the name is tried for it
	for {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			p++
			star, from = p, n
			continue
		case n == len(name):
			return p == len(pattern)
		case p < len(pattern):
			if matched, next := matchOne(pattern, p, name[n]); matched {
				p = next
				n++
				continue
			}
		}
		// Every other item stands for one byte, so that only what the last star takes can be changed to any use.
		if star < 0 {
			return false
		}
		from++
		p, n = star, from
	}
}

// matchOne tells whether the item at pattern[p] stands for a byte, and where the next one begins.
func matchOne(pattern string, p int, c byte) (matched bool, next int) {
	switch pattern[p] {
	case '?':
		return true, p + 1
	case '[':
		return matchBracket(pattern, p+1, c)
	case '\\':
		if p+1 < len(pattern) {
			p++
		}
	}
	return pattern[p] == c, p + 1
}

// matchBracket is matchOne behind an opening bracket.
func matchBracket(pattern string, p int, c byte) (matched bool, next int) {
	inverted := p < len(pattern) && pattern[p] == '^'
	if inverted {
		p++
	}
	for ; p < len(pattern); p++ {
		switch {
		case pattern[p] == '\\' && p+1 < len(pattern):
			p++
			matched = matched || pattern[p] == c
		case pattern[p] == ']':
			return matched != inverted, p + 1
		case p+2 < len(pattern) && pattern[p+1] == '-':
			low, high := min(pattern[p], pattern[p+2]), max(pattern[p], pattern[p+2])
			matched = matched || low <= c && c <= high
			p += 2
		default:
			matched = matched || pattern[p] == c
		}
	}
	return matched != inverted, p
}
