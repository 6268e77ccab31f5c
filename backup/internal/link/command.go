package link

import (
	"slices"
	"strings"

	"github.com/amberkv/amber/internal/resp"
)

// A Command is what COMMAND INFO tells of one.
type Command struct {
	Exists bool
	Writes bool // it may change data
	Admin  bool // it is one of administration, as those of replication are
}

// FindCommand reads what an answer to COMMAND INFO says of a command. Known is false if it says nothing: services have answers of their own.
func FindCommand(reply resp.Reply, name string) (c Command, known bool) {
	if reply.Kind != resp.Array {
		return c, false
	}
	absent := false
	for _, e := range reply.Elems {
		switch {
		case e.Kind == resp.Null || e.Kind == resp.Array && len(e.Elems) == 0:
			absent = true
		case e.Kind == resp.Array && strings.EqualFold(e.Elems[0].Text, name):
			c.Exists = true
			if len(e.Elems) > 2 {
				has := func(flag string) bool {
					return slices.ContainsFunc(e.Elems[2].Elems, func(f resp.Reply) bool { return strings.EqualFold(f.Text, flag) })
				}
				c.Writes, c.Admin = has("write"), has("admin")
			}
			return c, true
		}
	}
	return c, absent
}
