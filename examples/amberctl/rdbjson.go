package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/amberkv/amber/rdb"
	"github.com/amberkv/amber/rdb/jsonl"
)

func (a *app) rdbJSONCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "json FILE",
		Short: "Print the keys of an RDB file or a DFS set as JSON Lines",
		Long: `Print one JSON object a line for each key, in the order of the file: database, key, type, expiry in Unix milliseconds and value.
FILE is an RDB file, - for standard input, or the summary file of a DFS set.

Bytes that are no printable ASCII are written \xHH, a backslash \\; JSON doubles each backslash. Members of sets and fields of hashes are
sorted, so that the sorted lines of two files with the same contents are the same. Functions are no keys: how many there are
is told on standard error.`,
		Example: `  amberctl rdb json dump.rdb | jq -c 'select(.type == "hash")'
  diff <(amberctl rdb json a.rdb | sort) <(amberctl rdb json b.rdb | sort)`,
		Args: takes(1, 1, "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			w := jsonl.NewWriter(a.out, &jsonl.Options{Spool: newSpool, MaxHeld: 2 * spoolAfter})
			functions := int64(0)
			err := a.streams(cmd.Context(), args[0], 1, nil, func(_ string, r *rdb.Reader) error {
				for e, err := range r.Entries() {
					if err == nil && e.Kind == rdb.KindKey {
						err = w.WriteKey(e, r)
					}
					if err != nil {
						return err
					}
				}
				functions += r.Stats().Functions
				return nil
			})
			// Lines that are whole are printed, whatever came after.
			if cerr := w.Close(); err == nil {
				err = cerr
			}
			if err != nil {
				return explain(cmd.Context(), err, "reading changes nothing")
			}
			if functions > 0 && !a.quiet {
				fmt.Fprintf(a.console, "%s: left out what is no key: %s of functions\n", clean(args[0]), plurals(functions, "library", "libraries"))
			}
			return nil
		},
	}
}

func plurals(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(n) + " " + many
}

// getFlags are what the command line says about a key.
type getFlags struct {
	db                 int
	raw, dump, escaped bool
}

func (a *app) rdbGetCommand() *cobra.Command {
	var f getFlags
	cmd := &cobra.Command{
		Use:   "get FILE KEY",
		Short: "Print the value of one key of an RDB file or a DFS set",
		Long: `Print a key's type, expiry and value, readable for a person; with --json as "rdb json" does. FILE is an RDB file, - for standard
input, or the summary file of a DFS set, which is read to its end.

Without --db the key is looked for in all databases. If no database has it, the exit status is 1.`,
		Example: `  amberctl rdb get dump.rdb user:42
  amberctl rdb get dump.rdb avatar:42 --raw > avatar.png
  amberctl rdb get dump.rdb user:42 --dump | redis-cli -x RESTORE user:42 0`,
		Args: takes(2, 2, "FILE and KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := []byte(args[1])
			switch {
			case f.raw && f.dump:
				return usagef("--raw or --dump, not both")
			case a.json && (f.raw || f.dump):
				return usagef("--json prints text, --raw and --dump print bytes: choose one")
			case cmd.Flags().Changed("db") && f.db < 0:
				return usagef("--db: no database has a number below 0")
			}
			if f.escaped {
				var ok bool
				if name, ok = unescape(args[1]); !ok {
					return usagef(`KEY %q: with --escaped a backslash begins \\ or \xHH`, args[1])
				}
			}
			found, err := a.get(cmd, &f, args[0], name)
			if err != nil {
				return explain(cmd.Context(), err, "reading changes nothing")
			}
			switch {
			case found > 0:
				return nil
			case f.db >= 0:
				return fmt.Errorf("%s: there is no key %q in database %d", args[0], name, f.db)
			}
			return fmt.Errorf("%s: there is no key %q", args[0], name)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&f.db, "db", -1, "the key's database (default: all are searched)")
	flags.BoolVar(&f.raw, "raw", false, "print the bytes of a string, and nothing else")
	flags.BoolVar(&f.dump, "dump", false, "print what the DUMP command gives: a payload for RESTORE")
	flags.BoolVar(&f.escaped, "escaped", false, `KEY is written as "rdb json" writes it: \xHH for a byte, \\ for a backslash`)
	flags.Lookup("db").DefValue = "" // which the text says better
	return cmd
}

// get prints the key from each database that has it, and returns how many these are.
func (a *app) get(cmd *cobra.Command, f *getFlags, file string, name []byte) (found int, err error) {
	w := jsonl.NewWriter(a.out, &jsonl.Options{Spool: newSpool, MaxHeld: 2 * spoolAfter})
	defer func() {
		if cerr := w.Close(); err == nil {
			err = cerr
		}
	}()
	first := 0
	return found, a.streams(cmd.Context(), file, 1, nil, func(_ string, r *rdb.Reader) error {
		for e, err := range r.Entries() {
			if err != nil {
				return err
			}
			if e.Kind != rdb.KindKey || string(e.Key) != string(name) || f.db >= 0 && e.DB != f.db {
				continue
			}
			if found++; found == 1 {
				first = e.DB
			} else if f.raw || f.dump {
				return fmt.Errorf("key %q is in databases %d and %d: choose with --db", name, first, e.DB)
			}
			switch {
			case a.json:
				err = w.WriteKey(e, r)
			case f.raw:
				err = a.getRaw(e, r)
			case f.dump:
				_, err = r.WriteRaw(a.out)
			default:
				if found > 1 {
					fmt.Fprintln(a.out)
				}
				err = a.show(w, e, r)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// getRaw prints the bytes of a string.
func (a *app) getRaw(e *rdb.Entry, r *rdb.Reader) error {
	if e.Type != rdb.TypeString && e.Type != rdb.TypeJSON {
		return fmt.Errorf("key %q is a %v: --raw is for strings, --dump for any", e.Key, e.Type)
	}
	for piece, err := range r.Elements() {
		if err != nil {
			return err
		}
		if _, err := a.out.Write(piece.Value); err != nil {
			return err
		}
	}
	return nil
}

// unescape reads a byte string in the form of JSON Lines, before JSON quoted it.
func unescape(s string) ([]byte, bool) {
	var out []byte
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != '\\':
			out = append(out, s[i])
		case i+1 < len(s) && s[i+1] == '\\':
			out = append(out, '\\')
			i++
		case i+3 < len(s) && s[i+1] == 'x':
			var b byte
			if _, err := fmt.Sscanf(s[i+2:i+4], "%02x", &b); err != nil {
				return nil, false
			}
			out = append(out, b)
			i += 3
		default:
			return nil, false
		}
	}
	return out, true
}
