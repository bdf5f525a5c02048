package evmtest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/rpc"
)

// Anvil starts an Anvil node, which npm installs into the user's cache. Without
// npm the test is skipped, except where everything must run.
func Anvil(t testing.TB, c Config) *Chain {
	t.Helper()
	c = c.fill()
	url := startAnvil(t, c.ID)
	client, err := rpc.DialContext(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	call := func(method string, args ...any) {
		t.Helper()
		if err := client.CallContext(t.Context(), nil, method, args...); err != nil {
			t.Fatalf("anvil: %s: %v", method, err)
		}
	}
	call("anvil_setBalance", common.Address(faucet(t).Address()), (*hexutil.Big)(ether(faucetEther)))
	for _, p := range c.Place {
		call("anvil_setCode", common.Address(p.Address), hexutil.Bytes(p.runtime(t)))
		for k, v := range p.Storage {
			call("anvil_setStorageAt", common.Address(p.Address), common.Hash(k), common.Hash(v))
		}
	}
	return newChain(t, c.ID, url, anvil{client})
}

// startAnvil returns the URL of an Anvil that ends with the test.
func startAnvil(t testing.TB, id uint64) string {
	t.Helper()
	// npm installs the package of this system and processor alone.
	found, err := filepath.Glob(filepath.Join(npm(t), "@foundry-rs", "anvil-*", "bin", "anvil"))
	if err != nil || len(found) != 1 {
		t.Fatalf("anvil: npm installed %d programs (%v)", len(found), err)
	}
	cmd := exec.CommandContext(t.Context(), found[0], "--host", "127.0.0.1", "--port", "0", "--chain-id", fmt.Sprint(id))
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")} // no configuration and no proxy of the user's
	said := &listening{at: make(chan string, 1)}
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Wait() }) // the test's context has killed it
	select {
	case at := <-said.at:
		return "http://" + at
	case <-time.After(20 * time.Second):
		t.Fatalf("anvil does not listen:\n%s", said)
		return ""
	}
}

// listening looks through what a program prints for where it listens.
type listening struct {
	at chan string // takes one address

	mu   sync.Mutex
	text bytes.Buffer
	done bool
}

var listeningOn = regexp.MustCompile(`Listening on (127\.0\.0\.1:[0-9]+)\n`)

func (l *listening) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done {
		return len(b), nil
	}
	l.text.Write(b)
	if m := listeningOn.FindSubmatch(l.text.Bytes()); m != nil {
		l.done = true
		l.at <- string(m[1])
	}
	return len(b), nil
}

func (l *listening) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// anvil makes the blocks of an Anvil node.
type anvil struct{ *rpc.Client }

func (a anvil) automine(ctx context.Context, on bool) error {
	return a.CallContext(ctx, nil, "evm_setAutomine", on)
}

func (a anvil) mine(ctx context.Context) error { return a.CallContext(ctx, nil, "evm_mine") }

func (a anvil) advance(ctx context.Context, d time.Duration) error {
	var head struct {
		Time hexutil.Uint64 `json:"timestamp"`
	}
	if err := a.CallContext(ctx, &head, "eth_getBlockByNumber", "latest", false); err != nil {
		return err
	}
	if err := a.CallContext(ctx, nil, "evm_setNextBlockTimestamp", uint64(head.Time)+uint64(d/time.Second)); err != nil {
		return err
	}
	return a.mine(ctx)
}

func (a anvil) reorg(ctx context.Context, depth int) error {
	return a.CallContext(ctx, nil, "anvil_reorg", depth, []any{})
}
