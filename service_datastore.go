package amber

import (
	"context"
	"errors"
	"fmt"

	"github.com/amberkv/amber/catalog"
)

// A DeleteDatastoreReport says what became of what belonged to a data store.
type DeleteDatastoreReport struct {
	DataStore string            `json:"dataStore"`
	Policies  []string          `json:"policies"` // the IDs of those that were removed
	Backups   []DatastoreBackup `json:"backups"`  // that were ready, in each store, newest first
}

// A DatastoreBackup is one backup of a data store that is no more.
type DatastoreBackup struct {
	ID      catalog.ID   `json:"id"`
	Name    string       `json:"name,omitempty"`
	Kind    catalog.Kind `json:"kind"`
	Store   string       `json:"store,omitempty"` // the name of the store; empty: Config.Store
	Bytes   int64        `json:"bytes"`
	Deleted bool         `json:"deleted"`
	Reason  string       `json:"reason"` // why it was deleted, or is kept
}

// DeleteDatastore lets go of what belongs to a data store that is no more: its policies first, so that they make no more backups, and then its automatic
// backups in all stores. Those that are pinned stay, as do manual, imported, safety and shutdown backups: they outlive their data store. The report
// tells of each which it was, and why.
//
// While the data store is being backed up, or a backup of it copied, nothing is done, and the error wraps backup.ErrBusy. An automatic backup that somebody
// reads stays, and the error, which then comes with the report, wraps backup.ErrBusy too: do it again later. Doing it again does no harm.
func (s *Service) DeleteDatastore(ctx context.Context, dataStore string) (DeleteDatastoreReport, error) {
	rep := DeleteDatastoreReport{DataStore: dataStore, Policies: []string{}, Backups: []DatastoreBackup{}}
	if err := catalog.ValidName(dataStore); err != nil {
		return rep, fmt.Errorf("amber: the data store's ID %.110q: %w", dataStore, err)
	}
	// The leases are the same for all stores.
	err := s.places[0].runner.Alone(ctx, dataStore, func(ctx context.Context) error {
		removed, err := s.removePolicies(ctx, dataStore)
		rep.Policies = append(rep.Policies, removed...)
		if err != nil {
			return err // what a policy makes would be deleted by nobody
		}
		var errs []error
		for _, at := range s.places {
			if err := s.deleteAutomatic(ctx, at, &rep); err != nil {
				errs = append(errs, at.wrap(err))
			}
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return rep, fmt.Errorf("deleting what belongs to data store %s: %w", dataStore, err)
	}
	return rep, nil
}

// deleteAutomatic deletes the automatic backups of a data store that a store has.
func (s *Service) deleteAutomatic(ctx context.Context, at *place, rep *DeleteDatastoreReport) error {
	var errs []error
	query := catalog.Query{DataStore: rep.DataStore, States: []catalog.State{catalog.StateReady, catalog.StateRunning}}
	for b, err := range at.Catalog.List(ctx, query) {
		if errors.Is(err, catalog.ErrCorrupt) {
			s.cfg.Logger.WarnContext(ctx, "a manifest can't be read, so what kind of backup it is isn't known: it stays", "dataStore", rep.DataStore, "store", at.Name, "error", err)
			continue
		}
		if err != nil {
			errs = append(errs, err)
			break
		}
		if b.State == catalog.StateRunning {
			// Its run has died, or sleeps: then it shall not publish when it wakes up. Sweep takes what it left.
			if b.Kind != catalog.KindCopy {
				if _, err := at.runner.Settle(ctx, b.ID); err != nil {
					errs = append(errs, err)
				}
			}
			continue
		}
		fate := DatastoreBackup{ID: b.ID, Name: b.Name, Kind: b.Kind, Store: at.Name, Bytes: b.StoredBytes}
		switch {
		case b.Kind != catalog.KindAutomatic:
			fate.Reason = fmt.Sprintf("it is of kind %s, which outlives its data store", b.Kind)
		case b.Pinned:
			fate.Reason = "it is pinned: unpin it and do this again, or delete it by its ID"
		default:
			fate.Reason = "it is automatic, and dies with its data store"
			if err := at.runner.Delete(ctx, b.ID); err == nil || errors.Is(err, catalog.ErrNotFound) {
				fate.Deleted = true
			} else {
				fate.Reason = err.Error()
				errs = append(errs, err)
			}
		}
		rep.Backups = append(rep.Backups, fate)
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}
