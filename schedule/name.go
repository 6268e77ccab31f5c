package schedule

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/amberkv/amber/catalog"
)

// maxTemplate is the longest template of a name, in bytes.
const maxTemplate = 200

// ExpandName makes the name of a backup of a template and a time, whose location says by which clock. It replaces what Dragonfly's flag
// dbfilename has:
//
//   - {timestamp} by the date and time, as 2026-11-27T20-04-05: a name may not have a ":" in it, which Dragonfly puts there;
//   - {Y}, {m} and {d} by the year, the month and the day, as 2026, 11 and 27.
//
// When clocks are set back and a time comes again, its {timestamp} has "-2" at its end the second time: names of different times differ. (They sort by time but for that
// hour.) The error says what is wrong with the template, or with the name that comes of it: see catalog.ValidBackupName.
func ExpandName(template string, t time.Time) (string, error) {
	if len(template) > maxTemplate {
		return "", fmt.Errorf("it has %d bytes, the limit is %d", len(template), maxTemplate)
	}
	var name strings.Builder
	for rest := template; rest != ""; {
		text, macro, found := strings.Cut(rest, "{")
		name.WriteString(text)
		if !found {
			break
		}
		macro, rest, found = strings.Cut(macro, "}")
		switch {
		case found && macro == "timestamp":
			name.WriteString(timestamp(t))
		case found && macro == "Y":
			name.WriteString(t.Format("2006"))
		case found && macro == "m":
			name.WriteString(t.Format("01"))
		case found && macro == "d":
			name.WriteString(t.Format("02"))
		default:
			return "", fmt.Errorf("%s: there are {timestamp}, {Y}, {m} and {d}, and no other \"{\"", quoted("{"+macro))
		}
	}
	if err := catalog.ValidBackupName(name.String()); err != nil {
		return "", fmt.Errorf("it makes the name %s: %w", quoted(name.String()), err)
	}
	return name.String(), nil
}

func timestamp(t time.Time) string {
	s := t.Format("2006-01-02T15-04-05")
	z := zone{location: t.Location()}
	unix := t.Unix()
	if e := z.at(unix); unix+e.offset < e.high {
		s += "-2"
	}
	return s
}

// validTemplate returns nil for a template that makes a different name for each due time, of which two are no closer than a distance.
func validTemplate(template string, distance time.Duration) error {
	day := time.Date(2026, 10, 25, 2, 30, 0, 0, time.UTC)
	if _, err := ExpandName(template, day); err != nil {
		return err
	}
	// The longest one, of a time that comes again.
	if _, err := ExpandName(strings.ReplaceAll(template, "{timestamp}", "{timestamp}-2"), day); err != nil {
		return err
	}
	has := func(macro string) bool { return strings.Contains(template, macro) }
	switch {
	case has("{timestamp}"):
	case !has("{Y}") || !has("{m}") || !has("{d}"):
		return errors.New("it needs {timestamp} in it, or all of {Y}, {m} and {d}: else backups of different days have the same name")
	case distance != 0 && distance < 24*time.Hour:
		return fmt.Errorf("it needs {timestamp} in it: the policy is due more than once a day, after %s already, and these backups would have the same name", lengthText(distance))
	}
	return nil
}
