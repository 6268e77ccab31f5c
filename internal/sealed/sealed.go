// Package sealed writes small JSON documents that show whether they were cut or changed: manifests, policies and the like.
//
// A document is indented, to be read by people too, and its last field "sha256" is the hash of every byte before it. Who can write
// documents can also seal them, so the hash is no signature.
package sealed

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// A document ends in its seal, which is head, 64 digits and tail to the byte.
const (
	head = ",\n  \"sha256\": \""
	tail = "\"\n}\n"
)

// Len is how many bytes the seal of a document has.
const Len = len(head) + 2*sha256.Size + len(tail)

// Encode returns the document of v, a struct that has at least one field to show and none called "sha256". A document of more than limit
// bytes is an error.
func Encode(v any, limit int) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	buf.Truncate(buf.Len() - len("\n}\n"))
	sum := sha256.Sum256(buf.Bytes())
	buf.WriteString(head + hex.EncodeToString(sum[:]) + tail)
	if buf.Len() > limit {
		return nil, fmt.Errorf("it has %d bytes, the limit is %d", buf.Len(), limit)
	}
	return buf.Bytes(), nil
}

// Decode reads a document that Encode wrote into v. Its field "format" must not be larger than the one given: what a newer version wrote may
// not even fit the types of this one. A field that v doesn't have is an error, for it could be one that matters, and would
// be lost with the next change.
func Decode(data []byte, v any, format, limit int) error {
	if len(data) > limit {
		return fmt.Errorf("it has %d bytes, the limit is %d", len(data), limit)
	}
	if len(data) < Len {
		return fmt.Errorf("it has only %d bytes and was cut", len(data))
	}
	body, seal := data[:len(data)-Len], string(data[len(data)-Len:])
	sum := sha256.Sum256(body)
	if seal != head+hex.EncodeToString(sum[:])+tail {
		return errors.New("it doesn't match its SHA-256: it was cut or changed")
	}
	body = append(bytes.Clone(body), "\n}\n"...)
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(body, &version); err != nil {
		return err
	}
	if version.Format > format {
		return fmt.Errorf("it was written by a newer Amber, in format %d; this one reads formats up to %d", version.Format, format)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("there is something after its end")
	}
	return nil
}
