package catalog

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Query selects backups. The zero Query selects all that are ready; each field that is set narrows that down.
type Query struct {
	DataStore string            // only of this data store
	States    []State           // in one of these states; empty means StateReady
	Kinds     []Kind            // of one of these kinds
	Policy    string            // made by this policy
	Name      string            // of this name
	Labels    map[string]string // with all of these labels
	From      time.Time         // begun at this time or later
	Until     time.Time         // begun before this time
	Text      string            // with this text in the ID, data store, name, description or a label's value, whatever the case of its letters
}

// Match tells whether q selects a backup.
func (q Query) Match(b *Backup) bool {
	states := q.States
	if len(states) == 0 {
		states = []State{StateReady}
	}
	switch {
	case !slices.Contains(states, b.State),
		q.DataStore != "" && q.DataStore != b.DataStore,
		len(q.Kinds) > 0 && !slices.Contains(q.Kinds, b.Kind),
		q.Policy != "" && q.Policy != b.Policy,
		q.Name != "" && q.Name != b.Name,
		!q.From.IsZero() && b.CreatedAt.Before(q.From),
		!q.Until.IsZero() && !b.CreatedAt.Before(q.Until):
		return false
	}
	for key, value := range q.Labels {
		if has, ok := b.Labels[key]; !ok || has != value {
			return false
		}
	}
	if q.Text == "" {
		return true
	}
	text := strings.ToLower(q.Text)
	for _, field := range []string{string(b.ID), b.DataStore, b.Name, b.Description} {
		if strings.Contains(strings.ToLower(field), text) {
			return true
		}
	}
	for _, value := range b.Labels {
		if strings.Contains(strings.ToLower(value), text) {
			return true
		}
	}
	return false
}

// maxText is how long the text of a query may be, in bytes.
const maxText = 1000

// Validate returns nil for a query that can select something, else an error that says which field can't be meant so.
func (q Query) Validate() error {
	for _, name := range []struct{ field, value string }{{"DataStore", q.DataStore}, {"Policy", q.Policy}, {"Name", q.Name}} {
		if name.value == "" {
			continue
		}
		if err := ValidName(name.value); err != nil {
			return fmt.Errorf("catalog: Query.%s %.40q: %w", name.field, name.value, err)
		}
	}
	for _, state := range q.States {
		switch state {
		case StateRunning, StateReady, StateFailed, StateInterrupted, StateDeleting:
		default:
			return fmt.Errorf("catalog: Query.States: the state %.40q does not exist: there are %s, %s, %s, %s and %s", state,
				StateRunning, StateReady, StateFailed, StateInterrupted, StateDeleting)
		}
	}
	for _, kind := range q.Kinds {
		if err := ValidName(string(kind)); err != nil {
			return fmt.Errorf("catalog: Query.Kinds: kind %.40q: %w", kind, err)
		}
	}
	if err := ValidLabels(q.Labels); err != nil {
		return fmt.Errorf("catalog: Query.Labels: %w", err)
	}
	if !q.From.IsZero() && !q.Until.IsZero() && !q.From.Before(q.Until) {
		return fmt.Errorf("catalog: Query.From %s is not before Query.Until %s: nothing begins at the one or later and before the other",
			q.From.UTC().Format(time.RFC3339Nano), q.Until.UTC().Format(time.RFC3339Nano))
	}
	if len(q.Text) > maxText {
		return fmt.Errorf("catalog: Query.Text has %d bytes, the limit is %d", len(q.Text), maxText)
	}
	return nil
}

// A Cursor is a place in a list of backups, which begins with the newest ID and has backups of the same ID in the order of their data stores: the place
// behind the backup of this ID in this data store. Without a data store it is before all of this ID; the zero Cursor is the beginning.
type Cursor struct {
	ID        ID
	DataStore string
}

// Before tells whether the place is before a backup of this ID in this data store.
func (c Cursor) Before(id ID, dataStore string) bool {
	return c.ID == "" || id < c.ID || id == c.ID && dataStore > c.DataStore
}

// A Pager is a Catalog that gives a page of a long list without reading all of it. A page may lack what was written in the last moments by a
// process that was killed while it did so, and what somebody else put into the store behind the catalog's back, until a sweep; so nothing
// that decides about backups goes by pages. What it gives is as true as what List gives.
type Pager interface {
	// Page gives up to limit backups that q selects, in the order of a Cursor and from one on. Fewer than limit mean that there are no more.
	// Manifests that can't be read, of those that it came across, are errors of their own, which wrap ErrCorrupt; they hide no other.
	Page(ctx context.Context, q Query, from Cursor, limit int) (page []*Backup, unreadable []error, err error)
}

// An Indexer is a Catalog that keeps something which can be made anew from its manifests.
type Indexer interface {
	// Reindex compares it with the manifests, makes anew what is missing or wrong, and tells of how many backups that was. Writers and readers may
	// be at work meanwhile.
	Reindex(ctx context.Context) (mended int, err error)
}
