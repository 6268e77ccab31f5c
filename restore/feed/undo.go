package feed

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/internal/replication"
	"github.com/amberkv/amber/internal/resp"
	"github.com/amberkv/amber/internal/target"
	"github.com/amberkv/amber/restore"
)

// A setting is one of the target's and the value it had.
type setting struct{ name, value string }

// prepare changes the target's settings, and decides how the target is told from others.
func (r *run) prepare(ctx context.Context, primary *replication.Primary) error {
	if r.method.set {
		if ok, err := r.set(ctx, setDiskless, r.method.mode); err != nil {
			return err
		} else if !ok {
			r.method = method{mode: loadDisk}
			r.warn("the target didn't let its repl-diskless-load be changed")
		}
	}
	// A replica that takes writes would lose them to the load, or gain keys that aren't in the backup.
	if ok, err := r.set(ctx, setReadOnly, "yes"); err != nil {
		return err
	} else if !ok && r.target.settings[setReadOnly] == "no" {
		r.warn("the target takes writes while it is a replica (replica-read-only no), and didn't let that be changed")
	}
	primary.Admit = r.admit
	if ok, err := r.set(ctx, setUser, ""); !ok || err != nil {
		return err
	}
	secret := make([]byte, 32)
	rand.Read(secret) // never fails
	password := hex.EncodeToString(secret)
	if ok, err := r.set(ctx, setPassword, password); !ok || err != nil {
		return err
	}
	primary.Password, primary.Admit = password, nil
	return nil
}

// set changes a setting if the target has it and lets it be changed, and tells whether it has the value now. The
// error is that of a target whose answer is missing.
func (r *run) set(ctx context.Context, name, value string) (bool, error) {
	former, known := r.target.settings[name]
	if !known || r.target.noSet != nil {
		return false, nil
	}
	if former == value {
		return true, nil
	}
	wasChanged := r.changed
	r.changed = true // also if the answer is lost
	r.former = append(r.former, setting{name, former})
	_, err := r.admin.Do(ctx, "CONFIG", "SET", name, value)
	if target.Refused(err) {
		r.changed = wasChanged
		r.former = r.former[:len(r.former)-1]
		r.log.Warn("the target refused to change a setting", "setting", name, "error", err)
		return false, nil
	}
	return err == nil, err
}

// putBack gives the settings their former values.
func (r *run) putBack(ctx context.Context) error {
	var errs []error
	var left []setting
	for _, s := range slices.Backward(r.former) {
		var err error
		for {
			_, err = r.admin.Do(ctx, "CONFIG", "SET", s.name, s.value)
			if err == nil || target.Refused(err) || clock.Sleep(ctx, pollEvery) != nil {
				break
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("putting back %s: %w", s.name, err))
			left = append(left, s)
		}
	}
	slices.Reverse(left)
	r.former = left
	return errors.Join(errs...)
}

// fail brings the target back after cause, as far as it can be, and says what state it is in.
func (r *run) fail(ctx context.Context, cause error) error {
	if r.link != nil {
		r.link.Close()
	}
	if !r.changed {
		return cause
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.Grace)
	defer cancel()
	// The connection that was used so far may hang.
	r.admin.Close()
	partial := &restore.PartialError{Target: r.target.addr, State: restore.TargetUnknown, Keys: -1, Err: cause}
	var todo []string
	info, err := r.bringBack(ctx)
	if err == nil {
		partial.State = r.state(info)
		partial.Keys = target.Keyspace(info).Total()
		todo = r.returnTo(ctx, partial.State)
	} else {
		todo = append(todo, r.outOfReach(err))
	}
	if len(r.former) > 0 {
		todo = append(todo, fmt.Sprintf("these settings may have other values than before: %s. Set them back, or restart it, which forgets them if there was no CONFIG REWRITE",
			strings.Join(r.unsettled(), ", ")))
	}
	partial.Detail = strings.Join(todo, "; ")
	return partial
}

// bringBack makes the target stop replicating from us, puts its settings back, and returns what it says then.
func (r *run) bringBack(ctx context.Context) (resp.Info, error) {
	if r.following {
		if r.dragonfly() && r.link != nil {
			r.noticed = r.noticedBegin(ctx)
		}
		if err := r.detach(ctx); err != nil {
			return nil, err
		}
	}
	info, _, err := r.admin.Info(ctx)
	for err != nil && !target.Refused(err) && clock.Sleep(ctx, pollEvery) == nil {
		info, _, err = r.admin.Info(ctx)
	}
	if err != nil {
		return nil, err
	}
	if err := r.putBack(ctx); err != nil {
		r.log.Warn("the target's settings could not be put back", "target", r.target.addr, "error", err)
	}
	return info, nil
}

// state says what the target holds, by what it says itself after it was made a primary.
func (r *run) state(info resp.Info) restore.TargetState {
	if r.dragonfly() {
		return r.stateOfDragonfly(info)
	}
	now := target.Keyspace(info)
	restarted := info["run_id"] != r.target.info["run_id"]
	asBefore := target.Differ(r.target.keys, now) == "" && info.Int("number_of_libraries") == r.target.libraries()
	asWanted := target.Differ(r.want, now) == ""
	// A server whose replication ID is, or was, ours has loaded all.
	took := r.link != nil && (info["master_replid"] == r.link.ID() || info["master_replid2"] == r.link.ID())
	switch {
	case took && !r.differs && (r.loaded || asWanted):
		return restore.TargetLoaded
	case took:
		return restore.TargetPartial
	case now.Total() == 0 && info.Int("number_of_libraries") == 0:
		return restore.TargetEmpty
	case restarted && asWanted && r.method.mode == loadDisk && r.link != nil && r.link.Sent() == r.size:
		return restore.TargetLoaded // it had spooled all, and loaded that when it started
	case asBefore:
		return restore.TargetUnchanged
	case !restarted && (r.link == nil || r.method.keeps() && r.link.Sent() < r.size):
		return restore.TargetUnchanged // some keys have expired meanwhile
	case restarted && asWanted:
		return restore.TargetLoaded
	}
	return restore.TargetPartial
}

// returnTo makes the target a replica again if it was one and has its old data, and returns what is left to do.
func (r *run) returnTo(ctx context.Context, state restore.TargetState) (todo []string) {
	was := r.target.primary
	if was == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(was)
	back := fmt.Sprintf("REPLICAOF %s %s", host, port)
	if state == restore.TargetUnchanged && err == nil {
		_, err = r.admin.Do(ctx, "REPLICAOF", host, port)
		if err == nil {
			return nil
		}
	}
	text := "it was a replica of " + was + " and is none now: " + back + " makes it one again, with the data of that server"
	if err != nil {
		text += fmt.Sprintf(" (that failed: %v)", err)
	}
	return []string{text}
}

// outOfReach says what is known and left to do when the target couldn't be brought back.
func (r *run) outOfReach(err error) string {
	text := fmt.Sprintf("it could not be asked within %v (%v)", r.cfg.Grace, err)
	if target.Code(err) == "LOADING" {
		text = "it is still loading what it got, which can't be interrupted"
	}
	if !r.following {
		return text
	}
	text += "; it may still try to replicate from us, read-only and in vain: send it REPLICAOF NO ONE"
	if target.Code(err) == "LOADING" {
		text += " when it is done"
	} else {
		text += " when it is back, unless it was restarted, which makes it forget that if there was no CONFIG REWRITE"
	}
	if r.target.primary != "" {
		text += ". It was a replica of " + r.target.primary
	}
	return text
}

// unsettled names the settings that weren't put back, with their former values unless those are secret.
func (r *run) unsettled() []string {
	var names []string
	for _, s := range r.former {
		if s.name == setPassword && s.value != "" {
			names = append(names, s.name+" (it had a value, which is not told here)")
			continue
		}
		names = append(names, fmt.Sprintf("%s (was %q)", s.name, s.value))
	}
	return names
}
