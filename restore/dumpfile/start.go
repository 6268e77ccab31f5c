package dumpfile

import (
	"fmt"
	"path"
	"strings"

	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/rdb/dfs"
)

// overlooked tells, as warnings, whether a Dragonfly whose dbfilename is the name that was asked for would load another file than the one that
// was just written: one beside it whose time lies in the future, or one of exactly that name.
func (w *files) overlooked() (warnings []string) {
	if w.cfg.Dialect.Family != rdb.Dragonfly {
		return nil
	}
	dir, base := path.Split(w.last)
	begin, _, _ := strings.Cut(w.dbfilename, "{")
	var beside []dfs.File
	for info, err := range w.cfg.Store.List(w.ctx, dir+begin) {
		if err != nil {
			return []string{fmt.Sprintf("whether a server would load another file than %s can't be seen: %v", w.last, err)}
		}
		if d, name := path.Split(info.Key); d == dir {
			beside = append(beside, dfs.File{Name: name, ModTime: info.ModTime})
		}
	}
	for _, cloud := range []bool{false, true} {
		if i := dfs.AtStart(w.dbfilename, beside, cloud); i >= 0 && beside[i].Name != base {
			return []string{fmt.Sprintf("a Dragonfly with --dbfilename %s loads %s instead, which counts as newer (%s): remove it before the server starts",
				w.dbfilename, dir+beside[i].Name, beside[i].ModTime.UTC().Format("2006-01-02T15:04:05Z"))}
		}
	}
	return nil
}
