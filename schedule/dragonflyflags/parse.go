package dragonflyflags

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// What flag files may be like: so large in bytes, so many, and one in another so often.
const (
	maxFile  = 1 << 20
	maxFiles = 100
	maxDepth = 8
)

// maxValue is the longest value of a flag that is looked at, in bytes.
const maxValue = 4096

// Parse reads a command line, with or without the name of the program in front: --flag=value, --flag value, --flag and --noflag, with one dash or two; of a flag that
// is there several times the last one counts. Those of --flagfile=a,b are read in its place, by readFile, which may be os.ReadFile: one
// to a line, which has a "=" if it has a value; lines that begin with "#" are comments.
//
// It is an error where Dragonfly wouldn't start: a value that it doesn't take, a line that is none, quotes that were left in a file. No error has the value of
// a flag in it that may be secret.
func Parse(args []string, readFile func(name string) ([]byte, error)) (*Flags, error) {
	f := &Flags{DBFilename: DefaultDBFilename, DFS: true, Port: 6379}
	p := parser{flags: f, readFile: readFile}
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		args = args[1:]
	}
	if err := p.args(args, func(i int) string { return fmt.Sprintf("argument %d", i+1) }); err != nil {
		return nil, fmt.Errorf("dragonflyflags: %w", err)
	}
	if err := f.checkFilename(); err != nil {
		return nil, fmt.Errorf("dragonflyflags: flag dbfilename %.100q: %w", f.DBFilename, err)
	}
	if strings.HasPrefix(strings.ToLower(f.Dir), "s3://") {
		p.setS3("dir", f.Dir)
		f.S3 = p.s3
	}
	if err := f.warn(); err != nil {
		return nil, err
	}
	return f, nil
}

type parser struct {
	flags    *Flags
	readFile func(name string) ([]byte, error)
	s3       map[string]string
	depth    int // of flag files in each other
	read     int // flag files
}

func (p *parser) setS3(name, value string) {
	if p.s3 == nil {
		p.s3 = map[string]string{}
	}
	p.s3[name] = value
}

// args reads arguments; where says where the i-th of them is.
func (p *parser) args(args []string, where func(i int) string) error {
	for i := 0; i < len(args); i++ {
		at := i
		bad := func(format string, a ...any) error { return fmt.Errorf("%s: %w", where(at), fmt.Errorf(format, a...)) }
		name, ok := strings.CutPrefix(args[i], "-")
		if !ok || name == "" {
			p.flags.Warnings = append(p.flags.Warnings, where(i)+" is no flag")
			continue
		}
		name, value, given := strings.Cut(strings.TrimPrefix(name, "-"), "=")
		if name == "" && !given {
			return nil // "--" ends the flags
		}
		next := func() bool {
			ok := !given && i+1 < len(args)
			if ok {
				i++
				value, given = args[i], true
			}
			return ok
		}
		positive := strings.TrimPrefix(name, "no")
		switch {
		case p.bool(name) != nil:
			on, err := truth(value)
			if !given {
				on = true
			} else if err != nil {
				return bad("flag %s: %w", name, err)
			}
			p.setBool(name, on)
		case positive != name && p.bool(positive) != nil:
			if given {
				return bad("flag %s can't have a value: it says \"no\" already", name)
			}
			p.setBool(positive, false)
		case positive != name && p.text(positive) != nil || name == "noport":
			return bad("flag %s: only flags that are true or false have a \"no\" in front", name)
		case name == "flagfile":
			if !given && !next() {
				return bad("flag flagfile has no value")
			}
			if err := p.files(value); err != nil {
				return bad("%w", err)
			}
		case p.text(name) != nil || name == "port":
			if !given && !next() {
				return bad("flag %s has no value", name)
			}
			if err := p.set(name, value); err != nil {
				return bad("flag %s: %w", name, err)
			}
		default:
			if first, _, ok := strings.Cut(name, " "); ok {
				return bad("flag %.100s: there is no \"=\" between it and its value, as Dragonfly wants it in a file", first)
			}
			if !slices.Contains(p.flags.Unknown, name) {
				p.flags.Unknown = append(p.flags.Unknown, name)
			}
			if i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
				next() // it is its value, or there is no use for it anyway
			}
		}
	}
	return nil
}

// text returns where the value of a flag goes that is text, or nil.
func (p *parser) text(name string) *string {
	switch f := p.flags; name {
	case "dir":
		return &f.Dir
	case "dbfilename":
		return &f.DBFilename
	case "snapshot_cron":
		return &f.SnapshotCron
	case "save_schedule":
		return &f.SaveSchedule
	case "bind":
		return &f.Bind
	case "tls_ca_cert_file":
		return &f.TLSCACertFile
	case "requirepass":
		return (*string)(&f.Password)
	case "s3_endpoint":
		return new(string) // it is kept in s3
	}
	return nil
}

// bool likewise, of a flag that is true or false.
func (p *parser) bool(name string) *bool {
	switch f := p.flags; name {
	case "df_snapshot_format":
		return &f.DFS
	case "tls":
		return &f.TLS
	case "s3_use_https", "s3_sign_payload", "s3_ec2_metadata":
		return new(bool)
	}
	return nil
}

func (p *parser) setBool(name string, on bool) {
	*p.bool(name) = on
	if strings.HasPrefix(name, "s3_") {
		p.setS3(name, strconv.FormatBool(on))
	}
}

// set takes a value that is no boolean.
func (p *parser) set(name, value string) error {
	if len(value) > maxValue {
		return fmt.Errorf("it has %d bytes, the limit is %d", len(value), maxValue)
	}
	if name == "port" {
		n, err := strconv.Atoi(strings.TrimSpace(value))
		if err != nil || n < 1 || n > 65535 {
			return fmt.Errorf("%q is no port that a server can be reached at: these are 1 to 65535", value)
		}
		p.flags.Port = n
		return nil
	}
	if name != "requirepass" {
		if strings.HasPrefix(value, `"`) || strings.HasPrefix(value, "'") {
			return errors.New("could it be that quotes were put in the flag file? There is no shell that would take them off")
		}
		if value != strings.TrimSpace(value) {
			return fmt.Errorf("%q begins or ends with white space, which Dragonfly takes for a part of it", value)
		}
	}
	*p.text(name) = value
	if strings.HasPrefix(name, "s3_") {
		p.setS3(name, value)
	}
	return nil
}

// truth reads what Dragonfly takes for true and false.
func truth(value string) (bool, error) {
	switch strings.ToLower(strings.TrimSpace(value)) {
	case "true", "t", "yes", "y", "1":
		return true, nil
	case "false", "f", "no", "n", "0":
		return false, nil
	}
	return false, fmt.Errorf("%.40q is neither true nor false", value)
}

// files reads flag files, a list of names with commas in between.
func (p *parser) files(names string) error {
	if p.depth++; p.depth > maxDepth {
		return fmt.Errorf("flag files are in each other more than %d times", maxDepth)
	}
	defer func() { p.depth-- }()
	for name := range strings.SplitSeq(names, ",") {
		if p.read++; p.read > maxFiles {
			return fmt.Errorf("there are more than %d flag files", maxFiles)
		}
		content, err := p.readFile(name)
		if err != nil {
			return fmt.Errorf("flag file %.200q: %w", name, err)
		}
		if len(content) > maxFile {
			return fmt.Errorf("flag file %.200q: it has %d bytes, the limit is %d", name, len(content), maxFile)
		}
		var numbers []int
		var args []string
		n := 0
		for line := range strings.SplitSeq(string(content), "\n") {
			n++
			line = strings.TrimLeft(line, " \t\v\f\r")
			if line == "" || line[0] == '#' {
				continue
			}
			where := fmt.Sprintf("flag file %s, line %d", name, n)
			if line[0] != '-' || strings.TrimRight(line, "\r") == "--" {
				return fmt.Errorf("%s: it is neither a flag, which begins with \"--\", nor a comment, which begins with \"#\"", where)
			}
			// The next line is no value, for it begins with a dash.
			if flag := strings.TrimLeft(line, "-"); !strings.Contains(flag, "=") && (p.text(flag) != nil || flag == "port" || flag == "flagfile") {
				return fmt.Errorf("%s: flag %s has no value: in a file it is on the same line, after a \"=\"", where, flag)
			}
			numbers, args = append(numbers, n), append(args, line)
		}
		if err := p.args(args, func(i int) string { return fmt.Sprintf("flag file %s, line %d", name, numbers[i]) }); err != nil {
			return err
		}
	}
	return nil
}

// checkFilename refuses what Dragonfly refuses when it starts.
func (f *Flags) checkFilename() error {
	name := f.DBFilename
	if strings.Contains(name, "/") {
		return errors.New("it has a directory in it: that goes into dir")
	}
	ext := ""
	if i := strings.LastIndexByte(name, '.'); i > 0 {
		ext = name[i:]
	}
	switch {
	case f.DFS && ext != "":
		return fmt.Errorf("with df_snapshot_format it may have no extension, and %s is one", ext)
	case !f.DFS && ext != "" && !strings.EqualFold(ext, ".rdb"):
		return fmt.Errorf("without df_snapshot_format its extension can only be .rdb, not %s", ext)
	}
	return nil
}
