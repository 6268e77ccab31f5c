package testserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TLS is what the two ends of a connection to a TLS server need. All certificates are by one authority, made for the
// test, which the server trusts as well.
type TLS struct {
	// Client is for connections to the server: it trusts the authority and has a certificate of its own.
	Client *tls.Config
	// Listener is for a listener on 127.0.0.1 or localhost that the server may connect to, as a replica with tls-replication.
	Listener *tls.Config

	CAFile   string // PEM files for the command line of a client
	CertFile string
	KeyFile  string

	serverCert, serverKey string
}

// StartTLS is Start for a server that speaks TLS only. It takes clients with and without a certificate; the arguments
// "--tls-auth-clients", "yes" make it insist on one.
func StartTLS(t testing.TB, version string, args ...string) *Server {
	t.Helper()
	dir := t.TempDir()
	sec, err := newTLS(dir)
	if err != nil {
		t.Fatalf("making certificates: %v", err)
	}
	return start(t, version, dir, sec, logReady, args)
}

// newTLS makes an authority, a server's and a client's certificate in dir.
func newTLS(dir string) (*TLS, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ca := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "test authority"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return nil, err
	}
	if ca, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	s := &TLS{CAFile: filepath.Join(dir, "ca.crt")}
	if err := writePEM(s.CAFile, "CERTIFICATE", der); err != nil {
		return nil, err
	}
	issue := func(name string, serial int64) (cert tls.Certificate, certFile, keyFile string, err error) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return cert, "", "", err
		}
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(serial),
			Subject:      pkix.Name{CommonName: name},
			DNSNames:     []string{"localhost"},
			IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
			NotBefore:    ca.NotBefore,
			NotAfter:     ca.NotAfter,
			KeyUsage:     x509.KeyUsageDigitalSignature,
			ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}, ca, &key.PublicKey, caKey)
		if err != nil {
			return cert, "", "", err
		}
		keyDER, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return cert, "", "", err
		}
		certFile, keyFile = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
		if err := writePEM(certFile, "CERTIFICATE", der); err != nil {
			return cert, "", "", err
		}
		if err := writePEM(keyFile, "PRIVATE KEY", keyDER); err != nil {
			return cert, "", "", err
		}
		cert, err = tls.LoadX509KeyPair(certFile, keyFile)
		return cert, certFile, keyFile, err
	}
	server, serverCert, serverKey, err := issue("server", 2)
	if err != nil {
		return nil, err
	}
	client, certFile, keyFile, err := issue("client", 3)
	if err != nil {
		return nil, err
	}
	s.serverCert, s.serverKey, s.CertFile, s.KeyFile = serverCert, serverKey, certFile, keyFile
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	s.Client = &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{client}, ServerName: "127.0.0.1"}
	s.Listener = &tls.Config{Certificates: []tls.Certificate{server}, ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven}
	return s, nil
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
