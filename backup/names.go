package backup

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/amberkv/amber/catalog"
)

// ErrNameTaken: another backup of the data store has the name that was asked for, and is ready or being made. The error names it.
var ErrNameTaken = errors.New("name is taken by another backup of the data store")

// names are those that the backups of a data store have.
type names map[string]*catalog.Backup

func (t names) add(b *catalog.Backup) {
	if b.Name != "" && t[b.Name] == nil {
		t[b.Name] = b
	}
}

// chooseName returns the name that the backup gets. The caller holds the lease of the data store, so that nobody gives away another one meanwhile.
//
// Stores that can't be listed are passed over: a backup is worth more than that its name is the only one.
func (n *run) chooseName(ctx context.Context, here names) (string, error) {
	if n.q.Name == "" {
		return "", nil
	}
	query := catalog.Query{DataStore: n.q.DataStore, States: []catalog.State{catalog.StateRunning, catalog.StateReady}}
	for _, other := range n.q.Others {
		for b, err := range other.List(ctx, query) {
			switch {
			case ctx.Err() != nil:
				return "", ctx.Err()
			case err != nil:
				n.log.WarnContext(ctx, "whether another store has a backup of this name isn't known", "dataStore", n.q.DataStore, "name", n.q.Name, "error", err)
			default: // also what says that it is running, whose run has died: asleep, it could publish yet
				here.add(b)
			}
		}
	}
	taken := here[n.q.Name]
	if taken == nil {
		return n.q.Name, nil
	}
	if n.q.Kind != catalog.KindAutomatic && n.q.Kind != catalog.KindShutdown {
		remedy := "delete that backup"
		if taken.State == catalog.StateRunning {
			remedy = "wait for it, or sweep if its run has died"
		}
		return "", fmt.Errorf("%w: %q is that of backup %s, which is %s: choose another name, or %s", ErrNameTaken, n.q.Name, taken.ID, taken.State, remedy)
	}
	// What nobody is there to ask about doesn't fail for its name.
	for i := 2; ; i++ {
		suffix := "-" + strconv.Itoa(i)
		name := n.q.Name[:min(len(n.q.Name), catalog.MaxNameLen-len(suffix))] + suffix
		if here[name] == nil {
			n.log.InfoContext(ctx, "a backup gets another name than the one that was asked for, which is taken", "dataStore", n.q.DataStore, "name", name, "taken", n.q.Name, "by", taken.ID)
			return name, nil
		}
	}
}
