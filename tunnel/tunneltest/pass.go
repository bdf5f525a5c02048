package tunneltest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/tunnel"
)

// A gatekeeper lets flows in by their credentials.
type gatekeeper struct {
	lanes tunnel.Lanes
	ctx   context.Context // of those who are inside

	mu     sync.Mutex
	inside int
}

func (g *gatekeeper) pass(_ context.Context, credentials []string) (tunnel.Pass, error) {
	switch {
	case len(credentials) == 1 && credentials[0] == "Basic good":
	case len(credentials) == 1 && credentials[0] == "Basic broken":
		return tunnel.Pass{}, errors.New("the gatekeeper's own fault")
	default:
		return tunnel.Pass{}, &tunnel.PassError{
			Status: http.StatusProxyAuthRequired, Fields: tunnel.Fields{"proxy-authenticate": {"Basic"}},
			Kind: "http_request_denied", Text: "no\n\"pass\"",
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside++
	return tunnel.Pass{Lanes: g.lanes, Context: g.ctx, Leave: g.leave}, nil
}

func (g *gatekeeper) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
}

// left checks, when nothing moves any more, that everyone has left.
func (g *gatekeeper) left(t *testing.T) {
	t.Helper()
	synctest.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside != 0 {
		t.Errorf("%d flows have not left", g.inside)
	}
}

// gated runs f with a client that opens no control stream, and the agent's
// gatekeeper.
func gated(t *testing.T, tr Transport, lanes tunnel.Lanes, f func(*testing.T, *gatekeeper, tunnel.ClientConn)) {
	synctest.Test(t, func(t *testing.T) {
		ends := tr.Simulated(t, Path{Delay: 5 * time.Millisecond})
		var targets Net
		targets.HandleTCP("echo.test:7", func(c *Conn) { io.Copy(c, c); c.CloseWrite() })
		ctx, cut := context.WithCancel(context.Background())
		defer cut()
		g := &gatekeeper{lanes: lanes, ctx: ctx}
		s := tunnel.NewSession(ends.Server, tunnel.Config{Dialer: &targets, Pass: g.pass, MaxFlows: 2})
		var wg sync.WaitGroup
		wg.Go(func() { _ = s.Run() })
		wg.Go(func() {
			if _, err := s.Control(context.Background()); !errors.Is(err, tunnel.ErrPassed) {
				t.Errorf("the control stream: %v", err)
			}
		})
		f(t, g, ends.Client)
		cut()
		g.left(t)
		ends.Client.Close(tunnel.ReasonDone, "")
		ends.Close()
		wg.Wait()
		targets.Wait()
	})
}

// knock opens a flow to echo.test with credentials, none if that is "".
func knock(t *testing.T, conn tunnel.ClientConn, credentials string) (req tunnel.Request, status int, fields tunnel.Fields) {
	t.Helper()
	h := tunnel.Header{Method: http.MethodConnect, Authority: "echo.test:7", Fields: tunnel.Fields{}}
	if credentials != "" {
		h.Fields.Add("proxy-authorization", credentials)
	}
	req, err := conn.Open(t.Context(), h)
	if err == nil {
		status, fields, err = req.Answer()
	}
	if err != nil {
		t.Fatal(err)
	}
	return req, status, fields
}

// testPass has flows that no session pays for.
func testPass(t *testing.T, tr Transport) {
	counter := NewCounter(Plenty)
	gated(t, tr, counter.Lanes(), func(t *testing.T, g *gatekeeper, conn tunnel.ClientConn) {
		began := time.Now()
		if _, status, _ := knock(t, conn, ""); status != http.StatusPaymentRequired || time.Since(began) < 10*time.Second {
			t.Errorf("without credentials: %d after %v", status, time.Since(began))
		}
		want := `x402-agent; error=http_request_denied; details="no  pass"`
		if _, status, fields := knock(t, conn, "Basic bad"); status != http.StatusProxyAuthRequired || fields.Get("proxy-authenticate") != "Basic" || fields.Get("proxy-status") != want {
			t.Errorf("with bad credentials: %d %v", status, fields)
		}
		if _, status, _ := knock(t, conn, "Basic broken"); status != http.StatusServiceUnavailable {
			t.Errorf("with a broken gatekeeper: %d", status)
		}
		g.left(t)
		req, status, _ := knock(t, conn, "Basic good")
		if _, err := req.Write([]byte("hello")); status != http.StatusOK || err != nil {
			t.Fatal(status, err)
		}
		req.Close()
		if b, err := io.ReadAll(req); string(b) != "hello" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		if got := counter.Totals(); got != (Totals{UpTCP: 5, DownTCP: 5}) {
			t.Errorf("counted %+v", got)
		}
		g.left(t)
		ctl, err := tunnel.OpenControl(t.Context(), conn, "x402.invalid", func(uint64) bool { return true })
		if err == nil {
			_, err = ctl.Receive()
		}
		if refused, ok := errors.AsType[*tunnel.RefusedError](err); !ok || refused.Status != http.StatusConflict {
			t.Errorf("a control stream beside passes: %v", err)
		}
		began = time.Now()
		if _, status, _ := knock(t, conn, ""); status != http.StatusProxyAuthRequired || time.Since(began) > time.Second {
			t.Errorf("without credentials, behind one with: %d after %v", status, time.Since(began))
		}
		var last tunnel.Request
		for range 2 { // which stay until their context ends
			if last, status, _ = knock(t, conn, "Basic good"); status != http.StatusOK {
				t.Fatal(status)
			}
		}
		if _, status, _ := knock(t, conn, "Basic good"); status != http.StatusTooManyRequests {
			t.Errorf("one flow too many: %d", status)
		}
		if _, err := last.Write([]byte("x")); err != nil {
			t.Error(err)
		}
	})
}

// A ration is a lane with an end.
type ration struct {
	*Lane
	left *int
	mu   *sync.Mutex
}

var errEaten = errors.New("the ration is eaten up")

// ReserveSome gives half of what is asked for, as long as there is something.
func (r ration) ReserveSome(ctx context.Context, n int) (int, error) {
	r.mu.Lock()
	some := min((n+1)/2, *r.left)
	*r.left -= some
	r.mu.Unlock()
	if some == 0 {
		return 0, errEaten
	}
	return some, r.Lane.Reserve(ctx, some)
}

// testRation has a lane that pieces do not fit: all of it is used, in pieces that
// do, and in the right order.
func testRation(t *testing.T, tr Transport) {
	const size = 150_001
	counter := NewCounter(Plenty)
	left, mu := 2*size, new(sync.Mutex)
	lanes := counter.Lanes()
	lanes.UpTCP, lanes.DownTCP = ration{counter.UpTCP, &left, mu}, ration{counter.DownTCP, &left, mu}
	gated(t, tr, lanes, func(t *testing.T, g *gatekeeper, conn tunnel.ClientConn) {
		req, status, _ := knock(t, conn, "Basic good")
		if status != http.StatusOK {
			t.Fatal(status)
		}
		sent := pattern(size)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := req.Write(sent); err != nil {
				t.Error(err)
			}
		})
		got := make([]byte, size)
		if _, err := io.ReadFull(req, got); err != nil || string(got) != string(sent) {
			t.Errorf("what came back is not what was sent: %v", err)
		}
		wg.Wait()
		if got := counter.Totals(); got != (Totals{UpTCP: size, DownTCP: size}) {
			t.Errorf("counted %+v", got)
		}
		if _, err := req.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		if n, err := io.ReadFull(req, got[:1]); n > 0 || err == nil || err == io.EOF {
			t.Errorf("behind the end: %d bytes, %v", n, err)
		}
		g.left(t)
	})
}

// pattern is n bytes of which no two pieces are alike.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return b
}
