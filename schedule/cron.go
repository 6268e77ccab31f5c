package schedule

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/robfig/cron/v3"
)

// maxCron is the longest text of a cron schedule, in bytes; one that lists all minutes, hours and days has about 350.
const maxCron = 500

// macros are the names that crontab(5) has for schedules.
var macros = map[string]string{
	"@yearly":   "0 0 1 1 *",
	"@annually": "0 0 1 1 *",
	"@monthly":  "0 0 1 * *",
	"@weekly":   "0 0 * * 0",
	"@daily":    "0 0 * * *",
	"@midnight": "0 0 * * *",
	"@hourly":   "0 * * * *",
}

// A cronField is one of the five fields.
type cronField struct {
	name     string
	min, max int      // 7 of the days of the week is Sunday, as 0 is
	names    []string // of the values from min on
}

var cronFields = []cronField{
	{"minute", 0, 59, nil},
	{"hour", 0, 23, nil},
	{"day of the month", 1, 31, nil},
	{"month", 1, 12, []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}},
	{"day of the week", 0, 7, []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}},
}

// parseCron reads the five fields of crontab(5), or a macro.
//
// What it gives to the parser has been looked at before: that panics on some prefixes, reads "1,,2" and "*-5" as something, takes an empty list for
// no time at all and a step that is too long for a longer interval, and knows no Sunday that is 7. Nor does it say which field is wrong.
func parseCron(text string) (*calendar, error) {
	if len(text) > maxCron {
		return nil, fmt.Errorf("it has %d bytes, the limit is %d", len(text), maxCron)
	}
	for i, c := range []byte(text) {
		if (c < ' ' || c > '~') && c != '\t' {
			return nil, fmt.Errorf("character %d, %s, is not allowed: fields consist of digits, names, \"*\", \"/\", \"-\" and \",\"", i+1, strconv.QuoteToASCII(text[i:i+1]))
		}
	}
	spec := strings.Trim(text, " \t")
	if strings.HasPrefix(spec, "@") {
		fields, ok := macros[spec]
		if !ok {
			return nil, noMacro(spec)
		}
		spec = fields
	}
	fields := strings.Fields(spec)
	if err := countFields(fields); err != nil {
		return nil, err
	}
	for i, f := range cronFields {
		field, err := f.check(fields[i])
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", f.name, quoted(fields[i]), err)
		}
		fields[i] = field
	}
	parsed, err := cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow).Parse(strings.Join(fields, " "))
	if err != nil {
		return nil, err
	}
	s, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return nil, fmt.Errorf("the parser made a %T of it", parsed)
	}
	// The parser's topmost bit tells of stars. It takes "*/2" for a restriction, which crontab(5) doesn't.
	const values = 1<<63 - 1
	c := &calendar{months: uint16(s.Month & values), days: uint32(s.Dom & values), weekdays: uint8(s.Dow & values)}
	c.either = !starred(fields[2]) && !starred(fields[4])
	for h := range c.minutes {
		if s.Hour>>h&1 != 0 {
			c.minutes[h] = s.Minute & values
		}
	}
	if _, ok := c.from(0); !ok {
		return nil, fmt.Errorf("there is no such date: day %s of month %s", fields[2], fields[3])
	}
	return c, nil
}

// starred says whether a field doesn't restrict anything, as crontab(5) says it.
func starred(field string) bool {
	return strings.HasPrefix(field, "*") || strings.HasPrefix(field, "?")
}

func noMacro(spec string) error {
	switch {
	case strings.HasPrefix(spec, "@every"):
		return errors.New("@every is no schedule of crontab(5): set when.every instead")
	case spec == "@reboot":
		return errors.New("@reboot is no time: a backup when a host shuts down is a matter of the host, not of a policy")
	}
	return errors.New("there is no such name; there are @hourly, @daily (or @midnight), @weekly, @monthly and @yearly (or @annually)")
}

const fiveFields = "minute, hour, day of the month, month, day of the week"

func countFields(fields []string) error {
	if len(fields) > 0 {
		for _, prefix := range []string{"TZ=", "CRON_TZ="} {
			if strings.HasPrefix(fields[0], prefix) {
				return fmt.Errorf("%s is no field of it: the time zone is the policy's timeZone", prefix)
			}
		}
	}
	switch len(fields) {
	case len(cronFields):
		return nil
	case 0:
		return errors.New("it is empty; it must have 5 fields: " + fiveFields)
	case 6:
		if fields[0] == "0" {
			return fmt.Errorf("it has 6 fields, it must have 5: %s. Seconds aren't taken: without them it is %q", fiveFields, strings.Join(fields[1:], " "))
		}
		return fmt.Errorf("it has 6 fields, it must have 5: %s. Neither seconds, as a first field, nor years nor users nor commands are taken", fiveFields)
	}
	return fmt.Errorf("it has %d fields, it must have 5: %s", len(fields), fiveFields)
}

// check returns a field of which the parser makes what it says here.
func (f *cronField) check(field string) (string, error) {
	elements := strings.Split(field, ",")
	for i, element := range elements {
		if element == "" {
			return "", errors.New("an element of the list is empty")
		}
		base, step, stepped := strings.Cut(element, "/")
		n := 1
		if stepped {
			var err error
			if n, err = f.step(step); err != nil {
				return "", err
			}
		}
		if base == "*" || base == "?" {
			if base == "?" && !strings.HasPrefix(f.name, "day") {
				return "", errors.New(`"?" is for days only: use "*"`)
			}
			continue
		}
		low, high, ranged := strings.Cut(base, "-")
		if ranged && starred(base) {
			return "", fmt.Errorf("%s is no range: these have a value at either end", base)
		}
		from, err := f.value(low)
		if err != nil {
			return "", err
		}
		to := from
		if ranged {
			if to, err = f.value(high); err != nil {
				return "", err
			}
			if f.max == 7 && to == 0 && from > 0 {
				to = 7 // until Sunday
			}
			if from > to {
				return "", fmt.Errorf("the range %s goes downwards: make two of it, as %s-%d,%d-%s", base, low, f.last(), f.min, high)
			}
		}
		if f.max == 7 && to == 7 {
			elements[i] = sundays(from, n)
		}
	}
	return strings.Join(elements, ","), nil
}

// sundays lists the days of the week from one of them to 7, every n-th, by the numbers that the parser knows.
func sundays(from, n int) string {
	var days []string
	for d := from; d <= 7; d += n {
		days = append(days, strconv.Itoa(d%7))
	}
	return strings.Join(days, ",")
}

// last is the greatest value that the parser knows.
func (f *cronField) last() int {
	if f.max == 7 {
		return 6
	}
	return f.max
}

func (f *cronField) value(s string) (int, error) {
	for i, name := range f.names {
		if strings.EqualFold(s, name) {
			return f.min + i, nil
		}
	}
	n, ok := twoDigits(s)
	if !ok {
		names := ""
		if f.names != nil {
			names = fmt.Sprintf(", or %s to %s", f.names[0], f.names[len(f.names)-1])
		}
		return 0, fmt.Errorf("%s is neither \"*\" nor a value: these are %d to %d%s", quoted(s), f.min, f.max, names)
	}
	if n < f.min || n > f.max {
		return 0, fmt.Errorf("%d is not from %d to %d", n, f.min, f.max)
	}
	return n, nil
}

func (f *cronField) step(s string) (int, error) {
	n, ok := twoDigits(s)
	if most := f.last() - f.min + 1; !ok || n < 1 || n > most {
		return 0, fmt.Errorf("the step %s must be a number from 1 to %d: it counts within the field, and begins anew with each round of it; for longer intervals set when.every", quoted(s), most)
	}
	return n, nil
}

func twoDigits(s string) (int, bool) {
	if s == "" || len(s) > 2 || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil
}
