package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

const root = "../.."

// TestMain gives the tests one folder of commands, which the first that needs
// it fills.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "x402-demo-test-")
	if err != nil {
		panic(err)
	}
	os.Setenv(binVariable, dir)
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

const binVariable = "X402_DEMO_TEST_BIN"

// commands builds this machine's commands, once, and returns their folder.
var commands = sync.OnceValues(func() (string, error) {
	dir := os.Getenv(binVariable)
	// The go command does not see what a test builds: it reads all folders
	// here, so that a result in the test cache depends on them.
	err := fs.WalkDir(os.DirFS(root), ".", func(name string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && (name == "bin" || name == "dist" || name == ".git") {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		return "", err
	}
	return dir, goBuild(nil, "-o", dir+"/", "./cmd/...")
})

// goBuild runs the go command at the top of the module.
func goBuild(env []string, args ...string) error {
	cmd := exec.Command("go", append([]string{"build", "-buildvcs=false"}, args...)...)
	cmd.Dir, cmd.Env = root, append(append(os.Environ(), "CGO_ENABLED=0"), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.New(string(out))
	}
	return nil
}

// run runs the demo with JSON and returns its report.
func run(t *testing.T, c Config) Report {
	t.Helper()
	var err error
	if c.Bin, err = commands(); err != nil {
		t.Fatal(err)
	}
	var out, log bytes.Buffer
	if c.Keep == "" {
		c.Keep = shortDir(t)
	}
	c.JSON, c.Out, c.Log = true, &out, &log
	if err := Run(t.Context(), c); err != nil {
		t.Fatalf("%v\n%s%s", err, log.String(), out.String())
	}
	checkSecret(t, c.Keep)
	var r Report
	d := json.NewDecoder(&out)
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		t.Fatal(err)
	}
	if err := d.Decode(&struct{}{}); !errors.Is(err, io.EOF) {
		t.Errorf("more than one object is printed: %v", err)
	}
	return r
}

// shortDir is like t.TempDir, whose names are too long for the agent's socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "x402-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// checkSecret looks for the IMSI in all files that the run left.
func checkSecret(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte(imsi)) {
			t.Errorf("the IMSI is in %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestDemo runs the demo with files that are too small to be interrupted, and
// with one that is just large enough.
func TestDemo(t *testing.T) {
	for _, size := range []int64{0, 1, gateFrom, 3_000_000} {
		t.Run(sizeName(size), func(t *testing.T) {
			r := run(t, Config{Bytes: size})
			checkReport(t, r, size)
			if broke := r.Transfer.Resumed; (broke > 0) != (size >= gateFrom) {
				t.Errorf("the file came with %d breaks", broke)
			}
		})
	}
}

func sizeName(n int64) string { return strings.ReplaceAll(size(n), " ", "") }

// checkReport checks what must be so whatever the numbers are. That they add
// up is the demo's own business.
func checkReport(t *testing.T, r Report, bytes int64) {
	t.Helper()
	if r.SIM.MCC != "001" || r.SIM.MNC != "01" || r.SIM.Operator != carrier || !strings.Contains(r.SIM.IMSI, "redacted") {
		t.Errorf("SIM %+v", r.SIM)
	}
	if r.Transfer.Bytes != bytes || r.UDP.Echoed != 2*len(packetSizes()) || !r.Crash.Injected || r.Agent.Sessions < 2 || len(r.Faults) > 0 {
		t.Errorf("report %+v", r)
	}
}

// TestDemoForeign runs the demo with agents that are built for routers. With
// big-endian MIPS the emulator misreads the control message of UDP segmentation
// offload, so that is off.
func TestDemoForeign(t *testing.T) {
	tags := crossTags(t)
	for _, test := range []struct{ name, env, runner string }{
		{"mipsle", "GOARCH=mipsle GOMIPS=softfloat", "qemu-mipsel-static"},
		{"mips", "GOARCH=mips GOMIPS=softfloat", "qemu-mips-static -E QUIC_GO_DISABLE_GSO=true"},
		{"armv7", "GOARCH=arm GOARM=7", "qemu-arm-static"},
		{"arm64", "GOARCH=arm64", "qemu-aarch64-static"},
	} {
		t.Run(test.name, func(t *testing.T) {
			runner := strings.Fields(test.runner)
			if _, err := exec.LookPath(runner[0]); err != nil {
				if os.Getenv("CI") == "true" {
					t.Fatal(err)
				}
				t.Skipf("%v: apt-get install qemu-user-static", err)
			}
			binary := filepath.Join(t.TempDir(), "x402-agent")
			env := append(strings.Fields(test.env), "GOOS=linux")
			if err := goBuild(env, "-tags", tags, "-trimpath", "-ldflags", "-s -w", "-o", binary, "./cmd/x402-agent"); err != nil {
				t.Fatal(err)
			}
			const size = 2_000_000
			dir := shortDir(t)
			r := run(t, Config{Bytes: size, Agent: binary, Runner: runner, Keep: dir})
			checkReport(t, r, size)
			if r.Transfer.Resumed == 0 {
				t.Error("the kill interrupted nothing")
			}
			// The emulated ARMv8 has AES instructions, the others have none.
			if test.name != "arm64" {
				checkCipher(t, dir, "TLS_CHACHA20_POLY1305_SHA256")
			}
		})
	}
}

// checkCipher looks for the cipher of each session in the agent's logs.
func checkCipher(t *testing.T, dir, want string) {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	opened, said := 0, regexp.MustCompile(`msg="session opened".* cipher=(\S*)`)
	for _, name := range logs {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range said.FindAllSubmatch(b, -1) {
			opened++
			if string(m[1]) != want {
				t.Errorf("%s: a session is encrypted by %s, want %s", name, m[1], want)
			}
		}
	}
	if opened < 2 {
		t.Errorf("%d sessions name their cipher in %q", opened, logs)
	}
}

// crossTags are the build tags of router binaries.
func crossTags(t *testing.T) string {
	t.Helper()
	script, err := os.ReadFile(filepath.Join(root, "scripts", "cross.sh"))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`-tags (\S+)`).FindSubmatch(script)
	if found == nil {
		t.Fatal("scripts/cross.sh names no tags")
	}
	return string(found[1])
}

// A trigger is a log that cancels when a word comes by.
type trigger struct {
	word   string
	cancel context.CancelFunc
	bytes.Buffer
}

func (g *trigger) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte(g.word)) {
		g.cancel()
	}
	return g.Buffer.Write(b)
}

// TestDemoInterrupted stops the demo at several steps. It leaves no file and,
// since Run waits for all, no process.
func TestDemoInterrupted(t *testing.T) {
	bin, err := commands()
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"facilitator", "is connected", "was killed"} {
		t.Run(word, func(t *testing.T) {
			t.Setenv("TMPDIR", shortDir(t))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			log := &trigger{word: word, cancel: cancel}
			err := Run(ctx, Config{Bytes: 3_000_000, Bin: bin, Out: io.Discard, Log: log})
			if !errors.Is(err, ErrInterrupted) {
				t.Errorf("%v\n%s", err, log.String())
			}
			if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
				t.Errorf("left %v, %v", left, err)
			}
		})
	}
}

// TestDemoFails gives the demo an agent that does not work: it says so, with
// the agent's last words, and keeps the files.
func TestDemoFails(t *testing.T) {
	bin, err := commands()
	if err != nil {
		t.Fatal(err)
	}
	agent := filepath.Join(t.TempDir(), "agent")
	t.Setenv("TMPDIR", shortDir(t))
	if err := os.WriteFile(agent, []byte("#!/bin/sh\necho no such luck >&2\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	err = Run(t.Context(), Config{Bin: bin, Agent: agent, Out: io.Discard, Log: &log})
	if err == nil || !strings.Contains(err.Error(), "agent has ended") || !strings.Contains(err.Error(), "no such luck") {
		t.Errorf("%v", err)
	}
	left, err := os.ReadDir(os.TempDir())
	if err != nil || len(left) != 1 || !strings.Contains(log.String(), "all files are in "+filepath.Join(os.TempDir(), left[0].Name())) {
		t.Errorf("left %v, %v\n%s", left, err, log.String())
	}
}

// TestDemoRefuses checks what is wrong before anything is started.
func TestDemoRefuses(t *testing.T) {
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "x402"), nil, 0o700); err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]Config{
		"want 0 to":           {Bytes: -1},
		"`make build` builds": {Bin: full},
	} {
		if err := Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	bin, err := commands()
	if err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), Config{Bin: bin, Keep: full}); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("a full folder: %v", err)
	}
}
