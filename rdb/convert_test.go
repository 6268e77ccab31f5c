package rdb

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestConvertFixtures converts every fixture to every dialect and back. What one can express is the same after each; what
// it can't is an error that says so, and left out if that is wanted.
func TestConvertFixtures(t *testing.T) {
	for _, f := range fixtures(t, 1<<20) {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			for _, to := range targets() {
				convertThereAndBack(t, f.data, to)
			}
		})
	}
}

func convertThereAndBack(t *testing.T, data []byte, to Dialect) {
	t.Helper()
	out, report, err := convert(data, to, nil)
	lossless := err == nil
	if err != nil {
		if !errors.Is(err, ErrLoss) {
			t.Errorf("%v: %v", to, err)
			return
		}
		if out, report, err = convert(data, to, &ConvertOptions{Policy: DropDetail}); err != nil {
			t.Errorf("%v, dropping details: %v", to, err)
			return
		}
		if len(report.Losses) == 0 {
			t.Errorf("%v: a loss that the report doesn't name", to)
		}
		skipped, skipping, err := convert(data, to, &ConvertOptions{Policy: SkipKey})
		if err != nil {
			t.Errorf("%v, skipping keys: %v", to, err)
			return
		}
		checkSkipped(t, data, skipped, to)
		if skipping.Keys > report.Keys {
			t.Errorf("%v: %d keys without those that lose something, %d with them", to, skipping.Keys, report.Keys)
		}
	}
	checkWritten(t, data, out, report)
	if !lossless {
		return
	}
	c := contentOf(to)
	want, err := c.of(data)
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.of(out)
	if err != nil {
		t.Errorf("%v: the result: %v", to, err)
		return
	}
	if diff := diffContents(want, got); diff != "" {
		t.Errorf("%v: %s", to, diff)
	}
	if report.Keys+report.Functions != int64(len(want)) || report.To != to || report.Filtered != 0 {
		t.Errorf("%v: report %+v, want %d keys and functions", to, report, len(want))
	}
	back := report.From
	if !back.known() || back.Family == Redis && back.Version < 6 || !hasAll(back, data) {
		return
	}
	r := NewReader(bytes.NewReader(data), nil)
	if err := readAll(r); err != io.EOF {
		t.Fatal(err)
	}
	var modules []string // which pass on their own only to a newer version
	for _, m := range r.Stats().Modules {
		modules = append(modules, m.ID.Name())
	}
	again, _, err := convert(out, back, &ConvertOptions{Modules: modules})
	if err != nil {
		t.Errorf("%v and back to %v: %v", to, back, err)
		return
	}
	if b := contentOf(back); c.hints && !b.hints {
		c.hints = false // the source had them, though its version doesn't
		if want, err = c.of(data); err != nil {
			t.Fatal(err)
		}
	}
	if got, err = c.of(again); err != nil {
		t.Errorf("%v and back to %v: %v", to, back, err)
	} else if diff := diffContents(want, got); diff != "" {
		t.Errorf("%v and back to %v: %s", to, back, diff)
	}
}

// checkWritten checks that a stream has what the report of its conversion says, in encodings that the dialects say.
func checkWritten(t *testing.T, data, out []byte, report *ConvertReport) {
	t.Helper()
	honest := true // made-up streams have newer encodings than their header says
	for code, there := range encodingsIn(t, data) {
		honest = honest && (!there || report.From.writes(uint8(code)))
	}
	r := NewReader(bytes.NewReader(out), nil)
	for e, err := range r.Entries() {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind != KindKey {
			continue
		}
		if !report.To.has(report.To.encodings(), e.Encoding) && e.Encoding != codeModule {
			t.Errorf("%v: a value of encoding %d", report.To, e.Encoding)
		}
		if codes := report.To.Encodings(e.Type, report.From); honest && !slices.Contains(codes, e.Encoding) {
			t.Errorf("from %v to %v: a %v of encoding %d, which is none of %v", report.From, report.To, e.Type, e.Encoding, codes)
		}
	}
	if s := r.Stats(); !reflect.DeepEqual(s.DBs, report.DBs) || !reflect.DeepEqual(s.Modules, report.Modules) || s.Keys != report.Keys || s.Functions != report.Functions {
		t.Errorf("from %v to %v: the report says %+v, the stream has %+v", report.From, report.To, report, s)
	}
}

// hasAll tells whether a dialect has all that is in a stream: some have newer things than their header says.
func hasAll(d Dialect, data []byte) bool {
	r := NewReader(bytes.NewReader(data), nil)
	for e, err := range r.Entries() {
		if err != nil || e.Kind == KindKey && !d.has(r.encodings, e.Encoding) || len(e.Meta) > 0 && !d.keyMeta() ||
			e.Kind == KindFunction && !d.functions() || e.Kind == KindModuleAux && d.Version < 9 {
			return false
		}
	}
	return true
}

// contentOf says what streams of a dialect tell.
func contentOf(d Dialect) content {
	return content{hints: d.Family != Dragonfly && d.Version >= 9, seconds: d.Family == Dragonfly, counts: d.Version > 9, idmp: d.streamLevel() >= 4, last: d.lastExpiry()}
}

// checkSkipped checks that what is left after skipping keys is as it was.
func checkSkipped(t *testing.T, data, out []byte, to Dialect) {
	t.Helper()
	c := contentOf(to)
	want, err := c.of(data)
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.of(out)
	if err != nil {
		t.Errorf("%v, skipping keys: the result: %v", to, err)
	}
	for name := range want {
		if _, ok := got[name]; !ok {
			delete(want, name)
		}
	}
	if diff := diffContents(want, got); diff != "" {
		t.Errorf("%v, skipping keys: %s", to, diff)
	}
}

// TestConvertSame checks that a conversion between equals changes no value.
func TestConvertSame(t *testing.T) {
	for _, f := range fixtures(t, 1<<20) {
		r := NewReader(bytes.NewReader(f.data), nil)
		if err := readAll(r); err != io.EOF {
			t.Fatal(err)
		}
		if d := r.Dialect(); d.Family == Redis && d.Version < 6 {
			continue
		}
		out, report, err := convert(f.data, r.Dialect(), nil)
		if err != nil {
			t.Errorf("%s: %v", f.name, err)
			continue
		}
		if report.Encoded != 0 {
			t.Errorf("%s: %d keys of %d were encoded anew", f.name, report.Encoded, report.Keys)
		}
		if r.Dialect().Family == Dragonfly || report.Dropped > 0 {
			continue
		}
		if len(out) > len(f.data) {
			t.Errorf("%s: %d bytes became %d", f.name, len(f.data), len(out))
		}
	}
}

// TestConvertJSON makes Dragonfly's JSON the module's, if that is named, and nothing else.
func TestConvertJSON(t *testing.T) {
	if rejson.Name() != "ReJSON-RL" || rejson.Version() != 3 {
		t.Fatalf("%s %d", rejson.Name(), rejson.Version())
	}
	text := `{"a":[1,2,{"b":null}],"long":"` + strings.Repeat("x", 200<<10) + `"}`
	data := build("REDIS0009").bytes(30).str("doc", text).bytes(30).str("num").bytes(stringInt8, 42).bytes(opEOF).u64(0).b
	out, report, err := convert(data, Dialect{Redis, 12}, &ConvertOptions{Modules: []string{"ReJSON-RL"}})
	if err != nil || report.Keys != 2 || report.Encoded != 2 {
		t.Fatalf("%+v, %v", report, err)
	}
	id := uint64(rejson)
	want := build("REDIS0012").bytes(opSelectDB, 0, 7).str("doc").len(id, 5).str(text).len(0).bytes(7).str("num").len(id, 5).bytes(stringInt8, 42).len(0).end()
	if !bytes.Equal(out, want) {
		t.Errorf("%.80q, want %.80q", out, want)
	}
	if _, report, err = convert(out, Dialect{Dragonfly, 9}, nil); err != nil || report.Keys != 2 || report.Encoded != 0 {
		t.Errorf("back: %+v, %v", report, err)
	}
	for _, c := range []struct {
		to   Dialect
		opts *ConvertOptions
	}{{Dialect{Redis, 12}, nil}, {Dialect{Redis, 7}, &ConvertOptions{Modules: []string{"ReJSON-RL"}}}} {
		var loss *LossError
		if _, _, err := convert(data, c.to, c.opts); !errors.As(err, &loss) || loss.Loss != LossType {
			t.Errorf("to %v: %v", c.to, err)
		}
	}
}

// TestLateExpiries converts expiries of fields that are later than the target can express.
func TestLateExpiries(t *testing.T) {
	const late = 1 << 55
	data := build("VALKEY080").bytes(codeValkeyHash).str("k").len(2).str("f", "v").u64(late).str("g", "w").u64(5000).end()
	for d, want := range map[Dialect]int64{{Redis, 12}: 1<<48 - 1, {Dragonfly, dragonflyVersion}: (1<<32 - 1 + dragonflyEpoch) * 1000, {Valkey, valkeyVersion}: late} {
		out, _, err := convert(data, d, nil)
		if err != nil {
			t.Fatalf("%v: %v", d, err)
		}
		if err := Check(NewReader(bytes.NewReader(out), nil), nil); err != nil {
			t.Errorf("%v: %v", d, err)
		}
		r := NewReader(bytes.NewReader(out), nil)
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
		if e, err := r.Element(); err != nil || e.ExpireAt != want {
			t.Errorf("%v: the field expires at %d, want %d (%v)", d, e.ExpireAt, want, err)
		}
		w, err := NewWriter(io.Discard, d, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []int64{want + 1, -1} {
			err := errors.Join(w.WriteEntry(&Entry{Kind: KindKey, Type: TypeHash, Idle: -1, Freq: -1}, Shape{Expiry: true}),
				w.WriteElement(&Element{Kind: ElementField, ExpireAt: at}))
			if d.Family != Valkey && !errors.Is(err, ErrUnsupported) {
				t.Errorf("%v: a field that expires at %d: %v", d, at, err)
			}
		}
	}
}
