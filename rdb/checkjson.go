package rdb

// A jsonChecker checks JSON text that comes in pieces. The zero value is at the start.
type jsonChecker struct {
	state   jsonState
	literal string // what is left of true, false or null
	hex     uint8  // digits still to come
	depth   int
	objects uint64 // a bit for each level: it is an object, not an array
	key     bool   // the string is the name of a member
}

// maxJSONDepth is how deep Dragonfly lets values be nested when it loads them.
const maxJSONDepth = 64

// A jsonState says what comes next.
type jsonState uint8

const (
	jsonValue        jsonState = iota
	jsonValueOrEnd             // of an array
	jsonNameOrEnd              // of an object
	jsonName                   //
	jsonColon                  //
	jsonAfter                  // a comma or the end of what the value is in
	jsonString                 //
	jsonEscape                 //
	jsonHex                    //
	jsonLiteral                //
	jsonMinus                  // the first digit
	jsonZero                   // . or e
	jsonInteger                // also another digit
	jsonPoint                  // the first digit behind it
	jsonFraction               // another one, or e
	jsonExponent               // a sign or a digit
	jsonExponentSign           // a digit
	jsonExponentMore           // another one
)

// ends tells whether the text may end here.
func (j *jsonChecker) ends() bool {
	switch j.state {
	case jsonAfter, jsonZero, jsonInteger, jsonFraction, jsonExponentMore:
		return j.depth == 0
	}
	return false
}

// add takes a piece, and returns false if no JSON goes on so, or not one that Dragonfly loads.
func (j *jsonChecker) add(p []byte) bool {
	for i := 0; i < len(p); i++ {
		c := p[i]
		if j.state == jsonString {
			// Most text is within strings.
			for c != '"' && c != '\\' && c >= ' ' {
				if i++; i == len(p) {
					return true
				}
				c = p[i]
			}
		}
		if !j.step(c) {
			return false
		}
	}
	return true
}

func (j *jsonChecker) step(c byte) bool {
	digit := c >= '0' && c <= '9'
	switch j.state {
	case jsonString:
		switch {
		case c == '"' && j.key:
			j.state, j.key = jsonColon, false
		case c == '"':
			j.state = jsonAfter
		case c == '\\':
			j.state = jsonEscape
		default:
			return c >= ' '
		}
		return true
	case jsonEscape:
		switch c {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			j.state = jsonString
		case 'u':
			j.state, j.hex = jsonHex, 4
		default:
			return false
		}
		return true
	case jsonHex:
		if j.hex--; j.hex == 0 {
			j.state = jsonString
		}
		return digit || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
	case jsonLiteral:
		if c != j.literal[0] {
			return false
		}
		if j.literal = j.literal[1:]; j.literal == "" {
			j.state = jsonAfter
		}
		return true
	case jsonMinus, jsonZero, jsonInteger, jsonPoint, jsonFraction, jsonExponent, jsonExponentSign, jsonExponentMore:
		if j.number(c, digit) {
			return true
		}
		if !j.numberEnds() {
			return false
		}
		j.state = jsonAfter
	}
	if c == ' ' || c == '\t' || c == '\n' || c == '\r' {
		return true
	}
	switch j.state {
	case jsonValueOrEnd:
		if c == ']' {
			return j.pop(false)
		}
		return j.value(c, digit)
	case jsonValue:
		return j.value(c, digit)
	case jsonNameOrEnd:
		if c == '}' {
			return j.pop(true)
		}
		fallthrough
	case jsonName:
		j.state, j.key = jsonString, true
		return c == '"'
	case jsonColon:
		j.state = jsonValue
		return c == ':'
	}
	switch {
	case j.depth == 0:
		return false
	case c == ',' && j.objects&1 != 0:
		j.state = jsonName
	case c == ',':
		j.state = jsonValue
	case c == ']':
		return j.pop(false)
	case c == '}':
		return j.pop(true)
	default:
		return false
	}
	return true
}

// value begins a value.
func (j *jsonChecker) value(c byte, digit bool) bool {
	switch {
	case c == '"':
		j.state = jsonString
	case c == '{':
		return j.push(1, jsonNameOrEnd)
	case c == '[':
		return j.push(0, jsonValueOrEnd)
	case c == 't':
		j.state, j.literal = jsonLiteral, "rue"
	case c == 'f':
		j.state, j.literal = jsonLiteral, "alse"
	case c == 'n':
		j.state, j.literal = jsonLiteral, "ull"
	case c == '-':
		j.state = jsonMinus
	case c == '0':
		j.state = jsonZero
	case digit:
		j.state = jsonInteger
	default:
		return false
	}
	return true
}

func (j *jsonChecker) push(object uint64, then jsonState) bool {
	j.depth++
	j.objects = j.objects<<1 | object
	j.state = then
	return j.depth <= maxJSONDepth
}

func (j *jsonChecker) pop(object bool) bool {
	ok := j.objects&1 != 0 == object
	j.depth--
	j.objects >>= 1
	j.state = jsonAfter
	return ok
}

// number goes on with a number, if it does.
func (j *jsonChecker) number(c byte, digit bool) bool {
	switch s := j.state; {
	case digit && s == jsonMinus && c == '0':
		j.state = jsonZero
	case digit && s == jsonMinus:
		j.state = jsonInteger
	case digit && s == jsonPoint:
		j.state = jsonFraction
	case digit && (s == jsonExponent || s == jsonExponentSign):
		j.state = jsonExponentMore
	case digit && s != jsonZero:
	case c == '.' && (s == jsonZero || s == jsonInteger):
		j.state = jsonPoint
	case (c == 'e' || c == 'E') && (s == jsonZero || s == jsonInteger || s == jsonFraction):
		j.state = jsonExponent
	case (c == '+' || c == '-') && s == jsonExponent:
		j.state = jsonExponentSign
	default:
		return false
	}
	return true
}

func (j *jsonChecker) numberEnds() bool {
	return j.state == jsonZero || j.state == jsonInteger || j.state == jsonFraction || j.state == jsonExponentMore
}
