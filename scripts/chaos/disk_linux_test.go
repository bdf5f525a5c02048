package chaos

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAgentDiskFull: the agent's journal runs out of room (a limit on the size
// of files) while it sells. Vouchers that cannot be stored are refused, both
// sides say so, nothing is carried beyond the credit, and with room again it
// goes on by itself.
func TestAgentDiskFull(t *testing.T) {
	s := seed(t)
	t.Logf("X402_SEED=%d", s)
	m := newMarket(t.Context(), t, rand.New(rand.NewPCG(s, 2)))
	m.open()
	defer m.end()
	m.moved(2 << 20)
	refused := m.hub.line(m.agent.name, "voucher refused")
	told := m.hub.line(m.buyer.name, syscall.EFBIG.Error())
	info, err := os.Stat(m.path("agent", "channels", "journal"))
	m.must(err)
	m.limitFiles(uint64(info.Size()) + 1_000)
	for _, seen := range []func(*hub) bool{refused, told} {
		if !m.hub.reach(m.ctx, 0, seen) {
			t.Fatalf("nobody speaks of a full disk\n%s", m.hub.tails())
		}
	}
	m.compare()
	m.limitFiles(unix.RLIM_INFINITY)
	m.moved(4 << 20)
	m.compare()
	m.close()
}

// limitFiles bounds the size of the running agent's files.
func (m *market) limitFiles(bytes uint64) {
	m.t.Helper()
	m.must(unix.Prlimit(m.agent.cmd.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: bytes, Max: unix.RLIM_INFINITY}, nil))
}

// TestReadOnlyState: an agent that cannot write its state directory says so and
// does not sell; with the directory as it should be it goes on with what is
// there. As root, who may write everywhere, the agent runs as somebody else.
func TestReadOnlyState(t *testing.T) {
	dir, err := os.MkdirTemp("", "x402-") // t.TempDir is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	state := filepath.Join(dir, "agent")
	b, err := os.ReadFile(filepath.Join(os.Getenv(binVar), "x402-agent"))
	exe, config := filepath.Join(dir, "x402-agent"), filepath.Join(dir, "agent.toml")
	err = errors.Join(err, os.Chmod(dir, 0o755), os.Mkdir(state, 0o700),
		os.WriteFile(exe, b, 0o755), os.WriteFile(config, []byte(plainConfig), 0o644))
	if os.Geteuid() == 0 {
		err = errors.Join(err, os.Chown(state, nobody, nobody))
	}
	if err != nil {
		t.Fatal(err)
	}
	h := newHub()
	p := &program{name: "agent", hub: h}
	start := func() {
		t.Helper()
		cmd := exec.Command(exe, "run", "--config", config)
		cmd.Dir = dir
		if os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		}
		p.start(t, cmd)
	}
	sells := func() {
		t.Helper()
		selling := h.line(p.name, "msg=selling")
		start()
		if !h.reach(t.Context(), 0, func(h *hub) bool { return selling(h) || h.gone(p) }) || h.gone(p) {
			t.Fatalf("it does not sell\n%s", h.tails())
		}
		p.kill()
	}
	refuses := func(mode os.FileMode, want string) {
		t.Helper()
		if err := errors.Join(os.Chmod(filepath.Join(state, "channels"), mode), os.Chmod(state, mode)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		start()
		if !h.reach(t.Context(), 0, func(h *hub) bool { return h.gone(p) }) {
			p.kill()
			t.Fatalf("it runs on\n%s", h.tails())
		}
		var exit *exec.ExitError
		if text := h.tails(); !errors.As(p.err, &exit) || exit.ExitCode() != 1 || !strings.Contains(text, want) || !strings.Contains(text, "permission denied") {
			t.Errorf("ended with %v\n%s", p.err, text)
		}
		if err := errors.Join(os.Chmod(state, 0o700), os.Chmod(filepath.Join(state, "channels"), 0o700)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	refuses(0o555, "device key: ")
	sells()
	refuses(0o555, "journal")
	sells()
}

const nobody = 65534

// plainConfig needs no facilitator to start with.
const plainConfig = `state_dir = "agent"
listen = "127.0.0.1:0"
[modem]
port = "none"
[price]
per_gb = "4.00"
[payment]
facilitator = "http://127.0.0.1:9"
network = "eip155:84532"
asset = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
asset_name = "USDC"
asset_version = "2"
pay_to = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
`
