package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"time"
)

// expiry is when the first key of the data set expires: 2100-01-01, in milliseconds.
const expiry = 4102444800000

// fill sends the data set to a server at addr: mixed keys, the same every time. Of a hundred keys 55 are strings, of
// which every other one expires, 15 hashes, 10 lists, 8 sets, 8 sorted sets and 4 streams. Values look like what
// applications store: half of each compresses well, half not at all.
func fill(ctx context.Context, addr string, keys int) error { return fillTagged(ctx, addr, keys, "") }

// fillTagged is fill with a tag behind each name, such as "{a}", which puts all keys into one slot of a cluster.
func fillTagged(ctx context.Context, addr string, keys int, tag string) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	sent := make(chan int, 1) // how many replies there will be
	replies := make(chan error, 1)
	go func() { replies <- readReplies(conn, sent) }()

	w := &respWriter{tag: tag, w: bufio.NewWriterSize(conn, 256<<10), random: rand.New(rand.NewPCG(20261124, 375))}
	for i := range keys {
		w.key(i)
	}
	if err := w.w.Flush(); err != nil {
		return errors.Join(err, ctx.Err())
	}
	sent <- w.commands
	// One command more, whose reply ends the wait for the reader that may already have seen all the others.
	w.command("PING")
	if err := w.w.Flush(); err != nil {
		return errors.Join(err, ctx.Err())
	}
	if err := <-replies; err != nil {
		return errors.Join(err, ctx.Err())
	}
	return nil
}

// readReplies reads replies of one line or one bulk string until it has seen one more than it is told were sent.
func readReplies(conn net.Conn, sent <-chan int) error {
	r := bufio.NewReaderSize(conn, 256<<10)
	total := -1
	for n := 0; total < 0 || n <= total; n++ {
		line, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		switch line[0] {
		case '-':
			return fmt.Errorf("reply %d is an error: %s", n, strings.TrimSpace(line))
		case '$':
			size, err := strconv.Atoi(strings.TrimSpace(line[1:]))
			if err != nil {
				return err
			}
			if _, err := r.Discard(size + 2); err != nil {
				return err
			}
		}
		if total < 0 {
			select {
			case total = <-sent:
			default:
			}
		}
	}
	return nil
}

// A respWriter writes commands.
type respWriter struct {
	w        *bufio.Writer
	random   *rand.Rand
	tag      string
	commands int
	num      []byte
	buf      []byte
}

// key writes the commands for one key.
func (w *respWriter) key(i int) {
	id := strconv.Itoa(i) + w.tag
	switch kind := i % 100; {
	case kind < 55:
		args := []string{"SET", "user:session:" + id, w.document(i)}
		if kind%2 == 0 {
			args = append(args, "PXAT", strconv.Itoa(expiry+i))
		}
		w.command(args...)
	case kind < 70:
		w.command("HSET", "user:profile:"+id, "name", w.words(2), "email", w.token(12)+"@example.com", "created", w.stamp(),
			"visits", w.number(1e6), "balance", w.number(1e9), "city", w.words(1), "token", w.token(32), "bio", w.words(12))
	case kind < 80:
		args := []string{"RPUSH", "queue:jobs:" + id}
		for range 12 + w.random.IntN(12) {
			args = append(args, w.token(16)+" "+w.words(1))
		}
		w.command(args...)
	case kind < 88:
		args := []string{"SADD", "tags:article:" + id}
		for range 8 + w.random.IntN(16) {
			args = append(args, w.token(12))
		}
		w.command(args...)
	case kind < 96:
		args := []string{"ZADD", "board:game:" + id}
		for range 8 + w.random.IntN(16) {
			args = append(args, w.number(1e6), "player:"+w.token(8))
		}
		w.command(args...)
	default:
		at := 1700000000000 + int64(i)*1000
		for range 6 + w.random.IntN(6) {
			at += 1 + w.random.Int64N(1000)
			w.command("XADD", "events:device:"+id, strconv.FormatInt(at, 10)+"-0", "temperature", w.number(100), "state", w.words(1), "trace", w.token(16))
		}
	}
}

// command writes one command.
func (w *respWriter) command(args ...string) {
	w.commands++
	w.w.WriteByte('*')
	w.num = strconv.AppendInt(w.num[:0], int64(len(args)), 10)
	w.w.Write(w.num)
	for _, a := range args {
		w.w.WriteString("\r\n$")
		w.num = strconv.AppendInt(w.num[:0], int64(len(a)), 10)
		w.w.Write(w.num)
		w.w.WriteString("\r\n")
		w.w.WriteString(a)
	}
	w.w.WriteString("\r\n")
}

// document returns a value as a session store has it.
func (w *respWriter) document(i int) string {
	return `{"id":` + strconv.Itoa(i) + `,"user":"` + w.words(2) + `","token":"` + w.token(242) + `","roles":["reader","writer"],"created":` +
		w.stamp() + `,"note":"` + w.words(1+w.random.IntN(30)) + `"}`
}

// token returns n random characters of base 64: they don't compress in the way that servers do it.
func (w *respWriter) token(n int) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	w.buf = w.buf[:0]
	for bits := uint64(0); n > 0; n-- {
		if bits < 1<<8 {
			bits = w.random.Uint64() | 1<<63
		}
		w.buf = append(w.buf, alphabet[bits&63])
		bits >>= 6
	}
	return string(w.buf)
}

// words returns n words.
func (w *respWriter) words(n int) string {
	list := [...]string{"amber", "keeps", "living", "data", "store", "exactly", "as", "it", "stood", "when", "the", "night", "began", "Wien", "Zürich", "Oslo"}
	w.buf = w.buf[:0]
	for i := range n {
		if i > 0 {
			w.buf = append(w.buf, ' ')
		}
		w.buf = append(w.buf, list[w.random.IntN(len(list))]...)
	}
	return string(w.buf)
}

func (w *respWriter) number(below int) string { return strconv.Itoa(w.random.IntN(below)) }

func (w *respWriter) stamp() string { return strconv.FormatInt(1700000000+w.random.Int64N(1e8), 10) }

// fillBig sets one value of size bytes that doesn't compress, piece by piece.
func fillBig(ctx context.Context, addr string, size int64) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	r := bufio.NewReader(conn)
	w := &respWriter{w: bufio.NewWriterSize(conn, 256<<10)}
	// The last byte first, so that the server allocates once.
	w.command("SETRANGE", "big", strconv.FormatInt(size-1, 10), "x")
	source := rand.NewChaCha8([32]byte{1})
	piece := make([]byte, min(size, 16<<20))
	for at := int64(0); at < size; at += int64(len(piece)) {
		piece = piece[:min(int64(len(piece)), size-at)]
		source.Read(piece)
		w.command("SETRANGE", "big", strconv.FormatInt(at, 10), string(piece))
		if err := w.w.Flush(); err != nil {
			return errors.Join(err, ctx.Err())
		}
		conn.SetReadDeadline(time.Now().Add(time.Minute))
		for ; w.commands > 0; w.commands-- {
			if line, err := r.ReadString('\n'); err != nil {
				return errors.Join(err, ctx.Err())
			} else if !strings.HasPrefix(line, ":") {
				return fmt.Errorf("SETRANGE: %s", strings.TrimSpace(line))
			}
		}
	}
	return nil
}
