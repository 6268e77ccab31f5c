package probe

import (
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/amberkv/amber/backup/internal/link"
	"github.com/amberkv/amber/internal/resp"
)

// facts are what a server was found to be.
type facts struct {
	seen     bool // INFO may be seen
	loading  string
	linkDown bool // a replica's link to its primary is
	cluster  bool
	slots    answer // whether CLUSTER SLOTS tells who has which
	state    string // of the cluster
	busy     bool   // a child saves or rewrites
	lastSave string // how the last save went
	renamed  string // what PSYNC is called, if not so
	another  bool   // what was given as the renamed PSYNC is another command
	provider *provider

	exists   map[string]answer // whether a command is there
	allowed  map[string]answer // whether our user may run it
	someKeys bool              // our user may read some keys only
}

// An answer to a question that may not be asked.
type answer int

const (
	unknown answer = iota
	yes
	no
)

// The commands that methods need, and what is given to them when it is asked whether the user may run them.
var (
	commands = [][]string{{"PSYNC", "?", "-1"}, {"SYNC"}, {"REPLCONF", "capa", "eof"}, {"SCAN", "0"}, {"DUMP", sampleKey},
		{"PEXPIRETIME", sampleKey}, {"PTTL", sampleKey}, {"TIME"}, {"MULTI"}, {"EXEC"}, {"SELECT", "0"}, {"BGSAVE"}}
	dragonflyCommands = [][]string{{"DFLY", "SYNC", "SYNC0"}, {"REPLCONF", "capa", "dragonfly"}, {"SCAN", "0"}, {"DUMP", sampleKey},
		{"PEXPIRETIME", sampleKey}, {"PTTL", sampleKey}, {"TIME"}, {"MULTI"}, {"EXEC"}, {"SELECT", "0"}, {"SAVE"}}
)

// sampleKey is a key that stands for all; it need not be there.
const sampleKey = "amber:any-key"

// ask asks a server that holds data.
func (p *prober) ask(c *link.Conn) error {
	r, f := p.report, &p.facts
	r.Address = c.Addr
	r.Engine, r.Version = c.Engine()
	r.Role = c.Role()
	p.numbers(c.Info)
	f.provider = findProvider(p.host(), c.Info)
	if f.provider != nil {
		r.Provider = f.provider.name
	}
	f.cluster = c.Info.Int("cluster_enabled") == 1 && r.Engine != "dragonfly"
	f.renamed = p.cfg.SyncCommand
	if name, ok := p.cfg.SyncCommands[c.Addr]; ok {
		f.renamed = name
	}
	if c.Info.Int("loading") == 1 {
		f.loading = "the server is loading its data"
		if eta := c.Info["loading_eta_seconds"]; eta != "" {
			f.loading += ", which it thinks will take " + eta + " s more"
		}
	}
	f.lastSave = c.Info["rdb_last_bgsave_status"]
	f.busy = c.Info.Int("rdb_bgsave_in_progress") == 1 || c.Info.Int("aof_rewrite_in_progress") == 1
	switch {
	case r.Sentinel != "":
		r.Topology = "sentinel"
	case f.cluster:
		r.Topology = "cluster"
	case r.Role == "replica" || r.Replicas > 0:
		r.Topology = "replicated"
	case r.Role == "primary":
		r.Topology = "standalone"
	}
	if f.loading != "" {
		return nil // it answers hardly anything
	}
	for _, step := range []struct {
		name string
		ask  func(*link.Conn) error
	}{{"ACL WHOAMI", p.askUser}, {"COMMAND INFO", p.askCommands}, {"ACL DRYRUN", p.askRights}, {"CLUSTER", p.askCluster}} {
		if err := step.ask(c); err != nil {
			return c.Fail(step.name, err)
		}
	}
	return nil
}

// numbers reads what INFO says of the server's size and group.
func (p *prober) numbers(info resp.Info) {
	r := p.report
	r.UsedMemory, r.MaxMemory = info.Int("used_memory"), info.Int("maxmemory")
	r.LastFork = time.Duration(info.Int("latest_fork_usec")) * time.Microsecond
	r.CopyOnWrite = info.Int("rdb_last_cow_size")
	for field := range info {
		if n, ok := strings.CutPrefix(field, "db"); ok {
			if _, err := strconv.Atoi(n); err == nil {
				for name, value := range info.Attributes(field) {
					if name == "keys" {
						keys, _ := strconv.ParseInt(value, 10, 64)
						r.Keys += keys
					}
				}
			}
		}
	}
	for i := range info.Int("connected_slaves") {
		attrs := map[string]string{}
		for name, value := range info.Attributes("slave" + strconv.FormatInt(i, 10)) {
			attrs[name] = value
		}
		if len(attrs) == 0 {
			break // the count is the server's word; the lines are what there is
		}
		r.Replicas++
		lag, err := strconv.Atoi(attrs["lag"])
		if attrs["state"] == "online" && err == nil && lag <= link.MaxLag {
			r.InSync++
		}
	}
	if r.Role == "replica" {
		if info["master_host"] != "" {
			r.Primary = net.JoinHostPort(info["master_host"], info["master_port"])
		}
		p.facts.linkDown = info["master_link_status"] != "up" || info.Int("master_sync_in_progress") != 0
	}
}

// command sends a question that the server may refuse: then ok is false.
func (p *prober) command(c *link.Conn, args ...string) (reply resp.Reply, ok bool, err error) {
	reply, err = c.Command(args...)
	var e resp.Error
	if errors.As(err, &e) {
		return reply, false, nil
	}
	return reply, err == nil, err
}

// askUser finds out who we are.
func (p *prober) askUser(c *link.Conn) error {
	reply, ok, err := p.command(c, "ACL", "WHOAMI")
	if ok && (reply.Kind == resp.Bulk || reply.Kind == resp.Status) && len(reply.Text) <= 100 {
		p.report.User = reply.Text
	}
	return err
}

// askCommands finds out which commands there are.
func (p *prober) askCommands(c *link.Conn) error {
	f := &p.facts
	f.exists = map[string]answer{}
	question := []string{"COMMAND", "INFO"}
	wanted := p.wanted()
	for _, args := range wanted {
		question = append(question, p.called(args[0]))
	}
	reply, ok, err := p.command(c, question...)
	if err != nil || !ok || len(reply.Elems) != len(wanted) {
		return err
	}
	for i, args := range wanted {
		name := p.called(args[0])
		info, known := link.FindCommand(resp.Reply{Kind: resp.Array, Elems: reply.Elems[i : i+1]}, name)
		switch {
		case !known:
		case info.Exists && name != args[0] && (info.Writes || !info.Admin):
			f.exists[args[0]], f.another = no, true
		case info.Exists:
			f.exists[args[0]] = yes
		default:
			f.exists[args[0]] = no
		}
	}
	return nil
}

// wanted are the commands that are asked about, with arguments that do no harm where they are only thought of.
func (p *prober) wanted() [][]string {
	if p.report.Engine == "dragonfly" {
		return dragonflyCommands
	}
	return commands
}

// called is what the server calls a command.
func (p *prober) called(name string) string {
	if name == "PSYNC" && p.facts.renamed != "" {
		return p.facts.renamed
	}
	return name
}

// askRights finds out what our user may run, where servers tell: from Redis 7.0 on, and those who may ask.
func (p *prober) askRights(c *link.Conn) error {
	f, user := &p.facts, p.report.User
	f.allowed = map[string]answer{}
	if user == "" {
		return nil
	}
	var questions []byte
	wanted := p.wanted()
	for _, args := range wanted {
		questions = resp.AppendCommand(questions, slices.Concat([]string{"ACL", "DRYRUN", user, p.called(args[0])}, args[1:])...)
	}
	c.Within(p.cfg.Timeout)
	if _, err := c.Write(questions); err != nil {
		return err
	}
	for _, args := range wanted {
		c.Within(p.cfg.Timeout)
		reply, err := c.R.ReadReply()
		name := args[0]
		switch {
		case link.IsReply(err): // there is no such command, or we may not ask
		case err != nil:
			return err
		case reply.Text == "OK":
			f.allowed[name] = yes
		case strings.Contains(reply.Text, "permission") && strings.Contains(reply.Text, " key"): // not the command is refused but sampleKey
			f.allowed[name], f.someKeys = yes, true
		case strings.Contains(reply.Text, "permission"):
			f.allowed[name] = no
		}
	}
	return nil
}

// askCluster finds out how a cluster is.
func (p *prober) askCluster(c *link.Conn) error {
	f, r := &p.facts, p.report
	// Dragonfly says that it is a cluster also where it only acts like one and holds all slots itself.
	if !f.cluster && (r.Engine != "dragonfly" || c.Info.Int("cluster_enabled") != 1) {
		return nil
	}
	reply, ok, err := p.command(c, "CLUSTER", "INFO")
	if err != nil {
		return err
	}
	if ok {
		f.state = resp.ParseInfo(reply.Text)["cluster_state"]
	}
	if reply, ok, err = p.command(c, "CLUSTER", "SLOTS"); err != nil {
		return err
	}
	f.slots = no
	if !ok || reply.Kind != resp.Array {
		return nil
	}
	f.slots = yes
	primaries := map[string]bool{}
	for _, e := range reply.Elems {
		if len(e.Elems) > 2 && len(e.Elems[2].Elems) > 1 {
			node := e.Elems[2].Elems
			primaries[node[0].Text+" "+strconv.FormatInt(node[1].Int, 10)] = true
		}
	}
	r.Shards = len(primaries)
	return nil
}

// askSentinel finds out which groups a Sentinel watches, and returns the address of the primary of the one that is meant; "" if that is none.
func (p *prober) askSentinel(c *link.Conn) (string, error) {
	r := p.report
	r.Sentinel = c.Addr
	r.Topology = "sentinel"
	reply, err := c.Command("SENTINEL", "MASTERS")
	if err != nil {
		return "", c.Fail("SENTINEL MASTERS", err)
	}
	addrs := map[string]string{}
	for _, e := range reply.Elems {
		attrs := map[string]string{}
		for i := 0; i+1 < len(e.Elems); i += 2 {
			attrs[e.Elems[i].Text] = e.Elems[i+1].Text
		}
		if name := attrs["name"]; name != "" {
			addrs[name] = net.JoinHostPort(attrs["ip"], attrs["port"])
			r.Groups = append(r.Groups, name)
		}
	}
	slices.Sort(r.Groups)
	switch {
	case p.cfg.Group != "" && addrs[p.cfg.Group] != "":
		r.Group = p.cfg.Group
	case p.cfg.Group == "" && len(r.Groups) == 1:
		r.Group = r.Groups[0]
	}
	return addrs[r.Group], nil
}
