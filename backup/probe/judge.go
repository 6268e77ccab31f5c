package probe

import (
	"fmt"
	"strings"
	"time"

	"github.com/amberkv/amber/backup"
)

// judge says of each method whether it can be used, and chooses.
func (p *prober) judge() {
	r, f := p.report, &p.facts
	methods := []Method{p.flows(), p.replica(), p.save(), p.scan()}
	if why, advice, kind := p.obstacle(); kind != nil {
		for i := range methods {
			methods[i].Usable, methods[i].Unsure, methods[i].Why, methods[i].Advice, methods[i].kind = false, false, why, advice, kind
		}
	}
	for i, m := range methods {
		if r.Chosen == "" && m.Usable && !(m.Name == Save && f.cluster) {
			r.Chosen = methods[i].Name
		}
	}
	r.Methods = methods
	if r.Chosen != "" {
		r.Reason = r.ReasonFor(r.Chosen)
	}
	p.points()
}

// obstacle is what is in the way of every method; a nil kind: nothing.
func (p *prober) obstacle() (why, advice string, kind error) {
	r, f := p.report, &p.facts
	switch {
	case r.Sentinel != "" && r.Group == "" && len(r.Groups) == 0:
		return "this Sentinel watches nothing", "give the address of one that does, or of the server itself", backup.ErrUnsupported
	case r.Sentinel != "" && r.Group == "" && p.cfg.Group != "":
		return fmt.Sprintf("this Sentinel doesn't watch %q, but %s", p.cfg.Group, strings.Join(r.Groups, ", ")), "say which of these groups it is", backup.ErrUnsupported
	case r.Sentinel != "" && r.Group == "":
		return "this Sentinel watches several groups: " + strings.Join(r.Groups, ", "), "say which of them it is", backup.ErrUnsupported
	case f.loading != "":
		return f.loading, "try again when it is done", backup.ErrTransient
	case f.cluster && f.slots == no:
		return "the user may not ask who has the cluster's slots", "allow it CLUSTER: " + p.grant("+cluster"), backup.ErrPermission
	case r.Engine == "dragonfly" && r.Shards > 1:
		return fmt.Sprintf("this Dragonfly is one of a cluster of %d, and holds only its own slots", r.Shards), "cluster mode of Dragonfly is not supported", backup.ErrUnsupported
	}
	return "", "", nil
}

// flows says whether a Dragonfly sends its shards.
func (p *prober) flows() Method {
	r, f := p.report, &p.facts
	m := Method{Name: Flows, Why: "Dragonfly sends its shards as to a replica, all as of one instant"}
	switch {
	case r.Engine != "dragonfly" && r.Engine != "":
		m.foreign = true
		m.no(backup.ErrUnsupported, "only a Dragonfly sends flows", "")
	case r.Engine == "":
		m.foreign = true
		m.no(backup.ErrUnsupported, "the server doesn't let us see whether it is a Dragonfly", "")
	case r.Role == "replica":
		m.no(backup.ErrUnsupported, "a Dragonfly that is a replica sends no flows", "give the address of its primary, "+r.Primary)
	case f.allowed["DFLY"] == no || f.allowed["REPLCONF"] == no:
		m.no(backup.ErrPermission, p.user()+" may not run "+p.missing("DFLY", "REPLCONF"), "allow it: "+p.grant("+dfly +replconf"))
	default:
		m.Usable, m.Unsure = true, f.allowed["DFLY"] != yes
	}
	return m
}

// replica says whether the server lets others replicate.
func (p *prober) replica() Method {
	r, f := p.report, &p.facts
	m := Method{Name: Replica, Why: "PSYNC gives what replicas get, all as of one instant"}
	if f.cluster {
		m.Why = "PSYNC gives what replicas get, of each shard as of one instant"
	}
	known := f.allowed["PSYNC"] == yes && f.exists["PSYNC"] != no
	switch {
	case r.Engine == "dragonfly":
		m.foreign = true
		m.no(backup.ErrUnsupported, "Dragonfly has no PSYNC", "")
	case f.another:
		m.no(backup.ErrUnsupported, "the command that was given as the renamed PSYNC is another one", "check the name, which may differ from node to node")
	case f.exists["PSYNC"] == no && f.renamed != "":
		m.no(backup.ErrUnsupported, "the server doesn't know the command that was given as its renamed PSYNC", "check the name, which may differ from node to node")
	case f.provider != nil && f.renamed == "" && !known:
		m.no(backup.ErrUnsupported, f.provider.name+" lets nobody replicate", f.provider.advice)
	case f.exists["PSYNC"] == no && f.exists["SYNC"] != yes:
		m.no(backup.ErrUnsupported, "the server has no PSYNC, as managed services and rename-command make it", "give its new name if it was renamed, or use the service's own export")
	case f.exists["PSYNC"] == no && f.allowed["SYNC"] == no:
		m.no(backup.ErrPermission, p.user()+" may not run SYNC, and PSYNC isn't there", "allow it: "+p.grant("+sync +replconf"))
	case f.exists["PSYNC"] == no:
		m.Why = "the server has no PSYNC but SYNC, which gives the same"
		m.Usable, m.Unsure = true, f.allowed["SYNC"] != yes
	case f.allowed["PSYNC"] == no || f.allowed["REPLCONF"] == no:
		m.no(backup.ErrPermission, p.user()+" may not run "+p.missing("PSYNC", "REPLCONF"), "allow it: "+p.grant("+psync +replconf"))
	default:
		m.Usable, m.Unsure = true, f.allowed["PSYNC"] != yes || f.linkDown
	}
	return m
}

// save says whether the server can be made to save, and its files be had.
func (p *prober) save() Method {
	r, f := p.report, &p.facts
	command := "BGSAVE"
	if r.Engine == "dragonfly" {
		command = "SAVE"
	}
	m := Method{Name: Save, Why: command + " writes files as of one instant, which are read from the place that was given"}
	switch {
	case f.provider != nil && f.allowed[command] != yes:
		m.no(backup.ErrUnsupported, f.provider.name+" lets nobody save, and nobody have the files", "")
	case f.exists[command] == no:
		m.no(backup.ErrUnsupported, "the server has no "+command, "")
	case f.allowed[command] == no:
		m.no(backup.ErrPermission, p.user()+" may not run "+command, "allow it: "+p.grant("+"+strings.ToLower(command)))
	case f.cluster:
		m.no(backup.ErrUnsupported, "nodes of a cluster each write files of their own", "")
		m.unasked = !p.cfg.Files
	case f.linkDown:
		m.no(backup.ErrTransient, "the replica's link to its primary is down, or it is synchronising", "try again when it is up, or give the primary's address, "+r.Primary)
	case !p.cfg.Files:
		m.no(backup.ErrUnsupported, "where the server's files appear isn't known", "give the directory or bucket that it saves to")
		m.unasked = true
	default:
		m.Usable, m.Unsure = true, f.allowed[command] != yes
	}
	return m
}

// scan says whether all keys can be read one by one.
func (p *prober) scan() Method {
	r, f := p.report, &p.facts
	m := Method{Name: Scan, Why: "SCAN and DUMP read the keys one by one: each is as it was at some instant, all together are of none"}
	need := []string{"SCAN", "DUMP", "MULTI", "EXEC", "PEXPIRETIME"}
	if f.exists["PEXPIRETIME"] == no { // below Redis 7.0, and in some services
		need = []string{"SCAN", "DUMP", "MULTI", "EXEC", "PTTL", "TIME"}
	}
	if !f.cluster {
		need = append(need, "SELECT")
	}
	var absent []string
	unsure := false
	for _, c := range need {
		if f.exists[c] == no {
			absent = append(absent, c)
		}
		unsure = unsure || f.allowed[c] != yes
	}
	switch {
	case len(absent) > 0:
		m.no(backup.ErrUnsupported, "the server has no "+strings.Join(absent, " and no "), "")
	case p.missing(need...) != "":
		m.no(backup.ErrPermission, p.user()+" may not run "+p.missing(need...), "allow it: "+p.grant("+"+strings.ToLower(strings.Join(need, " +"))+" ~*"))
	case f.someKeys:
		m.no(backup.ErrPermission, p.user()+" may read some keys only", "allow it all: "+p.grant("~*"))
	case f.linkDown:
		m.no(backup.ErrTransient, "the replica's link to its primary is down, or it is synchronising", "try again when it is up, or give the primary's address, "+r.Primary)
	default:
		m.Usable, m.Unsure = true, unsure
	}
	return m
}

// no makes a method one that can't be used.
func (m *Method) no(kind error, why, advice string) {
	m.Usable, m.Why, m.Advice, m.kind = false, why, advice, kind
}

// user names our user in a sentence.
func (p *prober) user() string {
	if p.report.User == "" {
		return "the user"
	}
	return "user " + p.report.User
}

// grant is the command that gives our user rights.
func (p *prober) grant(rights string) string {
	user := p.report.User
	if user == "" {
		user = "<user>"
	}
	return "ACL SETUSER " + user + " " + rights
}

// missing names those commands that our user may not run.
func (p *prober) missing(names ...string) string {
	var out []string
	for _, name := range names {
		if p.facts.allowed[name] == no {
			out = append(out, name)
		}
	}
	if len(out) < 2 {
		return strings.Join(out, "")
	}
	return strings.Join(out[:len(out)-1], ", ") + " and " + out[len(out)-1]
}

// points tells what was seen.
func (p *prober) points() {
	r, f := p.report, &p.facts
	if r.Sentinel != "" {
		if r.Group == "" {
			r.add(Fail, "sentinel", "%s", r.Methods[0].Why)
			return
		}
		r.add(Pass, "sentinel", "the Sentinel at %s watches %s, whose primary is at %s", r.Sentinel, r.Group, r.Address)
	}
	switch {
	case !f.seen:
		r.add(Warn, "reachable", "%s answers, but INFO may not be seen: what it is isn't known", r.Address)
	default:
		r.add(Pass, "reachable", "%s", strings.Join(filled(strings.TrimSpace(r.Engine+" "+r.Version), "at "+r.Address, r.Role, r.Topology), ", "))
	}
	if r.Provider != "" {
		r.add(Pass, "provider", "it is %s: %s", r.Provider, f.provider.advice)
	}
	switch {
	case f.loading != "":
		r.add(Fail, "loading", "%s: try again when it is done", f.loading)
		return
	case f.linkDown:
		r.add(Warn, "link", "its link to its primary, %s, is down, or it is synchronising: what it holds may be old", r.Primary)
	case r.Role == "replica" && r.Primary != "":
		r.add(Pass, "link", "its link to its primary, %s, is up", r.Primary)
	}
	if r.Replicas > 0 {
		level := Pass
		if r.InSync == 0 {
			level = Warn
		}
		r.add(level, "replicas", "%d of %d in sync", r.InSync, r.Replicas)
	}
	if f.cluster {
		switch {
		case f.state != "" && f.state != "ok":
			r.add(Warn, "cluster", "its state is %q: slots may have no node that serves them", f.state)
		case r.Shards > 0:
			r.add(Pass, "cluster", "shards: %d", r.Shards)
		}
	}
	if r.UsedMemory > 0 {
		text := fmt.Sprintf("%d MiB used", r.UsedMemory>>20)
		if r.MaxMemory > 0 {
			text += fmt.Sprintf(" of %d MiB that are allowed", r.MaxMemory>>20)
		}
		r.add(Pass, "memory", "%s", text)
	}
	if r.LastFork > 0 {
		r.add(Pass, "fork", "the last one stopped the server for %v, and took %d MiB for what was written meanwhile", r.LastFork.Round(10*time.Microsecond), r.CopyOnWrite>>20)
	}
	if f.lastSave == "err" {
		r.add(Warn, "last save", "the server's last save failed, and a snapshot may for the same reason: its log tells why")
	}
	if f.busy {
		r.add(Warn, "busy", "the server is saving or rewriting its append-only file: a snapshot waits until that is done")
	}
	if r.Chosen == "" {
		r.add(Fail, "method", "none can be used")
	} else {
		r.add(Pass, "method", "%s: %s", r.Chosen, r.Reason)
	}
}
