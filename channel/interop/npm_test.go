package interop

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/depinsim/x402/channel/npmtest"
)

// TestNPM runs all cases with one process of theirs, each with a ledger of its
// own.
func TestNPM(t *testing.T) {
	p := newPeer(t)
	for _, c := range []struct {
		name string
		run  func(*testing.T, *peer)
	}{
		{"their client", theirClient},
		{"their client, exact", theirClientExact},
		{"their client forgets", theirClientForgets},
		{"their client, limits", theirClientLimits},
		{"their extensions", theirExtensions},
		{"our server forgets", ourServerForgets},
		{"their server", theirServer},
		{"their server, exact", theirServerExact},
		{"their server forgets", theirServerForgets},
		{"our client forgets", ourClientForgets},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, p) })
	}
}

// A peer is a process that runs testdata/peer.cjs.
type peer struct {
	in  io.Writer
	out *bufio.Reader
}

// newPeer starts the npm packages. Where they cannot be had the test is skipped.
func newPeer(t *testing.T) *peer {
	t.Helper()
	modules := npmtest.Install(t, os.DirFS(filepath.Join("testdata", "npm")))
	script, err := filepath.Abs(filepath.Join("testdata", "peer.cjs"))
	if err != nil {
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
	return &peer{in, bufio.NewReaderSize(out, 1<<20)}
}

// lines is what node complains about.
type lines struct{ t *testing.T }

func (l *lines) Write(b []byte) (int, error) {
	l.t.Logf("node: %s", b)
	return len(b), nil
}

// object is a JSON object.
type object map[string]any

// ask has the peer do something. An error is what the packages say.
func (p *peer) ask(t *testing.T, op string, args object, result any) error {
	t.Helper()
	request := object{"op": op}
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

// must is ask where nothing may go wrong.
func (p *peer) must(t *testing.T, op string, args object, result any) {
	t.Helper()
	if err := p.ask(t, op, args, result); err != nil {
		t.Fatalf("%s: %v", op, err)
	}
}
