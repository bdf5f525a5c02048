package buyer

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/depinsim/x402/channel"
)

// A rack is a store with something in it, or broken.
type rack struct {
	states []channel.State
	err    error
}

func (s rack) Load() ([]channel.State, error) { return s.states, s.err }
func (rack) Save(channel.State) error         { return nil }
func (rack) Close() error                     { return nil }

// listen serves a control socket until the test ends.
func listen(t *testing.T, serve func(context.Context, net.Listener) error) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error { return serve(ctx, ln) })
	t.Cleanup(func() {
		cancel()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	})
	return path
}

// TestRunningChannels: a buyer that runs shows all channels of its store, those of
// payments by HTTP too, as they are.
func TestRunningChannels(t *testing.T) {
	var states []channel.State
	for i := range 300 {
		s, err := channel.NewState(channel.Domain{ChainID: 1 << 41, Contract: channel.SettlementContract()},
			channel.Config{Payer: channel.Address{1}, PayerAuthorizer: channel.Address{1}, Receiver: channel.Address{2}, ReceiverAuthorizer: channel.Address{3},
				Token: channel.Address{4}, WithdrawDelay: 86_400, Salt: channel.Hash{byte(i), byte(i >> 8)}})
		if err != nil {
			t.Fatal(err)
		}
		s.Balance = channel.Amount(1000 + i)
		states = append(states, s)
	}
	show := func(s channel.Store) string {
		return listen(t, func(ctx context.Context, ln net.Listener) error { return ServeControl(ctx, ln, nil, s) })
	}
	got, err := RunningChannels(t.Context(), show(rack{states: states}))
	if err != nil || len(got) != len(states) || got[299].ID != states[299].ID || got[299].Balance != 1299 {
		t.Errorf("%d channels, %v", len(got), err)
	}
	if got, err := RunningChannels(t.Context(), show(rack{})); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := RunningChannels(t.Context(), show(rack{err: errors.New("no disk")})); err == nil || !strings.Contains(err.Error(), "no disk") {
		t.Error(err)
	}
	if _, err := RunningChannels(t.Context(), filepath.Join(t.TempDir(), "none")); !errors.Is(err, ErrNotRunning) {
		t.Error(err)
	}
	for _, answer := range []string{"", "{", `{"channels":["AAAA"]}`, `{"channels":7}`, `{"failed":"no"}`} {
		path := listen(t, func(ctx context.Context, ln net.Listener) error {
			defer context.AfterFunc(ctx, func() { ln.Close() })()
			conn, err := ln.Accept()
			if err == nil {
				_, _ = conn.Read(make([]byte, 100))
				_, _ = conn.Write([]byte(answer))
				err = conn.Close()
			}
			return err
		})
		if got, err := RunningChannels(t.Context(), path); err == nil {
			t.Errorf("%q: %v", answer, got)
		}
	}
}
