package main

import (
	"encoding/base64"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber"
	"github.com/amberkv/amber/catalog"
)

func (a *app) showCommand() *cobra.Command {
	var id string
	cmd := &cobra.Command{
		Use:               "show BACKUP",
		Short:             "Show what a backup holds and where it came from",
		Long:              "Show a backup: where it came from, what is in it and how it was proved. With --json, its whole manifest." + backupArg,
		Args:              takes(1, 1, "BACKUP"),
		ValidArgsFunction: a.completeBackup,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkID(id); err != nil {
				return err
			}
			svc, done, err := a.service(cmd.Context(), amber.Config{})
			if err != nil {
				return err
			}
			defer done()
			backup, err := find(cmd.Context(), svc, args[0], id)
			if err != nil {
				return explain(cmd.Context(), err, "showing changes nothing")
			}
			b, err := svc.Get(cmd.Context(), backup)
			if err != nil {
				return explain(cmd.Context(), err, "showing changes nothing")
			}
			return a.print(b, func(w io.Writer) { show(w, b) })
		},
	}
	cmd.Flags().StringVar(&id, "id", "", "the data store, if BACKUP is a name")
	return cmd
}

// show prints a manifest for people.
func show(w io.Writer, b *catalog.Backup) {
	rows := [][]string{{"Backup", string(b.ID)}, {"Data store", b.DataStore}}
	add := func(name, value string) {
		if value != "" {
			rows = append(rows, []string{name, value})
		}
	}
	add("Name", b.Name)
	add("Description", b.Description)
	add("State", stateText(b))
	add("Kind", string(b.Kind))
	add("Created", when(b.CreatedAt)+" UTC")
	if b.Timings.Total > 0 {
		t := b.Timings
		add("Took", fmt.Sprintf("%s: wait %s, transfer %s, read back %s", took(t.Total), took(t.Wait), took(t.Transfer), took(t.ReadBack)))
	}
	s := b.Source
	add("Source", strings.Join(filled(source(s.Engine, s.Version), s.Address, s.Topology, s.Role), ", "))
	add("Snapshot", strings.Join(filled(s.Dialect, by(s.Method)), ", "))
	if s.File != "" {
		add("File", s.File)
	}
	if !s.Time.IsZero() {
		add("Written", when(s.Time)+" UTC")
	}
	if s.Spread > 0 {
		add("Spread", took(s.Spread)+" between the instants of the first shard and the last: they are consistent one by one")
	}
	if s.Fuzzy {
		add("Fuzzy", "each key is as it was at some instant, all together are of none")
	}
	if c := s.Scan; c != nil {
		add("Scan", scanText(c))
	}
	add("Reason", s.Reason)
	add("Labels", labelsText(b.Labels))
	add("Policy", b.Policy)
	if !b.DeleteAfter.IsZero() {
		add("Kept until", when(b.DeleteAfter)+" UTC")
	}
	if b.Pinned {
		add("Pinned", "yes, retention leaves it alone")
	}
	if s.ReplicationID != "" {
		add("Replication", fmt.Sprintf("%s at offset %d", s.ReplicationID, s.ReplicationOffset))
	}
	if s.UsedMemory > 0 {
		add("Memory used", size(s.UsedMemory))
	}
	add("Cost", costText(s.Cost))
	if b.State == catalog.StateReady {
		add("Keys", fmt.Sprintf("%s, %s with an expiry", count(b.Keys), count(b.Expires)))
		if b.Commands > 0 {
			add("Commands", count(b.Commands)+", to be executed on top of these")
		}
		add("Size", fmt.Sprintf("%s stored, %s raw%s", size(b.StoredBytes), size(b.RawBytes), percent(b.StoredBytes, b.RawBytes)))
		add("Functions", strconv.FormatInt(b.Functions, 10))
	}
	for _, r := range b.Recipients {
		add("Encrypted for", r)
	}
	if b.Signature != nil {
		add("Signed by", base64.StdEncoding.EncodeToString(b.Signature.Key)+" (verify --trust checks it)")
	}
	table(w, rows...)
	if len(b.DBs) > 0 {
		rows := [][]string{{"DB", "KEYS", "EXPIRES", "TYPES"}}
		for _, db := range b.DBs {
			rows = append(rows, []string{strconv.Itoa(db.Index), count(db.Keys), count(db.Expires), byType(db.Types)})
		}
		fmt.Fprintln(w)
		table(w, rows...)
	}
	if len(b.Modules) > 0 {
		rows := [][]string{{"MODULE", "VERSION", "KEYS", "AUX"}}
		for _, m := range b.Modules {
			rows = append(rows, []string{m.Name, strconv.Itoa(m.Version), count(m.Keys), count(m.Aux)})
		}
		fmt.Fprintln(w)
		table(w, rows...)
	}
	if len(b.Parts) > 0 {
		rows := [][]string{{"PART", "DIALECT", "KEYS", "SIZE", "RAW", "SHA-256 (STORED)"}}
		for _, p := range b.Parts {
			name := p.Name
			if p.Adopted {
				name = p.Key + " (adopted)"
			}
			rows = append(rows, []string{name, p.Dialect, count(p.Keys), size(p.Size), size(p.RawSize), p.SHA256})
		}
		fmt.Fprintln(w)
		table(w, rows...)
	}
	shardTable(w, b.Parts)
}

// shardTable prints where parts came from that came from several.
func shardTable(w io.Writer, parts []catalog.Part) {
	rows := [][]string{{"PART", "SHARD", "FROM", "ROLE", "SLOTS", "AT (UTC)", "OFFSET", "BEGUN"}}
	for _, p := range parts {
		s := p.Shard
		if s == nil {
			continue
		}
		at, begun := "", "once"
		if !s.Time.IsZero() {
			at = s.Time.UTC().Format("2006-01-02 15:04:05.000")
		}
		if s.Attempts > 1 {
			begun = plural(int64(s.Attempts), "time")
		}
		rows = append(rows, []string{p.Name, s.ID, s.Address, s.Role, slotsText(s.Slots), at, strconv.FormatInt(s.ReplicationOffset, 10), begun})
	}
	if len(rows) > 1 {
		fmt.Fprintln(w)
		table(w, rows...)
	}
}

// slotsText prints slots of a cluster, the first few ranges of them.
func slotsText(ranges []catalog.SlotRange) string {
	const most = 4
	var out []string
	for i, r := range ranges {
		switch {
		case i == most:
			return strings.Join(out, " ") + fmt.Sprintf(" and %d more", len(ranges)-most)
		case r.First == r.Last:
			out = append(out, strconv.Itoa(r.First))
		default:
			out = append(out, fmt.Sprintf("%d-%d", r.First, r.Last))
		}
	}
	return strings.Join(out, " ")
}

// scanText tells what happened to keys that were read one by one.
func scanText(c *catalog.Scan) string {
	text := count(c.Listed) + " listed"
	for _, part := range []struct {
		n    int64
		what string
	}{{c.Gone, "gone before they were read"}, {c.Expired, "of these expired"}, {c.Changed, "of another type by then"}, {c.Moved, "moved to another node"}} {
		if part.n > 0 {
			text += fmt.Sprintf(", %s %s", count(part.n), part.what)
		}
	}
	return text
}

// stateText says how far a backup is and how it was proved.
func stateText(b *catalog.Backup) string {
	switch {
	case b.Error != "":
		return fmt.Sprintf("%s: %s", b.State, b.Error)
	case b.State != catalog.StateReady:
		return string(b.State)
	}
	var proofs []string
	v := b.Verification
	if v.Structure {
		proofs = append(proofs, "structure")
	}
	switch v.Checksum {
	case "":
	case "absent":
		proofs = append(proofs, "checksum (absent: the server writes none)")
	default:
		proofs = append(proofs, v.Checksum)
	}
	if v.ReadBack {
		proofs = append(proofs, "read back")
	}
	text := string(b.State)
	if len(proofs) > 0 {
		text += ", proved by " + strings.Join(proofs, ", ")
	}
	if !v.At.IsZero() {
		text += ", at " + v.At.UTC().Format(time.TimeOnly)
	}
	return text
}

func by(method string) string {
	if method == "" {
		return ""
	}
	return "taken by method " + method
}

// filled returns the strings that are not empty.
func filled(parts ...string) []string {
	var out []string
	for _, p := range parts {
		if p != "" {
			out = append(out, p)
		}
	}
	return out
}

func percent(part, whole int64) string {
	if whole <= 0 {
		return ""
	}
	return fmt.Sprintf(" (%.0f%%)", 100*float64(part)/float64(whole))
}
