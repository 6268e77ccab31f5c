package catalog

import (
	"context"
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

// A Pager is a Catalog that gives a page of a long list without reading all of it. A page may lack what was written in the last moments by a
// process that was killed while it did so, and what somebody else put into the store behind the catalog's back, until a sweep; so nothing
// that decides about backups goes by pages. What it gives is as true as what List gives.
type Pager interface {
	// Page gives up to limit backups that q selects, newest first, of those whose IDs sort before the one given; an empty one means all. Fewer
	// than limit mean that there are no more.
	Page(ctx context.Context, q Query, before ID, limit int) ([]*Backup, error)
}
