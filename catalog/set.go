package catalog

import "strings"

// SetFiles returns the parts of a backup which are, as they are, the files of one of Dragonfly's sets (DFS): those of its shards, in their order, and then
// the summary. Nil: it has others. That the files belong together whoever made the backup has seen; package dfs says how to look again.
func (b *Backup) SetFiles() []Part {
	if len(b.Parts) < 2 {
		return nil
	}
	files := append([]Part(nil), b.Parts...)
	if b.Source.Method == "fetch" { // which reads the summary first
		files = append(files[1:], files[0])
	}
	for _, p := range files {
		name := strings.TrimSuffix(strings.TrimSuffix(p.Name, ".age"), ".zst")
		if !strings.HasSuffix(name, ".dfs") || !strings.HasPrefix(p.Dialect, "dragonfly:") {
			return nil
		}
	}
	if summary := files[len(files)-1]; summary.Keys > 0 || summary.Commands > 0 {
		return nil
	}
	return files
}
