package server

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
)

// pipes is a listener of connections in memory. conns is closed by nobody: a
// dial and Accept meet, or one of them gives up when done is closed.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	select {
	case <-p.done:
	default:
		close(p.done)
	}
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-p.done:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// slow is a ledger whose disk takes two seconds.
type slow struct{ *ledger.Memory }

func (s slow) Submit(ctx context.Context, tx ledger.Tx) (ledger.Receipt, error) {
	<-time.After(2 * time.Second)
	return s.Memory.Submit(ctx, tx)
}

// TestRun serves over connections in simulated time, and ends while a request
// is in work: that one is answered, the next finds nobody.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Config{Ledger: slow{ledger.NewMemory(testParams())}, Dev: true})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		public, admin := newPipes(), newPipes()
		var runErr error
		var ended sync.WaitGroup
		ended.Go(func() { runErr = s.Run(ctx, public, admin) })

		httpClient := &http.Client{Transport: &http.Transport{DialContext: public.dial, DisableKeepAlives: true}}
		c, err := nethttp.New(nethttp.Config{URL: "http://f.test", HTTP: httpClient})
		if err != nil {
			t.Fatal(err)
		}
		p := ledgertest.NewParty(t, s.params, 1)
		time.AfterFunc(time.Second, cancel)
		_, err = c.Settle(t.Context(), payment(p, payloadExact(p)).Payload, payment(p, payloadExact(p)).Requirements)
		if _, ok := errors.AsType[*facilitator.RefusedError](err); !ok {
			t.Errorf("a request in work got %v, want its answer", err)
		}
		if ended.Wait(); runErr != nil {
			t.Errorf("Run: %v", runErr)
		}
		if _, err := c.Supported(t.Context()); !errors.Is(err, facilitator.ErrUnavailable) {
			t.Errorf("after the end: %v", err)
		}
	})
}

// TestSlowClient: who sends nothing is not waited for.
func TestSlowClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Config{Ledger: ledger.NewMemory(testParams())})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		public := newPipes()
		var runErr error
		var ended sync.WaitGroup
		ended.Go(func() { runErr = s.Run(ctx, public, nil) })
		conn, err := public.dial(ctx, "", "")
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if n, err := conn.Read(make([]byte, 1)); err == nil || n > 0 {
			t.Errorf("read %d bytes, %v", n, err)
		}
		if waited := time.Since(start); waited > 10*time.Second {
			t.Errorf("hung up after %s", waited)
		}
		cancel()
		if ended.Wait(); runErr != nil {
			t.Errorf("Run: %v", runErr)
		}
	})
}

// TestOperator issues, redeems and audits over the socket.
func TestOperator(t *testing.T) {
	dir, err := os.MkdirTemp("", "x402-*") // short: a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	op := NewOperator(dir)
	if _, err := op.Audit(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("got %v, want ErrNotRunning", err)
	}
	if err := os.WriteFile(filepath.Join(dir, adminSocket), nil, 0o600); err != nil { // a dead one's
		t.Fatal(err)
	}
	admin, err := ListenAdmin(dir)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, adminSocket))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
	public, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Ledger: ledger.NewMemory(testParams())})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var runErr error
	var ended sync.WaitGroup
	ended.Go(func() { runErr = s.Run(ctx, public, admin) })

	order := Order{Ref: channel.Hash{1}, Address: channel.Address{1}, Amount: 1000, Memo: "m"}
	first, err := op.Issue(t.Context(), order)
	if err != nil || first.Balance != 1000 || first.Height != 1 {
		t.Errorf("%+v, %v", first, err)
	}
	if again, err := op.Issue(t.Context(), order); err != nil || again != first {
		t.Errorf("again: %+v, %v, want %+v", again, err, first)
	}
	order.Ref = channel.Hash{2}
	order.Amount = 400
	if r, err := op.Redeem(t.Context(), order); err != nil || r.Balance != 600 {
		t.Errorf("%+v, %v", r, err)
	}
	order.Ref = channel.Hash{3}
	order.Amount = 601
	if _, err := op.Redeem(t.Context(), order); err == nil {
		t.Error("redeemed more than there is")
	}
	if r, err := op.Audit(t.Context()); err != nil || r.Totals.Issued != 1000 || r.Totals.Redeemed != 400 || r.Accounts != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	// The operator's calls are not on the public address.
	resp, err := http.Post("http://"+public.Addr().String()+"/issue", "application/json", http.NoBody)
	if err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("%v, %v", resp, err)
	}
	cancel()
	if ended.Wait(); runErr != nil {
		t.Error(runErr)
	}
	if _, err := os.Stat(filepath.Join(dir, adminSocket)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket stayed: %v", err)
	}
}
