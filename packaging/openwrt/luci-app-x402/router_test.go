package luci_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A router has what the pages talk to: the settings (UCI), an agent that runs
// while they say so, and the right to run some commands.
type router struct {
	bin, dir string
	rights   []string // command lines, as in the ACL

	mu        sync.Mutex
	staged    map[string]section
	committed map[string]section
	agent     *process
	impatient bool           // rotate is not waited for, as when it takes long
	running   sync.WaitGroup // what goes on behind an answer
}

// A section is one of UCI: its options, and .type and .name.
type section map[string]any

// A process is a program that runs.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended
}

// start runs a program with its output in a file. It is killed at the end of the
// test if it still runs.
func start(t testing.TB, log string, argv ...string) *process {
	t.Helper()
	p, err := launch(log, argv...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.stop(syscall.SIGKILL) })
	return p
}

func launch(log string, argv ...string) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(argv[0], argv[1:]...), log: log, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = f, f
	p.cmd.Dir = filepath.Dir(log)
	if err := errors.Join(p.cmd.Start(), f.Close()); err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = p.cmd.Wait() // what it wrote says how
		close(p.done)
	})
	return p, nil
}

// stop ends the process by a signal and waits for that.
func (p *process) stop(s os.Signal) {
	_ = p.cmd.Process.Signal(s) // it may have ended
	<-p.done
}

// file waits for a file with something in it, as long as the process runs.
func (p *process) file(t testing.TB, path string) string {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	end := time.After(patience)
	for {
		b, err := os.ReadFile(path)
		if text := strings.TrimSpace(string(b)); err == nil && text != "" {
			return text
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "" // no plain file, such as a terminal
		}
		select {
		case <-tick.C:
		case <-p.done:
			said, _ := os.ReadFile(p.log)
			t.Fatalf("%s has ended: %s", p.cmd.Args[0], said)
		case <-end:
			t.Fatalf("%s does not come", path)
		}
	}
}

// lists and numbers are the options that are not texts in agent.toml.
var (
	lists   = []string{"relays", "endpoints", "allow_networks", "deny_networks", "allow_tcp", "deny_tcp", "allow_udp", "deny_udp", "schedule", "price_steps"}
	numbers = []string{"mbits", "sessions", "reset_day", "tries"}
)

// toml is what the service makes of the settings.
func toml(settings map[string]section, stateDir string) string {
	top, tables := fmt.Sprintf("state_dir = %q\n", stateDir), ""
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		var text strings.Builder
		for _, key := range slices.Sorted(maps.Keys(settings[name])) {
			value := settings[name][key]
			if strings.HasPrefix(key, ".") || key == "enabled" || key == "consent" {
				continue
			}
			items, _ := value.([]any)
			switch s := fmt.Sprint(value); {
			case slices.Contains(lists, key):
				quoted := []string{}
				for _, item := range items {
					quoted = append(quoted, strconv.Quote(fmt.Sprint(item)))
				}
				text.WriteString(key + " = [" + strings.Join(quoted, ", ") + "]\n")
			case slices.Contains(numbers, key):
				text.WriteString(key + " = " + s + "\n")
			case key == "roaming":
				text.WriteString(key + " = " + map[string]string{"1": "true"}[s] + "\n")
			default:
				text.WriteString(key + " = " + strconv.Quote(s) + "\n")
			}
		}
		if name == "agent" {
			top += text.String()
		} else if text.String() != "" {
			tables += "[" + name + "]\n" + text.String()
		}
	}
	return top + tables
}

func (r *router) config() string { return filepath.Join(r.dir, "agent.toml") }

// reload starts, restarts or stops the agent as the settings say. The caller
// holds no lock.
func (r *router) reload(settings map[string]section) error {
	r.mu.Lock()
	old := r.agent
	r.mu.Unlock()
	if old != nil {
		old.stop(syscall.SIGTERM)
	}
	if err := os.WriteFile(r.config(), []byte(toml(settings, filepath.Join(r.dir, "state"))), 0o600); err != nil {
		return err
	}
	var agent *process
	if s := settings["agent"]; s["enabled"] == "1" && s["consent"] == "1" {
		var err error
		if agent, err = launch(filepath.Join(r.dir, "agent.log"), filepath.Join(r.bin, "x402-agent"), "run", "--config", r.config()); err != nil {
			return err
		}
	}
	r.mu.Lock()
	r.agent = agent
	r.mu.Unlock()
	return nil
}

// put changes a setting as somebody else would.
func (r *router) put(name, option, value string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.staged[name][option] = value
}

// hasty says whether rotate is waited for.
func (r *router) hasty(is bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.impatient = is
}

// settled waits until what is in force fulfils a condition.
func (r *router) settled(t *testing.T, ok func(map[string]section) bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(patience); ; {
		r.mu.Lock()
		done := ok(r.committed)
		r.mu.Unlock()
		if done {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("the settings are %v", r.committed)
		}
	}
}

// close ends the agent.
func (r *router) close() {
	r.running.Wait()
	if r.agent != nil {
		r.agent.stop(syscall.SIGKILL)
	}
}

// Codes of ubus.
const (
	ubusOK       = 0
	ubusNoMethod = 3
	ubusNotFound = 4
	ubusNoData   = 5
	ubusDenied   = 6
	ubusTimeout  = 7
)

// call is one of ubus.
func (r *router) call(object, method string, params map[string]any) (code int, result any) {
	switch object + "." + method {
	case "file.exec":
		return r.exec(params)
	case "session.access":
		return ubusOK, map[string]any{"access": true}
	case "luci.getFeatures":
		return ubusOK, map[string]any{}
	case "file.list":
		return ubusNotFound, nil
	}
	if object == "uci" {
		return r.uci(method, params)
	}
	return ubusNoMethod, nil
}

// exec runs a command that the ACL has.
func (r *router) exec(params map[string]any) (int, any) {
	argv := []string{fmt.Sprint(params["command"])}
	list, _ := params["params"].([]any)
	for _, a := range list {
		argv = append(argv, fmt.Sprint(a))
	}
	if line := strings.Join(argv, " "); !slices.ContainsFunc(r.rights, func(right string) bool { return fnmatch(right, line) }) {
		return ubusDenied, nil
	}
	r.mu.Lock()
	impatient := r.impatient && argv[1] == "rotate"
	r.mu.Unlock()
	argv = r.argv(argv)
	if impatient {
		r.running.Go(func() { run(argv) }) // the page looks what came of it
		return ubusTimeout, nil
	}
	return run(argv)
}

// argv is a command of the router's as it is here.
func (r *router) argv(argv []string) []string {
	switch argv[0] {
	case "/usr/bin/x402-agent":
		argv[0] = filepath.Join(r.bin, "x402-agent")
		if argv[1] != "modems" {
			flags := slices.IndexFunc(argv, func(s string) bool { return strings.HasPrefix(s, "-") })
			argv = slices.Insert(argv, flags, "--config", r.config())
		}
	case "/usr/libexec/x402-lookup":
		argv = slices.Insert(argv, 0, "sh")
		argv[1] = filepath.Join(r.dir, "x402-lookup")
	case "/sbin/logread":
		argv = []string{"sed", "s/^/Sat Nov 28 23:17:03 2026 daemon.err x402-agent[1]: /", filepath.Join(r.dir, "agent.log")}
	}
	return argv
}

// run runs a command and says what rpcd would.
func run(argv []string) (int, any) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		return ubusNotFound, err.Error()
	}
	return ubusOK, map[string]any{"code": cmd.ProcessState.ExitCode(), "stdout": out.String(), "stderr": errs.String()}
}

// fnmatch is rpcd's: a star stands for anything, blanks and slashes included.
func fnmatch(pattern, s string) bool {
	// path.Match's star stops at slashes, so there are none.
	flat := func(s string) string { return strings.ReplaceAll(s, "/", "\x01") }
	ok, err := filepath.Match(strings.ReplaceAll(flat(pattern), "[0-9A-Za-z[]", "[0-9A-Za-z\\[]"), flat(s))
	return err == nil && ok
}

func (r *router) uci(method string, params map[string]any) (int, any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name, _ := params["section"].(string)
	if method == "add" {
		name, _ = params["name"].(string)
	}
	values, _ := params["values"].(map[string]any)
	switch method {
	case "get":
		return ubusOK, map[string]any{"values": r.staged}
	case "add":
		r.staged[name] = section{".type": params["type"], ".name": name, ".anonymous": false}
		maps.Copy(r.staged[name], values)
		return ubusOK, map[string]any{"section": name}
	case "set":
		maps.Copy(r.staged[name], values)
	case "delete":
		options, _ := params["options"].([]any)
		for _, o := range options {
			delete(r.staged[name], fmt.Sprint(o))
		}
	case "changes":
		return ubusOK, map[string]any{"changes": map[string]any{}}
	case "apply":
		before, _ := json.Marshal(r.committed) // of texts and lists
		after, _ := json.Marshal(r.staged)
		if bytes.Equal(before, after) {
			return ubusNoData, nil
		}
		var now map[string]section
		if json.Unmarshal(after, &now) != nil || json.Unmarshal(after, &r.committed) != nil {
			return ubusNotFound, nil
		}
		r.running.Go(func() { _ = r.reload(now) }) // the page sees what came of it
	case "confirm", "order":
	default:
		return ubusNoMethod, nil
	}
	return ubusOK, nil
}
