package scan

import (
	"github.com/amberkv/amber/internal/resp"
)

// maxName and maxPage bound a name and all names of one answer to SCAN, in bytes. They are held in memory.
const (
	maxName = 16 << 20
	maxPage = 32 << 20
)

// A page is the names of an answer to SCAN, or as many others.
type page struct {
	names   []byte
	ends    []int
	next    int  // the first that is not yet asked for
	open    int  // how many requests are under way for keys of it
	strings bool // the keys are likely to be strings
}

func (p *page) reset() { *p = page{names: p.names[:0], ends: p.ends[:0]} }

// keep takes those names out of the page that aren't to be kept.
func (p *page) keep(is func(name []byte) bool) {
	from, size, n := 0, 0, 0
	for _, end := range p.ends {
		name := p.names[from:end]
		if is(name) {
			if size < from {
				copy(p.names[size:], name)
			}
			size += len(name)
			p.ends[n] = size
			n++
		}
		from = end
	}
	p.names, p.ends = p.names[:size], p.ends[:n]
}

func (p *page) len() int { return len(p.ends) }

func (p *page) name(i int) []byte {
	from := 0
	if i > 0 {
		from = p.ends[i-1]
	}
	return p.names[from:p.ends[i]]
}

func (p *page) add(name []byte) {
	p.names = append(p.names, name...)
	p.ends = append(p.ends, len(p.names))
}

// receive reads the answer to SCAN: it adds the names, and returns the next cursor.
func (p *page) receive(w *wire) (cursor string, err error) {
	n, err := w.want(resp.Array)
	if err != nil {
		return "", err
	}
	if n != 2 {
		return "", w.bad("an answer to SCAN that is no pair")
	}
	text, _, err := w.text(32)
	if err != nil {
		return "", err
	}
	if _, ok := number(text); !ok && len(text) < 19 {
		return "", w.bad("a cursor that is no number")
	}
	if n, err = w.want(resp.Array); err != nil {
		return "", err
	}
	for range n {
		if err := p.receiveName(w); err != nil {
			return "", err
		}
	}
	return string(text), nil
}

func (p *page) receiveName(w *wire) error {
	size, err := w.want(resp.Bulk)
	switch {
	case err != nil:
		return err
	case size < 0:
		return w.bad("a name that is null")
	case size > maxName || int64(len(p.names))+size > maxPage:
		return w.bad("names of more than 32 MiB at a time, or one of more than 16 MiB")
	}
	if size+2 <= maxLine {
		b, err := w.peek(int(size) + 2)
		if err != nil {
			return err
		}
		p.add(b[:size])
		w.r += int(size)
		return w.end()
	}
	from := len(p.names)
	p.names = append(p.names, make([]byte, size)...)
	if err := w.read(p.names[from:]); err != nil {
		return err
	}
	p.ends = append(p.ends, len(p.names))
	return w.end()
}
