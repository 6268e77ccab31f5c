//go:build !amd64 || noasm

package crc64

func update(crc uint64, p []byte) uint64 { return updateTables(crc, p) }
