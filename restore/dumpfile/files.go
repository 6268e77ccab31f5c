package dumpfile

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/restore"
	"github.com/amberkv/amber/storage"
)

// A step is what happens to the store.
type step int

const (
	stepWrite  step = iota // nothing that anybody sees
	stepRemove             // the summary of a set that is replaced goes
	stepShards             // the shards of a set get their names
	stepLast               // what the server looks for gets its name
)

// files are objects that are being written.
type files struct {
	*Loader
	ctx     context.Context
	replace bool
	former  *storage.Info // of the last object, as it was found; nil: there was none
	keys    []string      // of the objects, the one that is looked for last
	open    []*object
	step    step
}

// An object counts what is written to it.
type object struct {
	storage.Writer
	key   string
	n     int64
	tried bool // to commit it
}

func (o *object) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	o.n += int64(n)
	return n, err
}

// create begins an object of so many bytes; 0: that isn't known. Where the store can't hold others off, only the look before does.
func (w *files) create(key string, size int64) (*object, error) {
	once := !w.replace && key == w.last && storage.CapabilitiesOf(w.cfg.Store).Exclusive
	to, err := w.cfg.Store.Create(w.ctx, key, &storage.CreateOptions{IfNotExist: once, SizeHint: size})
	if err != nil {
		return nil, w.exists(fmt.Errorf("writing %s: %w", key, err))
	}
	o := &object{Writer: to, key: key}
	w.open = append(w.open, o)
	return o, nil
}

// exists makes of an error that tells that the object is there after all what a look would have said.
func (w *files) exists(err error) error {
	if errors.Is(err, storage.ErrExists) {
		return fmt.Errorf("%w: somebody else wrote it just now: %w", restore.ErrNotEmpty, err)
	}
	return err
}

// commit makes the files visible, the one that is looked for last.
func (w *files) commit() error {
	if len(w.open) > 1 && w.replace {
		w.step = stepRemove
		if err := w.cfg.Store.Delete(w.ctx, w.last); err != nil && !errors.Is(err, storage.ErrNotFound) {
			return fmt.Errorf("removing the former %s: %w", w.last, err)
		}
	}
	for i, o := range w.open {
		w.step = stepShards
		if i == len(w.open)-1 {
			w.step = stepLast
		}
		o.tried = true
		if _, err := o.Commit(w.ctx); err != nil {
			return fmt.Errorf("writing %s: %w", o.key, err)
		}
	}
	return nil
}

func (w *files) abort() {
	for _, o := range w.open {
		o.Abort()
	}
}

// lookAgain is how long finding out what is there, and tidying up, may take after a failure or cancellation.
const lookAgain = 2 * time.Second

// failed finds out what is there after an error, removes what is of no use, and says so.
func (w *files) failed(err error, b *catalog.Backup) error {
	w.abort()
	if w.step == stepWrite {
		if w.ctx.Err() != nil && !errors.Is(err, w.ctx.Err()) {
			return fmt.Errorf("%w: %w", w.ctx.Err(), err)
		}
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), lookAgain)
	defer cancel()
	p := &restore.PartialError{Target: w.last, Keys: -1, Err: err}
	now, statErr := w.cfg.Store.Stat(ctx, w.last)
	ours := w.step == stepLast && now.Size == w.open[len(w.open)-1].n
	switch {
	case statErr != nil && !errors.Is(statErr, storage.ErrNotFound):
		p.State = restore.TargetUnknown
		p.Detail = fmt.Sprintf("whether %s is there can't be seen (%v); if it is, it is whole", w.last, statErr)
		return p
	case statErr == nil && w.former != nil && now.Size == w.former.Size && now.ModTime.Equal(w.former.ModTime):
		return err // it is the one that was there before
	case statErr == nil && errors.Is(err, storage.ErrExists) && len(w.open) == 1:
		return w.exists(err)
	case statErr == nil && ours && !errors.Is(err, storage.ErrExists):
		p.State, p.Keys = restore.TargetLoaded, b.Keys
		p.Detail = "the files are there and whole, but may not survive a crash of the machine"
		return p
	case statErr == nil:
		p.State = restore.TargetUnknown
		p.Detail = fmt.Sprintf("somebody else has written %s at the same time: restore again, with Replace, when nobody does", w.last)
		return p
	}
	left := w.removeShards(ctx)
	if w.former == nil && left == "" {
		return err // as before, there is nothing
	}
	p.State, p.Keys = restore.TargetEmpty, 0
	p.Detail = fmt.Sprintf("there is no %s, so that no server takes other files for data", w.last)
	if w.former != nil {
		p.Detail += "; the one that was there before is gone"
	}
	if left != "" {
		p.Detail += "; " + left + " are left, and the next restore of that name overwrites them"
	}
	return p
}

// removeShards removes the shards that got their names, and says which it couldn't remove.
func (w *files) removeShards(ctx context.Context) (left string) {
	var names []string
	for _, o := range w.open[:len(w.open)-1] {
		if !o.tried {
			continue
		}
		if err := w.cfg.Store.Delete(ctx, o.key); err != nil && !errors.Is(err, storage.ErrNotFound) {
			names = append(names, o.key)
		}
	}
	return strings.Join(names, ", ")
}

// sweep removes shards that the former set of that name had beyond those of the new one. Dragonfly doesn't look at them. It returns what it
// couldn't remove, as warnings.
func (w *files) sweep() (warnings []string) {
	ours := make(map[string]bool)
	for _, key := range w.keys {
		ours[key] = true
	}
	warn := func(key string, err error) {
		warnings = append(warnings, fmt.Sprintf("files of the former set may be left beside the new one, which are of no use: %s: %v", key, err))
	}
	var stale []string
	for info, err := range w.cfg.Store.List(w.ctx, w.dir+w.name+"-") {
		if err != nil {
			warn(w.dir+w.name, err)
			break
		}
		number, ok := strings.CutSuffix(strings.TrimPrefix(info.Key, w.dir+w.name+"-"), ".dfs")
		if ok && len(number) == 4 && strings.Trim(number, "0123456789") == "" && !ours[info.Key] {
			stale = append(stale, info.Key)
		}
	}
	for _, key := range stale {
		if err := w.cfg.Store.Delete(w.ctx, key); err != nil && !errors.Is(err, storage.ErrNotFound) {
			warn(key, err)
		}
	}
	return warnings
}
