// Package chaos kills the programs at random instants, with SIGKILL and as
// real processes, while traffic runs through them, and holds what they left on
// the disk and on the ledger against what was really carried:
//
//   - no voucher that was signed is forgotten by its payer, none that was
//     accepted by the agent;
//   - no durable total goes backwards;
//   - nothing is claimed twice, and the ledger's own audit passes;
//   - neither side loses more than the exposure;
//   - and it all goes on by itself, and ends with both sides in agreement.
//
// traffic_test.go is the internet and its users, programs_test.go the
// processes, buyer_test.go one of them, check_test.go the comparisons.
package chaos

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// bin is the folder of the built commands. TestMain sets it once.
const binVar = "X402_CHAOS_BIN"

// TestMain builds the commands, or is the buyer.
func TestMain(m *testing.M) {
	if os.Getenv(buyerVar) != "" {
		os.Exit(buyerMain())
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "x402-chaos-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	// The go command does not know that the test runs what it builds here:
	// reading the sources makes them part of what a cached result depends on.
	err = filepath.WalkDir("../..", func(path string, _ fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".go" && !strings.HasSuffix(path, "_test.go") {
			_, err = os.ReadFile(path)
		}
		return err
	})
	if err == nil {
		cmd := exec.Command("go", "build", "-o", dir+string(filepath.Separator), "./cmd/x402", "./cmd/x402-agent", "./cmd/x402-facilitator", "./cmd/x402-relay")
		cmd.Dir = "../.."
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		err = cmd.Run()
	}
	if err == nil {
		err = os.Setenv(binVar, dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "build the commands:", err)
		return 1
	}
	return m.Run()
}

// kills is how often something is killed: 10, or X402_KILLS.
func kills(t *testing.T) int {
	t.Helper()
	s := os.Getenv("X402_KILLS")
	if s == "" {
		return 10
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("X402_KILLS=%q: want a number", s)
	}
	return n
}

// seed is X402_SEED, or a new one.
func seed(t *testing.T) uint64 {
	t.Helper()
	s := os.Getenv("X402_SEED")
	if s == "" {
		return rand.Uint64() >> 32
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("X402_SEED=%q: want a number", s)
	}
	return n
}

// TestKill kills agent, buyer and facilitator in turn, and sometimes two of
// them, at instants drawn from the seed: so many bytes after the last recovery,
// at the agent's next claim or session, during a settlement that the owner
// asked for, or while the buyer closes its channel.
func TestKill(t *testing.T) {
	n, s := kills(t), seed(t)
	t.Logf("X402_SEED=%d X402_KILLS=%d", s, n)
	ctx := t.Context()
	if d, ok := t.Deadline(); ok { // time to end the processes
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, d.Add(-10*time.Second), fmt.Errorf("the test's time is up"))
		defer cancel()
	}
	m := newMarket(ctx, t, rand.New(rand.NewPCG(s, 0)))
	m.open()
	defer m.end()
	for i := range n {
		m.crash(i)
		if t.Failed() {
			return
		}
	}
	m.close()
}

// crash kills what is due in round i, looks at what is left, and starts it
// again.
func (m *market) crash(i int) {
	m.t.Helper()
	all := []*program{m.agent, m.buyer, m.bank}
	victims := []*program{all[i%3]}
	if m.rng.IntN(4) == 0 {
		victims = append(victims, all[(i+1+m.rng.IntN(2))%3])
	}
	when := m.instant(victims)
	names := make([]string, len(victims))
	for k, v := range victims {
		names[k] = v.name
		v.kill()
	}
	m.t.Logf("kill %d: %s, %s; %s", i+1, strings.Join(names, " and "), when, m.traffic)
	m.tally(victims)
	m.inspect(victims)
	m.recover(victims)
}

// instant waits for the moment of the next kill and describes it.
func (m *market) instant(victims []*program) string {
	m.t.Helper()
	bytes := uint64(1) << m.rng.IntN(24)
	bytes += m.rng.Uint64N(bytes)
	switch k := m.rng.IntN(8); {
	case k < 4:
	case k < 6:
		word := []string{"msg=claimed", "msg=settled", "session opened"}[m.rng.IntN(3)]
		if word == "session opened" {
			m.buyer.kill() // it comes back, and opens one
			m.tally([]*program{m.buyer})
			m.startBuyer()
		}
		if m.hub.reach(m.ctx, 64<<20, m.hub.line(m.agent.name, word)) {
			return fmt.Sprintf("at the agent's %q", word)
		}
	case k == 6:
		m.settling.Go(m.settle)
		bytes = min(bytes, 1<<17)
		m.moved(bytes)
		return fmt.Sprintf("%d bytes into a settlement", bytes)
	default:
		return m.whileClosing()
	}
	m.moved(bytes)
	return fmt.Sprintf("%d bytes after the last", bytes)
}

// whileClosing asks the buyer to end and returns at a point of its way out.
func (m *market) whileClosing() string {
	m.t.Helper()
	word := []string{`"state":"finishing"`, "msg=claimed", "msg=refunded"}[m.rng.IntN(3)]
	who := m.agent.name
	if strings.HasPrefix(word, `"`) {
		who = m.buyer.name
	}
	seen := m.hub.line(who, word)
	m.buyer.interrupt()
	m.closing = true
	if !m.hub.reach(m.ctx, 0, func(h *hub) bool { return seen(h) || h.gone(m.buyer) }) {
		m.t.Fatalf("the buyer does not end: %v", context.Cause(m.ctx))
	}
	return fmt.Sprintf("at %s while the buyer closed", word)
}

// moved waits until so many more bytes were carried.
func (m *market) moved(bytes uint64) {
	m.t.Helper()
	if !m.hub.reach(m.ctx, bytes, nil) {
		m.t.Fatalf("no progress: %s\n%s", m.traffic, m.hub.tails())
	}
}
