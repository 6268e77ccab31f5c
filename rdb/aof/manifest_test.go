package aof

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestManifest(t *testing.T) {
	text := "# a comment\n" +
		"file appendonly.aof.2.base.rdb seq 2 type b\n" +
		"file appendonly.aof.1.incr.aof seq 1 type h\n" +
		"file \"my \\\"app\\\" \\xff\\n.2.incr.aof\" seq 2 type i\n" +
		"file 'it\\'s.3.incr.aof' seq 3 type i startoffset 300 endoffset 8\n"
	m, err := ParseManifest([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []File{
		{"appendonly.aof.2.base.rdb", 2, Base, nil}, {"appendonly.aof.1.incr.aof", 1, History, nil}, {"my \"app\" \xff\n.2.incr.aof", 2, Incremental, nil},
		{"it's.3.incr.aof", 3, Incremental, []Attr{{"startoffset", "300"}, {"endoffset", "8"}}},
	}
	if !reflect.DeepEqual(m.Files, want) {
		t.Errorf("%+v", m.Files)
	}
	if got := m.Members(); len(got) != 3 || got[0].Type != Base || got[1].Seq != 2 || got[2].Seq != 3 {
		t.Errorf("members: %v", got)
	}
	again, err := ParseManifest(m.Encode())
	if err != nil || !reflect.DeepEqual(again, m) {
		t.Errorf("%v\n%s", err, m.Encode())
	}
	if line := strings.Split(string(m.Encode()), "\n")[3]; line != `file "it's.3.incr.aof" seq 3 type i startoffset 300 endoffset 8` {
		t.Error(line)
	}
	// The base comes first, wherever it is named; and offsets and history are nothing that makes another set.
	other, err := ParseManifest([]byte("file i seq 9 type i startoffset 1\nfile b seq 1 type b\n"))
	if err != nil || other.Members()[0].Name != "b" {
		t.Fatalf("%v %v", other, err)
	}
	later, err := ParseManifest([]byte("file b seq 1 type b\nfile h seq 8 type h\nfile i seq 9 type i startoffset 1 endoffset 5\n"))
	if err != nil || !other.Same(later) || other.Same(m) || m.Same(other) {
		t.Error("the same members aren't the same, or others are")
	}
	for _, change := range []string{"file B seq 1 type b\nfile i seq 9 type i\n", "file b seq 2 type b\nfile i seq 9 type i\n", "file b seq 1 type i\nfile i seq 9 type i\n", "file b seq 1 type b\n"} {
		if c, err := ParseManifest([]byte(change)); err != nil || c.Same(other) {
			t.Errorf("%q: %v", change, err)
		}
	}
}

func TestManifestWrong(t *testing.T) {
	for text, want := range map[string]string{
		"":                                                     "it names no file",
		"# nothing\n":                                          "it names no file",
		"\n":                                                   "line 1: it isn't made of pairs",
		"file a seq 1 type b":                                  "line 1: its end is missing",
		"file a seq 1\n":                                       "line 1: it isn't made of pairs",
		"file a seq 1 type\n":                                  "line 1: it isn't made of pairs",
		"file a seq 1 kind b\n":                                "line 1: it doesn't say",
		"file a seq 0 type b\n":                                "line 1: seq is \"0\"",
		"file a seq -1 type b\n":                               "line 1: seq is",
		"file a seq x type b\n":                                "line 1: seq is",
		"file a seq 1 type x\n":                                "line 1: type is",
		"file a seq 1 type bb\n":                               "line 1: type is",
		"file ../a seq 1 type b\n":                             "it is a path",
		"file /a seq 1 type b\n":                               "it is a path",
		"file .. seq 1 type b\n":                               "it is a directory's",
		"file . seq 1 type b\n":                                "it is a directory's",
		"file \"\" seq 1 type b\n":                             "it is empty",
		"file \"a seq 1 type b\n":                              "a quote isn't closed",
		"file 'a seq 1 type b\n":                               "a quote isn't closed",
		"file \"a\"b seq 1 type b\n":                           "something follows a closing quote",
		"file \"a\\x00\" seq 1 type b\n":                       "it is a path",
		"file a\x00 seq 1 type b\n":                            "it has a zero byte",
		"file a seq 1 type b\nfile b seq 2 type b\n":           "line 2: there are two base files",
		"file a seq 1 type b\nfile a seq 1 type i\n":           "line 2: the file \"a\" is named twice",
		"file a seq 2 type i\nfile b seq 2 type i\n":           "line 2: increment 2 comes behind increment 2",
		"file a seq 2 type i\nfile b seq 1 type i\n":           "line 2: increment 1 comes behind increment 2",
		"file " + strings.Repeat("a", 256) + " seq 1 type b\n": "more than 255",
		"#" + strings.Repeat("a", 2000) + "\n":                 "line 1: it has more than",
		strings.Repeat("# comment\n", MaxManifest/10+1):        "it has more than 1048576",
		"file a seq 99999999999999999999 type b\n":             "seq is",
	} {
		_, err := ParseManifest([]byte(text))
		var me *ManifestError
		if !errors.As(err, &me) || !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %s", text, err, want)
		}
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte("file appendonly.aof.2.base.rdb seq 2 type b\nfile \"a \\x00\\n'\" seq 2 type i startoffset 300 endoffset 8\n"))
	f.Add([]byte("# x\nfile 'it\\'s' seq 1 type h\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := ParseManifest(text)
		if err != nil {
			return
		}
		for _, file := range m.Files {
			if strings.ContainsAny(file.Name, "/\x00") || file.Name == ".." || file.Name == "." || file.Name == "" || file.Seq < 1 {
				t.Fatalf("%+v", file)
			}
		}
		again, err := ParseManifest(m.Encode())
		if err != nil && strings.Contains(err.Error(), "more than") {
			return // quotes and escapes can make a line too long
		}
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("%v\n%+v\n%+v", err, m, again)
		}
	})
}
