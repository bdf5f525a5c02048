// Package peertest runs the x402 packages on npm, which are not changed, for tests:
// their clients, servers and facilitators live in one process of node, which does
// what it is asked by a line of JSON.
package peertest

import (
	"bufio"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger/evm/evmtest"
	"github.com/depinsim/x402/channel/npmtest"
)

// The packages, and what is made of them.
//
//go:embed npm/package.json npm/package-lock.json peer.cjs
var files embed.FS

// A Peer is a process that runs peer.cjs. It does one thing at a time; what it
// serves it serves meanwhile.
type Peer struct {
	in  io.Writer
	out *bufio.Reader
}

// Start starts a peer that ends with the test. Where the packages cannot be had
// the test is skipped.
func Start(t *testing.T) *Peer {
	t.Helper()
	packages, err := fs.Sub(files, "npm")
	if err != nil {
		t.Fatal(err)
	}
	modules := npmtest.Install(t, packages)
	text, err := files.ReadFile("peer.cjs")
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "peer.cjs")
	if err := os.WriteFile(script, text, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", script)
	cmd.Env = append(os.Environ(), "X402_MODULES="+modules)
	cmd.Stderr = &lines{t: t}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close() // it ends then
		if err := cmd.Wait(); err != nil {
			t.Errorf("node: %v", err)
		}
	})
	return &Peer{in, bufio.NewReaderSize(out, 1<<20)}
}

// lines is what node complains about.
type lines struct{ t *testing.T }

func (l *lines) Write(b []byte) (int, error) {
	l.t.Logf("node: %s", b)
	return len(b), nil
}

// Object is a JSON object.
type Object map[string]any

// Ask has the peer do something. An error is what the packages say.
func (p *Peer) Ask(t *testing.T, op string, args Object, result any) error {
	t.Helper()
	request := Object{"op": op}
	maps.Copy(request, args)
	b, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.in.Write(append(b, '\n')); err != nil {
		t.Fatal(err)
	}
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Result json.RawMessage
		Error  *string
	}
	if err := json.Unmarshal(line, &answer); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	if answer.Error != nil {
		return errors.New(*answer.Error)
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(answer.Result, result); err != nil {
		t.Fatalf("%s: %v: %s", op, err, answer.Result)
	}
	return nil
}

// Must is Ask where nothing may go wrong.
func (p *Peer) Must(t *testing.T, op string, args Object, result any) {
	t.Helper()
	if err := p.Ask(t, op, args, result); err != nil {
		t.Fatalf("%s: %v", op, err)
	}
}

// Key is a key as the packages want it.
func Key(k *channel.Key) string { return "0x" + hex.EncodeToString(k.Bytes()) }

// Facilitate starts their facilitator for a chain, by an account of its own that has
// money for gas, and returns its URL.
func (p *Peer) Facilitate(t *testing.T, chain *evmtest.Chain) string {
	t.Helper()
	key, err := channel.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	chain.Fund(key.Address())
	var out struct{ URL string }
	p.Must(t, "facilitate", Object{"rpc": chain.URL, "key": Key(key)}, &out)
	return out.URL
}
