package chaos

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// behind is what the agent's clock is behind, in 2026: a router without a
// battery starts in 1970 (Unix time 0, or some weeks after it).
const behind = "56 * 365.25 * 24 * 60 * 60"

// TestClockAt1970 runs an agent whose clock says 1970, beside a buyer and a
// facilitator whose clocks are right. It is killed once, and in the end all is
// as it always is: nothing about money depends on the agent's clock.
func TestClockAt1970(t *testing.T) {
	s := seed(t)
	t.Logf("X402_SEED=%d", s)
	m := newMarket(t.Context(), t, rand.New(rand.NewPCG(s, 1)))
	m.agentBin = buildWithClock(t)
	m.open()
	defer m.end()
	m.moved(4 << 20)
	m.agent.kill()
	m.tally([]*program{m.agent})
	m.inspect([]*program{m.agent})
	m.recover([]*program{m.agent})
	m.moved(4 << 20)
	m.close()
	if log := m.hub.all(); !strings.Contains(log, "time=1970-") && !strings.Contains(log, "time=1971-") {
		t.Error("the agent's clock was right")
	}
}

// buildWithClock builds x402-agent with a standard library whose wall clock is
// behind. The monotonic clock is not touched.
func buildWithClock(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	original := filepath.Join(strings.TrimSpace(string(out)), "src", "time", "time.go")
	source, err := os.ReadFile(original)
	if err != nil {
		t.Fatal(err)
	}
	const now = "sec, nsec, mono := runtimeNow()\n"
	if strings.Count(string(source), now) != 1 {
		t.Fatalf("%s reads the clock in another way than this test knows", original)
	}
	dir := t.TempDir()
	changed, overlay := filepath.Join(dir, "time.go"), filepath.Join(dir, "overlay.json")
	text := strings.Replace(string(source), now, now+"\tsec -= "+behind+"\n", 1)
	b, err := json.Marshal(map[string]map[string]string{"Replace": {original: changed}})
	if err == nil {
		err = os.WriteFile(overlay, b, 0o600)
	}
	if err == nil {
		err = os.WriteFile(changed, []byte(text), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "x402-agent")
	cmd := exec.Command("go", "build", "-overlay", overlay, "-o", path, "./cmd/x402-agent")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	return path
}
