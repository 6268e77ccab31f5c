package amber

import (
	"time"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/internal/clock"
	"github.com/amberkv/amber/restore"
)

// Progress tells how far a backup, a verification or a restore is.
type Progress struct {
	Operation string        // "backup", "import", "verify", "restore" or "copy"
	Stage     string        // such as "transfer"; see backup.Stage and restore.Stage
	Bytes     int64         // of this stage, done
	Total     int64         // of this stage; 0 if not known
	Keys      int64         // so far, where known
	Rate      float64       // bytes a second, over the stage
	Elapsed   time.Duration // since the operation began
	Left      time.Duration // of this stage, by its rate; 0 if its size isn't known
}

// watch turns the progress of a run into that of an operation.
type watch struct {
	operation string
	to        func(Progress)
	now       clock.Func
	start     time.Time
	stage     string
	since     time.Time // the stage began
}

func (s *Service) watch(operation string, to func(Progress)) *watch {
	return &watch{operation: operation, to: to, now: s.now, start: s.now()}
}

func (w *watch) backup(p backup.Progress) { w.tell(string(p.Stage), p.Bytes, p.Total, p.Keys) }

func (w *watch) restore(p restore.Progress) { w.tell(string(p.Stage), p.Bytes, p.Total, p.Keys) }

func (w *watch) tell(stage string, bytes, total, keys int64) {
	if w.to == nil {
		return
	}
	now := w.now()
	if stage != w.stage {
		w.stage, w.since = stage, now
	}
	p := Progress{Operation: w.operation, Stage: stage, Bytes: bytes, Total: total, Keys: keys, Elapsed: now.Sub(w.start)}
	if took := now.Sub(w.since).Seconds(); took > 0 {
		p.Rate = float64(bytes) / took
	}
	if total > bytes && p.Rate > 0 {
		p.Left = time.Duration(float64(total-bytes) / p.Rate * float64(time.Second)).Round(time.Second)
	}
	w.to(p)
}
