package main

import (
	"context"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"crypto/x509"
)

// A peer is somebody else's tunnel, given by --peer NAME=PATH. It runs with a
// configuration that this program writes, as its own documentation starts it.
type peer struct{ name, path string }

// peerKinds are those that this program can configure.
func peerKinds() []string { return []string{"hysteria"} }

// peers is a flag.
type peers []peer

func (p *peers) String() string { return "" }

// Set adds one.
func (p *peers) Set(text string) error {
	name, path, ok := strings.Cut(text, "=")
	if !ok || !slices.Contains(peerKinds(), name) {
		return fmt.Errorf("want NAME=PATH with a NAME of %s", strings.Join(peerKinds(), ", "))
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if info, err := os.Stat(abs); err != nil || !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no program", abs)
	}
	*p = append(*p, peer{name, abs})
	return nil
}

// A peerRun is a peer's server with what its clients need.
type peerRun struct {
	peer
	b      *bench
	server *process
	dir    string
	at     string // address of the server
	target string
}

const peerServer = `listen: %s
tls: {cert: %s, key: %s}
auth: {type: password, password: bench}
`

// No bandwidth is named, so that BBR is used.
const peerClient = `server: %s
auth: bench
tls: {insecure: true}
socks5: {listen: %s}
`

// startPeer starts its server, on the agent's side.
func (b *bench) startPeer(ctx context.Context, p peer, target string) (*peerRun, error) {
	port, err := b.lab.freePort(agentSide, "udp")
	if err != nil {
		return nil, err
	}
	r := &peerRun{peer: p, b: b, target: target, at: net.JoinHostPort(b.lab.addr[agentSide], strconv.Itoa(port))}
	if r.dir, err = os.MkdirTemp(b.dir, p.name+"-"); err != nil {
		return nil, err
	}
	cert, err := bareCertificate()
	if err != nil {
		return nil, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return nil, err
	}
	file := func(name string) string { return filepath.Join(r.dir, name) }
	for name, text := range map[string][]byte{
		"cert.pem":    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}),
		"key.pem":     pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
		"server.yaml": fmt.Appendf(nil, peerServer, r.at, file("cert.pem"), file("key.pem")),
	} {
		if err := os.WriteFile(file(name), text, 0o600); err != nil {
			return nil, err
		}
	}
	r.server, err = b.start(ctx, agentSide, p.name+"-server", r.argv("server", file("server.yaml"))...)
	return r, err
}

func (r *peerRun) argv(role, config string) []string {
	return []string{"env", "HYSTERIA_DISABLE_UPDATE_CHECK=1", "HYSTERIA_LOG_LEVEL=warn", r.path, role, "--config", config}
}

// client starts a client on the buyer's side and returns how a load uses it: it
// may not listen yet.
func (r *peerRun) client(ctx context.Context) (*process, job, error) {
	port, err := r.b.lab.freePort(buyerSide, "tcp")
	if err != nil {
		return nil, job{}, err
	}
	socks := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	config := filepath.Join(r.dir, "client.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, peerClient, r.at, socks), 0o600); err != nil {
		return nil, job{}, err
	}
	p, err := r.b.start(ctx, buyerSide, r.name+"-client", r.argv("client", config)...)
	return p, job{Dial: r.target, SOCKS: socks, Patient: true}, err
}
