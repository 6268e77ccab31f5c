package backup_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"

	"github.com/amberkv/amber/backup"
	"github.com/amberkv/amber/catalog"
	"github.com/amberkv/amber/internal/crc64"
)

// snapshotOf returns an RDB file of n keys with values of the given size. The pipeline is tested with bytes of any shape and with
// sources that misbehave at a chosen byte; servers are the business of the snapshotters' tests.
func snapshotOf(n, size int) []byte {
	var b bytes.Buffer
	b.WriteString("REDIS0010\xfe\x00")
	values := make([][]byte, min(n, 256)) // so many differ
	for i := range values {
		values[i] = make([]byte, size)
		for j := range size {
			values[i][j] = byte(i*7 + j*j>>3)
		}
	}
	for i := range n {
		key := fmt.Sprintf("key:%08d", i)
		b.WriteByte(0)
		b.WriteByte(byte(len(key)))
		b.WriteString(key)
		b.WriteByte(0x80)
		b.Write(binary.BigEndian.AppendUint32(nil, uint32(size)))
		b.Write(values[i%len(values)])
	}
	b.WriteByte(0xff)
	return binary.LittleEndian.AppendUint64(b.Bytes(), crc64.Checksum(b.Bytes()))
}

// source is a Snapshotter of given bytes that misbehaves where told.
type source struct {
	data     []byte
	snapshot func(ctx context.Context) error         // called by Snapshot
	read     func(ctx context.Context, at int) error // called by Read
	piece    int                                     // bytes a Read gives at most; 0: any number
	open     atomic.Int32                            // snapshots and readers that were not closed
}

func (s *source) Snapshot(ctx context.Context) (backup.Snapshot, error) {
	if s.snapshot != nil {
		if err := s.snapshot(ctx); err != nil {
			return nil, err
		}
	}
	s.open.Add(1)
	return &snapshot{s: s}, nil
}

type snapshot struct {
	s      *source
	closed atomic.Bool
}

func (s *snapshot) Source() catalog.Source {
	return catalog.Source{Engine: "redis", Version: "7.0.15", Topology: "standalone", Role: "primary"}
}

func (s *snapshot) Parts() []backup.Part { return []backup.Part{{Name: "part-0000.rdb", Size: -1}} }

func (s *snapshot) Open(ctx context.Context, p backup.Part) (io.ReadCloser, error) {
	s.s.open.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	return &reader{s: s.s, ctx: ctx, cancel: cancel}, nil
}

func (s *snapshot) Close() error {
	if !s.closed.Swap(true) {
		s.s.open.Add(-1)
	}
	return nil
}

type reader struct {
	s      *source
	ctx    context.Context
	cancel context.CancelFunc
	at     int
	closed atomic.Bool
}

func (r *reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, errors.New("the source was closed")
	}
	if r.s.read != nil {
		if err := r.s.read(r.ctx, r.at); err != nil {
			return 0, err
		}
	}
	if r.at == len(r.s.data) {
		return 0, io.EOF
	}
	if r.s.piece > 0 {
		p = p[:min(len(p), r.s.piece)]
	}
	n := copy(p, r.s.data[r.at:])
	r.at += n
	return n, nil
}

func (r *reader) Close() error {
	r.cancel()
	if !r.closed.Swap(true) {
		r.s.open.Add(-1)
	}
	return nil
}

// released fails the test if something of the source was not closed.
func (s *source) released(t *testing.T) {
	t.Helper()
	if n := s.open.Load(); n != 0 {
		t.Errorf("%d of the source's snapshots and readers were left open", n)
	}
}
