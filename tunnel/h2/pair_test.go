package h2_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"net"
	"sync"
	"testing"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/h2"
	"github.com/depinsim/x402/tunnel/tunneltest"
)

func TestConformance(t *testing.T) {
	tunneltest.Run(t, tunneltest.Transport{Simulated: simulated, Loopback: loopback, Uploads: 46, Idle: 96 << 10})
}

func BenchmarkRelay(b *testing.B) { tunneltest.Bench(b, loopback) }

// newKey returns an agent's key and its hash.
func newKey(t testing.TB) (*ecdsa.PrivateKey, [32]byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return key, sha256.Sum256(der)
}

// connect makes a connection of two ends.
func connect(t testing.TB, near, far net.Conn, p tunneltest.Path) tunneltest.Ends {
	t.Helper()
	key, hash := newKey(t)
	cert, err := h2.Certificate(key)
	if err != nil {
		t.Fatal(err)
	}
	var server tunnel.ServerConn
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := h2.Server(context.Background(), far, h2.ServerConfig{Certificate: cert, MaxStreams: p.Streams})
		if err != nil {
			t.Error(err)
			return
		}
		server = c
	})
	client, err := h2.Client(context.Background(), near, &hash)
	if err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	return tunneltest.Ends{Client: client, Server: server, Close: func() {}}
}

// simulated connects over a cable.
func simulated(t testing.TB, p tunneltest.Path) tunneltest.Ends {
	t.Helper()
	near, far := tunneltest.Cable(p.Delay)
	return connect(t, near, far, p)
}

// loopback connects over TCP.
func loopback(t testing.TB, p tunneltest.Path) tunneltest.Ends {
	t.Helper()
	near, far := sockets(t)
	return connect(t, near, far, p)
}

func sockets(t testing.TB) (near, far net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if near, err = net.Dial("tcp4", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return near, far
}
