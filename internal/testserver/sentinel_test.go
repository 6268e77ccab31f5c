package testserver

import (
	"strconv"
	"testing"
)

// Sentinels of every version watch a group, with a password or TLS too, and promote its replica, asked or when the primary dies.
func TestSentinels(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		primary := Start(t, version, "--requirepass", "secret", "--masterauth", "secret")
		second := StartReplica(t, version, primary, "--requirepass", "secret")
		s := StartSentinels(t, version, 3, primary, &SentinelOptions{Password: "other"})
		if got := s.Primary(t); got != primary.Addr || len(s.Addrs()) != 3 {
			t.Fatalf("the primary is %s, want %s; %v", got, primary.Addr, s.Addrs())
		}
		s.Nodes[0].Kill()
		primary.Kill()
		if got := s.Moved(t, primary.Addr); got != second.Addr {
			t.Errorf("the primary is %s now, want %s", got, second.Addr)
		}
	})
}

func TestSentinelsTLS(t *testing.T) {
	version := "valkey-8.1"
	primary := StartTLS(t, version, "--tls-replication", "yes")
	second := start(t, version, t.TempDir(), primary.TLS, logReady, []string{"--tls-replication", "yes", "--replicaof", primary.Host + " " + strconv.Itoa(primary.Port)})
	primary.AwaitReplicas(t, 1)
	s := StartSentinels(t, version, 1, primary, nil)
	if got := s.Failover(t); got != second.Addr {
		t.Errorf("the primary is %s now, want %s", got, second.Addr)
	}
}
