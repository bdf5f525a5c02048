package buyer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
)

// A running buyer is asked for another address of its agent, or for its channels,
// over a unix socket: one JSON object there and one back, a connection each.

// ErrNotRunning is returned when no buyer answers on a control socket.
var ErrNotRunning = errors.New("no buyer answers")

// A RotationOrder asks a running Buyer for another address of its agent.
type RotationOrder struct {
	// Most is what it may cost. Nil asks what it costs.
	Most *channel.Amount
	// Done is told what came of it; it has room.
	Done chan<- RotationReport
}

// A RotationReport is what came of an order.
type RotationReport struct {
	agent.Rotated
	// Asks is what the agent asks for another address. Nil: it gives none.
	Asks *channel.Amount `json:"asks,omitempty"`
}

const (
	controlConns = 8
	controlTime  = 5 * time.Second  // for the request, and for its answer to be taken
	orderTime    = 10 * time.Second // for a session to take the order
	maxOrder     = 4 << 10
	maxChannels  = 64 << 20 // of an answer that has them
)

// An order is a request on the wire: for another address, or for the channels.
type order struct {
	Most     *channel.Amount `json:"most,omitempty"`
	Channels bool            `json:"channels,omitempty"`
}

// An orderAnswer is its answer.
type orderAnswer struct {
	RotationReport
	Failed   string   `json:"failed,omitempty"`   // why nobody was asked
	Channels [][]byte `json:"channels,omitempty"` // channel.State, encoded
}

// ServeControl passes on orders that come on ln, and shows what is in store, until
// ctx ends. It closes ln.
func ServeControl(ctx context.Context, ln net.Listener, orders chan<- RotationOrder, store channel.Store) error {
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })() // ends Accept
	var conns errgroup.Group
	conns.SetLimit(controlConns)
	var err error
	for err == nil {
		var conn net.Conn
		if conn, err = ln.Accept(); err == nil {
			conns.Go(func() error {
				serveOrder(ctx, conn, orders, store)
				return nil
			})
		}
	}
	_ = conns.Wait() // they return nil
	if ctx.Err() != nil {
		return nil
	}
	return errors.Join(fmt.Errorf("control socket: %w", err), ln.Close())
}

// serveOrder answers one request. It owns conn. Who has left is not told.
func serveOrder(ctx context.Context, conn net.Conn, orders chan<- RotationOrder, store channel.Store) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	_ = conn.SetDeadline(time.Now().Add(controlTime)) // of a closed one: the read fails
	var o order
	if json.NewDecoder(io.LimitReader(conn, maxOrder)).Decode(&o) != nil {
		return
	}
	var a orderAnswer
	if o.Channels {
		a.show(store)
		_ = json.NewEncoder(conn).Encode(a)
		return
	}
	done := make(chan RotationReport, 1)
	select {
	case orders <- RotationOrder{o.Most, done}:
		select {
		case a.RotationReport = <-done:
		case <-ctx.Done():
			return
		}
	case <-time.After(orderTime):
		a.Failed = "there is no session with the agent now: try again when x402 connect shows one"
	case <-ctx.Done():
		return
	}
	_ = conn.SetDeadline(time.Now().Add(controlTime))
	_ = json.NewEncoder(conn).Encode(a)
}

// show puts what is in store into the answer.
func (a *orderAnswer) show(store channel.Store) {
	states, err := store.Load()
	for _, s := range states {
		b, merr := s.MarshalBinary()
		err = errors.Join(err, merr)
		a.Channels = append(a.Channels, b)
	}
	if err != nil {
		a.Failed, a.Channels = err.Error(), nil
	}
}

// OrderRotation asks the buyer with a control socket for another address, for at
// most most, or what that costs if it is nil. It takes as long as that takes.
func OrderRotation(ctx context.Context, path string, most *channel.Amount) (RotationReport, error) {
	a, err := ask(ctx, path, order{Most: most}, maxOrder)
	return a.RotationReport, err
}

// RunningChannels asks the buyer with a control socket for the channels that it has
// the records of, as they are now.
func RunningChannels(ctx context.Context, path string) ([]channel.State, error) {
	ctx, cancel := context.WithTimeout(ctx, controlTime)
	defer cancel()
	a, err := ask(ctx, path, order{Channels: true}, maxChannels)
	if err != nil {
		return nil, err
	}
	states := make([]channel.State, len(a.Channels))
	for i, b := range a.Channels {
		if err := states[i].UnmarshalBinary(b); err != nil {
			return nil, fmt.Errorf("what the running buyer answers: %w", err)
		}
	}
	return states, nil
}

// ask sends an order and reads an answer of at most so many bytes.
func ask(ctx context.Context, path string, o order, most int64) (a orderAnswer, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return a, fmt.Errorf("%s: %w", path, ErrNotRunning)
	case err != nil:
		return a, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	err = json.NewEncoder(conn).Encode(o)
	if err == nil {
		err = json.NewDecoder(io.LimitReader(conn, most)).Decode(&a)
	}
	switch {
	case ctx.Err() != nil:
		return a, fmt.Errorf("given up: %w", context.Cause(ctx))
	case errors.Is(err, os.ErrPermission):
		return a, err
	case err != nil:
		return a, fmt.Errorf("the buyer ended before it answered: %w", io.ErrUnexpectedEOF)
	case a.Failed != "":
		return a, errors.New(a.Failed)
	}
	return a, nil
}
