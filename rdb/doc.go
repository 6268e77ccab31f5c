// Package rdb reads the snapshots of Redis, Valkey and Dragonfly: RDB streams, as they are in files, in full
// synchronisations of replicas, and, one value at a time, in the payloads of DUMP and RESTORE.
package rdb
