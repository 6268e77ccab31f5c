package main

import (
	"fmt"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/amberkv/amber"
)

// lineInterval is how often a progress line is printed where there is no terminal, beside one for each stage.
const lineInterval = 5 * time.Second

// progress shows how far one operation is: a bar on a terminal, else a line now and then.
type progress struct {
	console *console
	what    string // such as "backup of orders"

	stage  string
	bar    *progressbar.ProgressBar
	total  int64     // that the bar has
	spoken time.Time // when the last line was printed
}

// progress returns the function to hand to the service, nil if nothing is to be shown, and one that ends the show.
func (a *app) progress(what string) (tell func(amber.Progress), done func()) {
	if a.quiet {
		return nil, func() {}
	}
	p := &progress{console: a.console, what: what}
	if a.console.terminal {
		return p.draw, p.clear
	}
	return p.line, func() {}
}

const stageDone = "done"

func (p *progress) draw(now amber.Progress) {
	if now.Stage == stageDone {
		p.clear()
		return
	}
	total := now.Total
	if total <= 0 {
		total = -1
	}
	if now.Stage != p.stage {
		p.clear()
		p.stage, p.total = now.Stage, total
		p.bar = progressbar.NewOptions64(total,
			progressbar.OptionSetWriter(barWriter{p.console}),
			progressbar.OptionUseANSICodes(true),
			progressbar.OptionSetWidth(20),
			progressbar.OptionSetElapsedTime(false),
			progressbar.OptionSetPredictTime(false),
			progressbar.OptionShowDescriptionAtLineEnd(),
			progressbar.OptionSpinnerType(14),
			progressbar.OptionSetSpinnerChangeInterval(0), // the service calls often enough to turn it
			progressbar.OptionClearOnFinish())
	}
	if total != p.total {
		p.total = total
		p.bar.ChangeMax64(total)
	}
	// A bar that can't be drawn is no reason to stop a backup.
	_ = p.bar.Set64(now.Bytes)
	p.bar.Describe(facts(now, false))
}

func (p *progress) clear() {
	if p.bar == nil {
		return
	}
	_ = p.bar.Exit()
	p.console.clearBar()
	p.bar = nil
}

func (p *progress) line(now amber.Progress) {
	change := now.Stage != p.stage
	if now.Stage == stageDone || !change && time.Since(p.spoken) < lineInterval {
		return
	}
	p.stage, p.spoken = now.Stage, time.Now()
	fmt.Fprintf(p.console, "%s: %s\n", p.what, facts(now, true))
}

// facts tells how far a stage is; with the whole of it, where no bar shows that.
func facts(now amber.Progress, whole bool) string {
	text := now.Stage
	if now.Bytes > 0 || now.Total > 0 {
		text += " " + size(now.Bytes)
	}
	if now.Total > 0 && whole {
		text += fmt.Sprintf(" of %s (%d%%)", size(now.Total), min(100, int(100*float64(now.Bytes)/float64(now.Total))))
	}
	if now.Keys > 0 {
		text += ", " + plural(now.Keys, "key")
	}
	if now.Rate > 0 {
		text += ", " + size(int64(now.Rate)) + "/s"
	}
	if now.Left > 0 {
		text += ", " + now.Left.String() + " left"
	}
	return text
}
