package seller

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/depinsim/x402/channel"
)

// ErrNotRunning is returned when no agent answers on a control socket.
var ErrNotRunning = errors.New("no agent answers")

// OfferPath returns the path of the file that holds the agent's signed offer.
func (c Config) OfferPath() string { return filepath.Join(c.StateDir, offerFile) }

// ControlPath returns the path of the agent's control socket.
func (c Config) ControlPath() string {
	if c.Control != "" {
		return c.Control
	}
	return filepath.Join(c.StateDir, "control.sock")
}

// serveControl answers the owner's commands until ctx ends. The socket's mode
// is 0600: who may open it may do everything.
func (s *Seller) serveControl(ctx context.Context) error {
	path := s.cfg.ControlPath()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("control socket: %w", err)
	}
	ln, err := listenPrivate(path)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { s.answer(w, s.status()) })
	mux.HandleFunc("GET /sessions", func(w http.ResponseWriter, _ *http.Request) { s.answer(w, s.sessionViews()) })
	mux.HandleFunc("GET /earnings", func(w http.ResponseWriter, _ *http.Request) { s.answer(w, s.earnings()) })
	mux.HandleFunc("POST /settle", s.handleSettle)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10}
	var wg sync.WaitGroup
	wg.Go(func() {
		<-ctx.Done()
		_ = srv.Close() // ends Serve below
	})
	err = srv.Serve(ln)
	wg.Wait()
	// The journal's lock is still held: no other agent has the path.
	if rerr := os.Remove(path); rerr != nil {
		s.log.Debug("control socket", "err", rerr)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("control socket: %w", err)
}

// listenPrivate makes a unix socket that is never open to others, not even
// before its mode is set: it is made under another name first.
func listenPrivate(path string) (net.Listener, error) {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, err
	}
	ln.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(tmp, 0o600), os.Rename(tmp, path)); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

func (s *Seller) answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		s.log.Debug("control socket", "err", err)
	}
}

func (s *Seller) handleSettle(w http.ResponseWriter, r *http.Request) {
	done := make(chan settleResult, 1)
	select {
	case s.settle <- settleRequest{done}:
	case <-r.Context().Done():
		return
	}
	res := <-done
	if res.err != nil {
		http.Error(w, res.err.Error(), http.StatusBadGateway)
		return
	}
	s.answer(w, res)
}

// A Settlement is what settling on request came to.
type Settlement struct {
	Claimed  channel.Amount `json:"claimed"`  // over all channels
	Channels int            `json:"channels"` // with something to claim
}

// A Control talks to a running agent over its control socket.
type Control struct {
	path   string
	client http.Client
}

// DialControl returns the control of the agent with socket path. It connects
// with the first call.
func DialControl(path string) *Control {
	return &Control{path, http.Client{
		Timeout: 2 * settleTimeout,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}},
	}}
}

// Get asks for status, sessions or earnings and decodes the answer into v, a
// *Status, *[]SessionStatus or *Earnings. It is ErrNotRunning when there is
// nobody to ask.
func (c *Control) Get(ctx context.Context, name string, v any) error {
	return c.call(ctx, http.MethodGet, name, v)
}

// Settle claims and settles now.
func (c *Control) Settle(ctx context.Context) (s Settlement, err error) {
	err = c.call(ctx, http.MethodPost, "settle", &s)
	return s, err
}

// maxAnswer bounds an answer: a thousand channels' numbers fit.
const maxAnswer = 4 << 20

func (c *Control) call(ctx context.Context, method, name string, v any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://agent/"+name, nil)
	if err != nil {
		return err
	}
	res, err := c.client.Do(req)
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // the URL is made up
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s: %w", c.path, ErrNotRunning)
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return errors.New(string(bytes.TrimSpace(b))) // says itself what failed
	}
	return json.Unmarshal(b, v)
}
