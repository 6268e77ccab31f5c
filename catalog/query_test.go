package catalog

import (
	"strings"
	"testing"
	"time"
)

func TestQueryMatch(t *testing.T) {
	began := time.Date(2026, 11, 23, 22, 17, 0, 123e6, time.UTC)
	b := &Backup{ID: "20261123T221700.123Z-k7f3", DataStore: "orders-eu", Name: "Before-v2", Description: "vor der Übergabe", Kind: KindAutomatic, State: StateReady,
		CreatedAt: began, Policy: "nightly", Labels: map[string]string{"team": "Payments", "empty": ""}}
	for name, c := range map[string]struct {
		q    Query
		want bool
	}{
		"zero":                     {Query{}, true},
		"ready is not failed":      {Query{States: []State{StateFailed, StateRunning}}, false},
		"one of the states":        {Query{States: []State{StateFailed, StateReady}}, true},
		"data store":               {Query{DataStore: "orders-eu"}, true},
		"a prefix of a data store": {Query{DataStore: "orders"}, false},
		"kind":                     {Query{Kinds: []Kind{KindManual, KindAutomatic}}, true},
		"another kind":             {Query{Kinds: []Kind{KindManual}}, false},
		"policy":                   {Query{Policy: "nightly"}, true},
		"another policy":           {Query{Policy: "night"}, false},
		"name":                     {Query{Name: "Before-v2"}, true},
		"name in other letters":    {Query{Name: "before-v2"}, false},
		"label":                    {Query{Labels: map[string]string{"team": "Payments"}}, true},
		"empty label":              {Query{Labels: map[string]string{"empty": ""}}, true},
		"label that isn't there":   {Query{Labels: map[string]string{"env": ""}}, false},
		"one label of two":         {Query{Labels: map[string]string{"team": "Payments", "env": "eu"}}, false},
		"label of another value":   {Query{Labels: map[string]string{"team": "payments"}}, false},
		"from its beginning on":    {Query{From: began}, true},
		"from later":               {Query{From: began.Add(1)}, false},
		"until its beginning":      {Query{Until: began}, false},
		"until later":              {Query{Until: began.Add(1)}, true},
		"text in the ID":           {Query{Text: "2217"}, true},
		"text in the data store":   {Query{Text: "ORDERS"}, true},
		"text in the name":         {Query{Text: "before"}, true},
		"text in the description":  {Query{Text: "ÜBERG"}, true},
		"text in a label":          {Query{Text: "payments"}, true},
		"text in a label's key":    {Query{Text: "team"}, false},
		"text in the policy":       {Query{Text: "nightly"}, false},
		"all but one":              {Query{DataStore: "orders-eu", Kinds: []Kind{KindAutomatic}, Text: "nothing"}, false},
	} {
		if got := c.q.Match(b); got != c.want {
			t.Errorf("%s: Match is %v", name, got)
		}
		if err := c.q.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestQueryValidate(t *testing.T) {
	at := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	for want, q := range map[string]Query{
		"Query.DataStore \"../x\"":                      {DataStore: "../x"},
		"Query.Policy":                                  {Policy: "a b"},
		"Query.Name":                                    {Name: strings.Repeat("x", MaxNameLen+1)},
		"the state \"perfect\" does not exist":          {States: []State{StateReady, "perfect"}},
		"Query.Kinds: kind \"\"":                        {Kinds: []Kind{""}},
		"Query.Labels: label":                           {Labels: map[string]string{"a b": ""}},
		"its value has 201 bytes, the limit is 200":     {Labels: map[string]string{"a": strings.Repeat("x", 201)}},
		"2026-11-23T00:00:00Z is not before":            {From: at, Until: at},
		"Query.Text has 1001 bytes, the limit is 1000":  {Text: strings.Repeat("x", 1001)},
		"Query.From 2026-11-23T00:00:01Z is not before": {From: at.Add(time.Second), Until: at},
	} {
		if err := q.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want one with %s", q, err, want)
		}
	}
}

func TestCursor(t *testing.T) {
	for _, c := range []struct {
		cursor Cursor
		id     ID
		ds     string
		want   bool
	}{
		{Cursor{}, "b", "x", true}, {Cursor{"b", "x"}, "b", "x", false}, {Cursor{"b", "x"}, "b", "w", false}, {Cursor{"b", "x"}, "b", "y", true},
		{Cursor{"b", "x"}, "c", "y", false}, {Cursor{"b", "x"}, "a", "a", true}, {Cursor{"b", ""}, "b", "a", true},
	} {
		if got := c.cursor.Before(c.id, c.ds); got != c.want {
			t.Errorf("%+v is before %s %s: %v", c.cursor, c.id, c.ds, got)
		}
	}
}
