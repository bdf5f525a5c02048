package buyer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/quic"
)

// fetchRetry is how long FetchOffer waits between two attempts.
const fetchRetry = 300 * time.Millisecond

// FetchOffer asks the agent at endpoint, a host:port, for its offer. The offer
// is accepted only if it names the key that the agent proved to hold; whether
// that agent is the right one is for the caller to know, by Offer.Agent.
func FetchOffer(ctx context.Context, endpoint string) (agent.Offer, error) {
	addr, err := resolve(ctx, []string{endpoint})
	if err != nil {
		return agent.Offer{}, err
	}
	socket, err := net.ListenPacket("udp", ":0")
	if err != nil {
		return agent.Offer{}, err
	}
	defer socket.Close()
	d := quic.NewDialer(socket)
	defer d.Close()
	for {
		o, err := fetchOffer(ctx, d, addr)
		if err == nil {
			return o, nil
		}
		err = unanswered(err, addr)
		select {
		case <-ctx.Done():
			return agent.Offer{}, fmt.Errorf("offer of %s: %w", endpoint, err)
		case <-time.After(fetchRetry):
		}
	}
}

// unanswered says who did not answer in time.
func unanswered(err error, agent net.Addr) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("the agent at %s does not answer", agent)
	}
	return err
}

func fetchOffer(ctx context.Context, d *quic.Dialer, addr net.Addr) (agent.Offer, error) {
	conn, err := d.Dial(ctx, addr, nil)
	if err != nil {
		return agent.Offer{}, err
	}
	defer conn.Close(tunnel.ReasonDone, "")
	stop := context.AfterFunc(ctx, func() { _ = conn.Close(tunnel.ReasonDone, "") })
	defer stop()
	req, err := conn.Open(ctx, tunnel.Header{Method: http.MethodGet, Authority: "x402.invalid", Path: agent.OfferPath})
	if err != nil {
		return agent.Offer{}, err
	}
	if err := req.Close(); err != nil {
		return agent.Offer{}, err
	}
	status, _, err := req.Answer()
	if err != nil {
		return agent.Offer{}, err
	}
	b, err := io.ReadAll(io.LimitReader(req, agent.MaxOffer+1))
	if err != nil {
		return agent.Offer{}, err
	}
	if status != http.StatusOK {
		return agent.Offer{}, fmt.Errorf("answer %d %s", status, http.StatusText(status))
	}
	o, err := agent.ParseOffer(b)
	if err != nil {
		return agent.Offer{}, err
	}
	if o.TunnelKey != channel.Hash(conn.PeerKeyHash()) {
		return agent.Offer{}, quic.ErrWrongKey
	}
	return o, nil
}
