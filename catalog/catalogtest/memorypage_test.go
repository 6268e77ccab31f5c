package catalogtest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/amberkv/amber/catalog"
)

// misread is a query as a fault has it.
func (m *memory) misread(q catalog.Query) catalog.Query {
	q = inAnyDataStore(q)
	if m.is("any kind") {
		q.Kinds = nil
	}
	if m.is("first kind only") && len(q.Kinds) > 0 {
		q.Kinds = q.Kinds[:1]
	}
	if m.is("any policy") {
		q.Policy = ""
	}
	if m.is("name is text") {
		q.Text, q.Name = q.Text+q.Name, ""
	}
	if m.is("any label") {
		q.Labels = nil
	}
	if m.is("empty label is none") {
		some := map[string]string{}
		for key, value := range q.Labels {
			if value != "" {
				some[key] = value
			}
		}
		q.Labels = some
	}
	if m.is("from later") && !q.From.IsZero() {
		q.From = q.From.Add(1)
	}
	if m.is("until and with it") && !q.Until.IsZero() {
		q.Until = q.Until.Add(1)
	}
	if m.is("any text") {
		q.Text = ""
	}
	if m.is("text is a pattern") {
		q.Text = strings.Trim(q.Text, "*%")
	}
	return q
}

// Page gives a page as catalog.Pager says.
func (m *memory) Page(ctx context.Context, q catalog.Query, from catalog.Cursor, limit int) (page []*catalog.Backup, unreadable []error, err error) {
	if limit < 1 && !m.is("page of nothing") {
		return nil, nil, errors.New("invalid limit")
	}
	if _, ok := from.ID.Time(); !ok && from.ID != "" && !m.is("page from anywhere") {
		return nil, nil, errors.New("invalid cursor")
	}
	if m.is("page from the beginning") {
		from = catalog.Cursor{}
	}
	if m.is("page of any kind") {
		q.Kinds = nil
	}
	if m.is("page shows what was") {
		// as it was when this was asked for first
		m.mu.Lock()
		key := fmt.Sprint(q, from, limit)
		was, ok := m.pages[key]
		m.mu.Unlock()
		if ok {
			return was, nil, nil
		}
		defer func() {
			m.mu.Lock()
			m.pages[key] = page
			m.mu.Unlock()
		}()
	}
	for b, err := range m.List(ctx, q) {
		switch {
		case errors.Is(err, catalog.ErrCorrupt) && !m.is("page is corrupt"):
			if !m.is("page hides corrupt") {
				unreadable = append(unreadable, err)
			}
		case err != nil:
			return nil, nil, err
		case from.Before(b.ID, b.DataStore) || m.is("page repeats its last") && b.ID == from.ID:
			page = append(page, b)
		}
		if len(page) == limit && !m.is("page too long") {
			break
		}
	}
	if m.is("page lacks the newest") && len(page) > 0 && from.ID == "" {
		page = page[1:]
	}
	return page, unreadable, nil
}
