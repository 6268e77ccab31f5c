package restore

import (
	"slices"

	"github.com/amberkv/amber/catalog"
)

// appends tells whether parts of a backup are append-only files.
func appends(b *catalog.Backup) bool {
	return slices.ContainsFunc(b.Parts, func(p catalog.Part) bool { return p.Dialect == catalog.DialectAOF })
}

// judgeAppends adds to a verdict whether append-only parts of a backup can be restored in this way. asIs says that the target gets the parts as they are.
func judgeAppends(v *Verdict, b *catalog.Backup, asIs bool) {
	const works = "restore it as the append-only directory of a new server, or by the loader that writes by commands"
	switch {
	case !appends(b):
	case v.Replays && !asIs: // the loader executes them
	case !v.Appends:
		v.Fail("append-only", "%d commands of append-only files are to be executed on top of the keys, which this target can't: %s", b.Commands, works)
	case !asIs:
		v.Fail("append-only", "commands of append-only files can't be selected, renamed or given other expiries: %s", works)
	}
}
