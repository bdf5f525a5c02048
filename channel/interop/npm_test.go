package interop

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
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
	modules, err := npmModules()
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
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

// npmModules returns the folder of the packages that testdata/npm locks. They are
// installed once, into the user's cache, in a folder that is named by the lock:
// a run that comes in between installs for itself, and the first to finish wins.
func npmModules() (string, error) {
	for _, name := range []string{"node", "npm"} {
		if _, err := exec.LookPath(name); err != nil {
			return "", fmt.Errorf("%s is not installed: on Debian, apt-get install nodejs npm", name)
		}
	}
	files := map[string][]byte{}
	sum := sha256.New()
	for _, name := range []string{"package.json", "package-lock.json"} {
		b, err := os.ReadFile(filepath.Join("testdata", "npm", name))
		if err != nil {
			return "", err
		}
		files[name] = b
		sum.Write(b)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	root := filepath.Join(cache, "x402-interop")
	dir := filepath.Join(root, hex.EncodeToString(sum.Sum(nil))[:16])
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", err
	}
	temp, err := os.MkdirTemp(root, "new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp) // nothing, if it was given its name
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(temp, name), b, 0o644); err != nil {
			return "", err
		}
	}
	cmd := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = temp
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci: %w: %s", err, strings.TrimSpace(string(out)))
	}
	if err := os.Rename(temp, dir); err != nil {
		if _, serr := os.Stat(dir); serr == nil {
			return dir, nil
		}
		return "", err
	}
	return dir, nil
}
