package backup

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/amberkv/amber/catalog"
)

// MaxRetainDays is the longest retention that an edit can set, in days.
const MaxRetainDays = 36500

// Errors of an edit.
var (
	// ErrNotReady: only a backup that is ready can be edited.
	ErrNotReady = errors.New("backup is not ready")
	// ErrSigned: the backup is signed, and can't be signed again after an edit.
	ErrSigned = errors.New("backup is signed, and an edit would make its signature void")
)

// An Edit says what is changed of a backup. What is nil or empty stays as it is.
type Edit struct {
	Description  *string           // at most 1000 bytes
	SetLabels    map[string]string // which are added, or get another value; as catalog.ValidLabels says
	RemoveLabels []string          // keys of labels that go; one that isn't there is no error
	Pinned       *bool             // retention leaves a pinned backup alone
	// RetainDays is for how many days the backup is kept, from its beginning; 0: for ever. An automatic backup has none: it is kept as long as its
	// policy says.
	RetainDays *int
}

func (e *Edit) validate() error {
	if e.Description != nil && len(*e.Description) > 1000 {
		return fmt.Errorf("backup: Edit.Description has %d bytes, the limit is 1000", len(*e.Description))
	}
	if err := catalog.ValidLabels(e.SetLabels); err != nil {
		return fmt.Errorf("backup: Edit.SetLabels: %w", err)
	}
	for _, key := range e.RemoveLabels {
		if err := catalog.ValidName(key); err != nil {
			return fmt.Errorf("backup: Edit.RemoveLabels: %.40q: %w", key, err)
		}
		if _, both := e.SetLabels[key]; both {
			return fmt.Errorf("backup: Edit: label %s is both in SetLabels and in RemoveLabels", key)
		}
	}
	if e.RetainDays != nil && (*e.RetainDays < 0 || *e.RetainDays > MaxRetainDays) {
		return fmt.Errorf("backup: Edit.RetainDays is %d, it has to be 0 to %d", *e.RetainDays, MaxRetainDays)
	}
	return nil
}

// apply edits b and tells whether that changed anything.
func (e *Edit) apply(b *catalog.Backup) (changed bool, err error) {
	if e.Description != nil && *e.Description != b.Description {
		b.Description, changed = *e.Description, true
	}
	if e.Pinned != nil && *e.Pinned != b.Pinned {
		b.Pinned, changed = *e.Pinned, true
	}
	labels := maps.Clone(b.Labels)
	for _, key := range e.RemoveLabels {
		delete(labels, key)
	}
	if len(e.SetLabels) > 0 && labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, e.SetLabels)
	if !maps.Equal(labels, b.Labels) {
		if err := catalog.ValidLabels(labels); err != nil {
			return false, fmt.Errorf("its labels, with those of Edit.SetLabels: %w", err)
		}
		b.Labels, changed = labels, true
	}
	if e.RetainDays != nil {
		if b.Kind == catalog.KindAutomatic {
			return false, fmt.Errorf("Edit.RetainDays is %d, and the backup is automatic: it is kept as long as policy %q says; pin it to keep it longer", *e.RetainDays, b.Policy)
		}
		var until time.Time
		if *e.RetainDays > 0 {
			until = b.CreatedAt.Add(time.Duration(*e.RetainDays) * 24 * time.Hour)
		}
		if !until.Equal(b.DeleteAfter) {
			b.DeleteAfter, changed = until, true
		}
	}
	return changed, nil
}

// Edit changes what may be changed of a backup that is ready, and returns its manifest as it is then; everything else of it stays as it was. Of
// several edits at a time each is done. One that changes nothing writes nothing.
//
// A manifest that is signed is signed anew, by Config.Signer. Its signature has to be that of the Signer, or of one of Config.Trust, and has to hold: what
// somebody else has written is not vouched for by an edit. Else, and without a Signer, the error wraps ErrSigned. One that isn't signed isn't signed by an
// edit either.
//
// The error wraps ErrNotReady if the backup is in another state, ErrBusy if it is being copied into this store, and catalog.ErrNotFound if there is
// none.
func (r *Runner) Edit(ctx context.Context, id catalog.ID, e Edit) (*catalog.Backup, error) {
	if err := e.validate(); err != nil {
		return nil, err
	}
	b, err := r.edit(ctx, id, &e)
	if err != nil {
		return nil, fmt.Errorf("editing backup %s: %w", id, err)
	}
	return b, nil
}

func (r *Runner) edit(ctx context.Context, id catalog.ID, e *Edit) (*catalog.Backup, error) {
	for range 100 {
		b, rev, err := r.cfg.Catalog.Get(ctx, id)
		if err != nil {
			return nil, err
		}
		switch {
		case b.Kind == catalog.KindCopy:
			return nil, r.editCopy(ctx, b)
		case b.State != catalog.StateReady:
			return nil, fmt.Errorf("%w: it is %s", ErrNotReady, b.State)
		}
		edited := *b
		changed, err := e.apply(&edited)
		if err != nil || !changed {
			return b, err
		}
		if b.Signature != nil {
			if err := r.signAgain(b, &edited); err != nil {
				return nil, err
			}
		}
		_, err = r.cfg.Catalog.Put(ctx, &edited, rev)
		if err == nil {
			r.log.InfoContext(ctx, "a backup was edited", "dataStore", b.DataStore, "backup", id)
			return &edited, nil
		}
		if !errors.Is(err, catalog.ErrConflict) {
			return nil, fmt.Errorf("%w: writing the manifest, which may be done all the same: edit it again: %w", ErrStore, err)
		}
	}
	return nil, fmt.Errorf("%w: others have changed it a hundred times meanwhile", catalog.ErrConflict)
}

// editCopy says why the record of a copy can't be edited: the copy would bring what the manifest said before the edit. One that has died brings nothing any
// more.
func (r *Runner) editCopy(ctx context.Context, b *catalog.Backup) error {
	none := fmt.Errorf("%w: there is only the record of a copy that came to nothing", catalog.ErrNotFound)
	if b.State != catalog.StateRunning {
		return none
	}
	lease, err := r.cfg.Leaser.Acquire(ctx, leaseOf(b), r.cfg.LeaseTTL)
	if errors.Is(err, catalog.ErrHeld) {
		return fmt.Errorf("%w: it is being copied into this store: edit it when that has ended: %w", ErrBusy, err)
	}
	if err != nil {
		return err
	}
	if err = r.interrupt(ctx, b.ID); err == nil {
		err = none
	}
	if rerr := lease.Release(ctx); rerr != nil {
		r.log.WarnContext(ctx, "lease was not released", "dataStore", b.DataStore, "error", rerr)
	}
	return err
}

// signAgain signs what an edit has made of a manifest, if the former signature is one that the signer may replace.
func (r *Runner) signAgain(b, edited *catalog.Backup) error {
	key := base64.StdEncoding.EncodeToString(b.Signature.Key)
	if r.cfg.Signer == nil {
		return fmt.Errorf("%w: it is signed with %s, and there is no key to sign it again with: set Config.Signer", ErrSigned, key)
	}
	own := r.cfg.Signer.Public().(ed25519.PublicKey) // NewRunner has seen to that
	if err := catalog.CheckSignature(b, append(slices.Clone(r.cfg.Trust), own)); err != nil {
		return fmt.Errorf("%w: it would be signed again with %s, which has nothing to say for it: %w", ErrSigned, base64.StdEncoding.EncodeToString(own), err)
	}
	return catalog.Sign(edited, r.cfg.Signer)
}
