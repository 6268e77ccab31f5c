package backup_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/storage/memstore"
	"github.com/amberkv/amber/storage/storetest"
)

func is[T any](v T) *T { return &v }

// get returns a manifest.
func (h *house) get(t *testing.T, id catalog.ID) *catalog.Backup {
	t.Helper()
	b, _, err := h.catalog.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestEdit: each edit changes what it says, what it says again changes nothing, and all else of the manifest is as it was, to the byte.
func TestEdit(t *testing.T) {
	t.Parallel()
	h := newHouse(t, memstore.New(nil), nil)
	first, err := h.named(t, backup.Request{Name: "monthly", Description: "old", Labels: map[string]string{"team": "a", "old": "x"}, Retain: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	day := 24 * time.Hour
	for _, edit := range []struct {
		name string
		e    backup.Edit
		want func(b *catalog.Backup)
	}{
		{"nothing", backup.Edit{}, func(*catalog.Backup) {}},
		{"description", backup.Edit{Description: is("the night before")}, func(b *catalog.Backup) { b.Description = "the night before" }},
		{"no description", backup.Edit{Description: is("")}, func(b *catalog.Backup) { b.Description = "" }},
		{"pin", backup.Edit{Pinned: is(true)}, func(b *catalog.Backup) { b.Pinned = true }},
		{"retention", backup.Edit{RetainDays: is(30)}, func(b *catalog.Backup) { b.DeleteAfter = b.CreatedAt.Add(30 * day) }},
		{"for ever", backup.Edit{RetainDays: is(0)}, func(b *catalog.Backup) { b.DeleteAfter = time.Time{} }},
		{"unpin", backup.Edit{Pinned: is(false)}, func(b *catalog.Backup) { b.Pinned = false }},
		{"labels", backup.Edit{SetLabels: map[string]string{"team": "b", "new": ""}, RemoveLabels: []string{"old", "none"}},
			func(b *catalog.Backup) { b.Labels = map[string]string{"team": "b", "new": ""} }},
		{"no labels", backup.Edit{RemoveLabels: []string{"team", "new"}}, func(b *catalog.Backup) { b.Labels = nil }},
		{"a first label", backup.Edit{SetLabels: map[string]string{"one": "1"}}, func(b *catalog.Backup) { b.Labels = map[string]string{"one": "1"} }},
		{"all", backup.Edit{Description: is("d"), SetLabels: map[string]string{"two": "2"}, RemoveLabels: []string{"one"}, Pinned: is(true), RetainDays: is(backup.MaxRetainDays)},
			func(b *catalog.Backup) {
				b.Description, b.Labels, b.Pinned, b.DeleteAfter = "d", map[string]string{"two": "2"}, true, b.CreatedAt.Add(backup.MaxRetainDays*day)
			}},
	} {
		want := h.get(t, first.ID)
		edit.want(want)
		for again := range 2 {
			_, before, _ := h.catalog.Get(t.Context(), first.ID)
			got, err := h.runner.Edit(t.Context(), first.ID, edit.e)
			if err != nil {
				t.Fatalf("%s: %v", edit.name, err)
			}
			stored, after, err := h.catalog.Get(t.Context(), first.ID)
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Labels) == 0 { // none are none
				got.Labels = nil
			}
			if !reflect.DeepEqual(stored, want) || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: the manifest is\n%+v, Edit returned\n%+v, want\n%+v", edit.name, stored, got, want)
			}
			one, oneErr := catalog.Encode(stored)
			two, twoErr := catalog.Encode(want)
			if oneErr != nil || twoErr != nil || string(one) != string(two) {
				t.Errorf("%s: the manifest is %s, want %s; %v, %v", edit.name, one, two, oneErr, twoErr)
			}
			if again == 1 && before != after {
				t.Errorf("%s: an edit that changes nothing has written", edit.name)
			}
		}
	}
	if n := len(h.check(t)); n != 1 {
		t.Errorf("%d are listed", n)
	}
}

// TestEditRefused: every limit is told with the field, the value and the limit; what isn't ready can't be edited.
func TestEditRefused(t *testing.T) {
	t.Parallel()
	h := newHouse(t, memstore.New(nil), nil)
	many := map[string]string{}
	for i := range 64 {
		many[fmt.Sprintf("label-%d", i)] = ""
	}
	b, err := h.named(t, backup.Request{Labels: many})
	if err != nil {
		t.Fatal(err)
	}
	automatic, err := h.named(t, backup.Request{Kind: catalog.KindAutomatic, Policy: "nightly"})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		id   catalog.ID
		e    backup.Edit
		want []string
	}{
		{b.ID, backup.Edit{Description: is(strings.Repeat("x", 1001))}, []string{"Edit.Description", "1001", "1000"}},
		{b.ID, backup.Edit{RetainDays: is(-1)}, []string{"Edit.RetainDays", "-1", "0 to 36500"}},
		{b.ID, backup.Edit{RetainDays: is(36501)}, []string{"Edit.RetainDays", "36501", "0 to 36500"}},
		{b.ID, backup.Edit{SetLabels: map[string]string{"a b": ""}}, []string{"Edit.SetLabels", "a b"}},
		{b.ID, backup.Edit{SetLabels: map[string]string{"a": strings.Repeat("x", 201)}}, []string{"Edit.SetLabels", "201", "200"}},
		{b.ID, backup.Edit{SetLabels: map[string]string{"one-more": ""}}, []string{"Edit.SetLabels", "65", "64"}},
		{b.ID, backup.Edit{RemoveLabels: []string{""}}, []string{"Edit.RemoveLabels", "empty"}},
		{b.ID, backup.Edit{SetLabels: map[string]string{"a": ""}, RemoveLabels: []string{"a"}}, []string{"SetLabels", "RemoveLabels", "label a"}},
		{automatic.ID, backup.Edit{RetainDays: is(7)}, []string{"Edit.RetainDays", "7", "nightly"}},
	} {
		before := h.get(t, test.id)
		_, err := h.runner.Edit(t.Context(), test.id, test.e)
		for _, word := range test.want {
			if err == nil || !strings.Contains(err.Error(), word) {
				t.Errorf("%+v: %v, which lacks %q", test.e, err, word)
			}
		}
		if after := h.get(t, test.id); !reflect.DeepEqual(before, after) {
			t.Errorf("%+v was refused, and has changed the manifest", test.e)
		}
	}
	// What would be one too many in the end isn't if another goes.
	if _, err := h.runner.Edit(t.Context(), b.ID, backup.Edit{SetLabels: map[string]string{"one-more": ""}, RemoveLabels: []string{"label-1"}}); err != nil {
		t.Error(err)
	}
	if _, err := h.runner.Edit(t.Context(), automatic.ID, backup.Edit{Pinned: is(true)}); err != nil {
		t.Errorf("pinning an automatic backup: %v", err)
	}
	if _, err := h.runner.Edit(t.Context(), catalog.NewID(time.Now()), backup.Edit{}); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("a backup that isn't there: %v", err)
	}
	for _, state := range []catalog.State{catalog.StateRunning, catalog.StateFailed, catalog.StateInterrupted, catalog.StateDeleting} {
		id := h.dead(t, "orders", time.Now())
		b, rev, err := h.catalog.Get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		b.State = state
		if _, err := h.catalog.Put(t.Context(), b, rev); err != nil {
			t.Fatal(err)
		}
		if _, err := h.runner.Edit(t.Context(), id, backup.Edit{Pinned: is(true)}); !errors.Is(err, backup.ErrNotReady) || !strings.Contains(err.Error(), string(state)) {
			t.Errorf("a backup that is %s: %v", state, err)
		}
	}
}

// TestEditsAtOnce: of several who edit a backup at a time each has done so, and beside one who deletes it nobody brings it back.
func TestEditsAtOnce(t *testing.T) {
	t.Parallel()
	h := newHouse(t, memstore.New(nil), nil)
	b, err := h.named(t, backup.Request{})
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			other := newHouse(t, h.store, nil)
			for n := range 4 {
				if _, err := other.runner.Edit(t.Context(), b.ID, backup.Edit{SetLabels: map[string]string{fmt.Sprintf("l-%d-%d", i, n): "x"}}); err != nil {
					t.Errorf("editor %d: %v", i, err)
				}
			}
		})
	}
	group.Wait()
	if n := len(h.get(t, b.ID).Labels); n != 32 {
		t.Errorf("%d labels are there, 32 were set", n)
	}
	for i := range 8 {
		group.Go(func() {
			other := newHouse(t, h.store, nil)
			for n := range 20 {
				if _, err := other.runner.Edit(t.Context(), b.ID, backup.Edit{Description: is(fmt.Sprint(i, n))}); err != nil &&
					!errors.Is(err, backup.ErrNotReady) && !errors.Is(err, catalog.ErrNotFound) {
					t.Errorf("editor %d: %v", i, err)
				}
			}
		})
	}
	for {
		err := h.runner.Delete(t.Context(), b.ID)
		if err == nil {
			break
		}
		if !errors.Is(err, catalog.ErrConflict) {
			t.Fatal(err)
		}
	}
	group.Wait()
	if _, _, err := h.catalog.Get(t.Context(), b.ID); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("after its deletion: %v", err)
	}
}

// TestEditSigned: what is signed is signed again, by somebody who may, and nothing is vouched for that somebody else has written.
func TestEditSigned(t *testing.T) {
	t.Parallel()
	newSigner := func() (crypto.Signer, ed25519.PublicKey) {
		public, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		return private, public
	}
	signer, trusted := newSigner()
	successor, next := newSigner()
	stranger, _ := newSigner()
	h := newHouse(t, memstore.New(nil), nil)
	runner := func(signer crypto.Signer, trust ...ed25519.PublicKey) *backup.Runner {
		r, err := backup.NewRunner(backup.Config{Store: h.store, Catalog: h.catalog, Leaser: h.catalog, Signer: signer, Trust: trust})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	h.runner = runner(signer)
	b, err := h.named(t, backup.Request{})
	if err != nil {
		t.Fatal(err)
	}
	edit := func(r *backup.Runner, text string) error {
		_, err := r.Edit(t.Context(), b.ID, backup.Edit{Description: &text, SetLabels: map[string]string{"text": text}})
		return err
	}
	if err := edit(h.runner, "by the signer"); err != nil {
		t.Fatal(err)
	}
	if err := catalog.CheckSignature(h.get(t, b.ID), []ed25519.PublicKey{trusted}); err != nil {
		t.Errorf("after an edit: %v", err)
	}
	key := base64.StdEncoding.EncodeToString(trusted)
	for name, r := range map[string]*backup.Runner{"no signer": runner(nil), "another signer": runner(stranger), "one who trusts others": runner(stranger, next)} {
		if err := edit(r, "refused"); !errors.Is(err, backup.ErrSigned) || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := h.get(t, b.ID); got.Description != "by the signer" {
		t.Errorf("the description is %q", got.Description)
	}
	// Who has taken over signs what the former one signed.
	if err := edit(runner(successor, trusted), "by the successor"); err != nil {
		t.Fatal(err)
	}
	if err := catalog.CheckSignature(h.get(t, b.ID), []ed25519.PublicKey{next}); err != nil {
		t.Errorf("after the successor's edit: %v", err)
	}
	// What was changed behind the signer's back isn't signed by an edit.
	changed, rev, err := h.catalog.Get(t.Context(), b.ID)
	if err != nil {
		t.Fatal(err)
	}
	changed.Keys++
	if _, err := h.catalog.Put(t.Context(), changed, rev); err != nil {
		t.Fatal(err)
	}
	if err := edit(runner(successor, trusted), "vouched for"); !errors.Is(err, backup.ErrSigned) || !errors.Is(err, catalog.ErrNotTrusted) {
		t.Errorf("an edit of what was changed: %v", err)
	}
	// What isn't signed stays so.
	h.runner = runner(nil)
	plain, err := h.named(t, backup.Request{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := runner(signer).Edit(t.Context(), plain.ID, backup.Edit{Pinned: is(true)}); err != nil || got.Signature != nil {
		t.Errorf("an edit of what isn't signed: %+v, %v", got, err)
	}
}

// TestEditBesideACopy: an edit reaches the copy that is being made, or its author is told to do it again there.
func TestEditBesideACopy(t *testing.T) {
	t.Parallel()
	from, b := origin(t)
	store := &watchedStore{Store: memstore.New(nil)}
	to := newHouse(t, store, nil)
	store.before = func(ctx context.Context) {
		if _, err := to.runner.Edit(ctx, b.ID, backup.Edit{Pinned: is(true)}); !errors.Is(err, backup.ErrBusy) {
			t.Errorf("an edit of what is being copied: %v", err)
		}
	}
	edited := false
	g := &editing{Catalog: to.catalog, before: func() {
		if !edited {
			edited = true
			if _, err := from.runner.Edit(t.Context(), b.ID, backup.Edit{Pinned: is(true)}); err != nil {
				t.Error(err)
			}
		}
	}}
	runner, err := backup.NewRunner(backup.Config{Store: store, Catalog: g, Leaser: to.catalog})
	if err != nil {
		t.Fatal(err)
	}
	made, _, err := runner.Copy(t.Context(), backup.CopyRequest{Backup: b.ID, Store: from.store, Catalog: from.catalog})
	if err != nil || !edited || !made.Pinned {
		t.Fatalf("a copy whose source was pinned as it began: %+v, %v", made, err)
	}
	// A copy that died hinders nobody, and is marked.
	dead := newHouse(t, memstore.New(nil), nil)
	left := *b
	left.Kind, left.State, left.Parts = catalog.KindCopy, catalog.StateRunning, nil
	if _, err := dead.catalog.Put(t.Context(), &left, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := dead.runner.Edit(t.Context(), b.ID, backup.Edit{Pinned: is(true)}); !errors.Is(err, catalog.ErrNotFound) || dead.state(t, b.ID) != catalog.StateInterrupted {
		t.Errorf("an edit of what a copy left: %v, it is %s", err, dead.state(t, b.ID))
	}
}

// editing is a catalog that calls before ahead of each Put.
type editing struct {
	catalog.Catalog
	before func()
}

func (e *editing) Put(ctx context.Context, b *catalog.Backup, prev catalog.Revision) (catalog.Revision, error) {
	e.before()
	return e.Catalog.Put(ctx, b, prev)
}

// TestStoreFailsEditing: wherever the store fails, the manifest is as before or as it was to be, and doing it again does it.
func TestStoreFailsEditing(t *testing.T) {
	t.Parallel()
	ops := []storetest.Op{storetest.OpCreate, storetest.OpWrite, storetest.OpCommit, storetest.OpOpen, storetest.OpRead, storetest.OpStat, storetest.OpList}
	tried := 0
	for _, op := range ops {
		for _, mode := range []storetest.Mode{storetest.Before, storetest.After} {
			for call := 1; ; call++ {
				mem := memstore.New(nil)
				h := newHouse(t, mem, nil)
				b, err := h.named(t, backup.Request{})
				if err != nil {
					t.Fatal(err)
				}
				faulty := storetest.NewFaulty(mem, storetest.Fault{Op: op, Call: call, Mode: mode})
				_, err = newHouse(t, faulty, nil).runner.Edit(t.Context(), b.ID, backup.Edit{Pinned: is(true)})
				if faulty.Fired() == 0 {
					break
				}
				tried++
				got := h.get(t, b.ID)
				if err == nil && !got.Pinned || err != nil && !errors.Is(err, storetest.ErrInjected) {
					t.Errorf("%s %d, mode %d: Edit returned %v, and the backup is pinned: %v", op, call, mode, err, got.Pinned)
				}
				if _, err := h.runner.Edit(t.Context(), b.ID, backup.Edit{Pinned: is(true)}); err != nil || !h.get(t, b.ID).Pinned {
					t.Errorf("%s %d, mode %d: again: %v", op, call, mode, err)
				}
				b.Pinned = true
				if got := h.get(t, b.ID); !reflect.DeepEqual(got, b) {
					t.Errorf("%s %d, mode %d: the manifest is %+v, want %+v", op, call, mode, got, b)
				}
			}
		}
	}
	if tried < 10 {
		t.Errorf("only %d faults were tried", tried)
	}
}
