package buyer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel/quic"
)

// KnownTickets is a folder with the ticket of each channel's last session, in
// files of mode 0600. One process uses it at a time.
type KnownTickets struct {
	Dir string
}

var _ Tickets = KnownTickets{}

func (k KnownTickets) path(id channel.ID) string { return filepath.Join(k.Dir, id.String()) }

// Take returns a channel's ticket after its file is gone. One that cannot be read
// is gone too. The removal is not synced, which takes as long as all that a ticket
// saves: after a power loss it may be there again, and the agent refuses it.
func (k KnownTickets) Take(id channel.ID) ([]byte, error) {
	f, err := os.Open(k.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, quic.MaxTicket+1))
	err = errors.Join(err, f.Close(), os.Remove(k.path(id)))
	if err == nil && len(b) > quic.MaxTicket {
		err = fmt.Errorf("%s: longer than %d bytes", k.path(id), quic.MaxTicket)
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// Put replaces a channel's ticket.
func (k KnownTickets) Put(id channel.ID, ticket []byte) error {
	if err := os.MkdirAll(k.Dir, 0o700); err != nil {
		return err
	}
	return agent.ReplaceFile(k.path(id), ticket, 0o600)
}
