package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
)

// readyFile is what --ready-file holds.
type readyFile struct {
	SOCKS   string          `json:"socks,omitempty"`
	HTTP    string          `json:"http,omitempty"`
	Agent   channel.Address `json:"agent"`
	Channel channel.ID      `json:"channel"`
}

// writeReady writes the file at once, never a part of it.
func (p *purchase) writeReady() error {
	b, err := json.Marshal(readyFile{SOCKS: address(p.socks), HTTP: address(p.http), Agent: p.offer.Agent, Channel: p.id})
	if err != nil {
		return err
	}
	temp := filepath.Join(filepath.Dir(p.ready), ".ready-"+rand.Text())
	if err = os.WriteFile(temp, append(b, '\n'), 0o600); err == nil {
		err = os.Rename(temp, p.ready)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("--ready-file: %w", err), removeReady(temp))
	}
	return nil
}

func removeReady(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func address(ln net.Listener) string {
	if ln == nil {
		return ""
	}
	return ln.Addr().String()
}

// conclude says what the run came to. A used up budget is a good end.
func (p *purchase) conclude(r buyer.Result, last buyer.Status, err error) error {
	end := "ended in order"
	if errors.Is(err, buyer.ErrBudget) {
		end = "ended in order: " + buyer.ErrBudget.Error()
		err = without(err, buyer.ErrBudget)
	}
	if err != nil {
		end = "ended early"
	}
	if r.Channel == (channel.ID{}) { // nothing was begun
		if errors.Is(err, context.Canceled) {
			return withHint(errInterrupted, "x402 wallet show says whether a deposit was made; x402 wallet refund gets it back")
		}
		return err
	}
	if p.json {
		return errors.Join(err, p.printResult(r, end, err))
	}
	rows := [][2]string{
		{"end", end},
		{"channel", "in all, earlier runs included:"},
		{"received", bytesText(r.Down)},
		{"sent", bytesText(r.Up)},
		{"owed", r.Owed.USD() + " USD"},
		{"signed", r.Signed.USD() + " USD"},
	}
	switch {
	case p.keep && err == nil:
		left := last.Balance - min(last.Balance, r.Signed)
		rows = append(rows, [2]string{"kept", p.given.echo(left.USD() + " USD in the channel; x402 wallet refund gets it back")})
	case err == nil:
		rows = append(rows, [2]string{"claimed", r.Claimed.USD() + " USD"}, [2]string{"refunded", r.Refunded.USD() + " USD, this time"})
	}
	if r.WithdrawAt != 0 {
		rows = append(rows, [2]string{"withdrawal", p.given.echo("of the rest was begun; finish it with x402 wallet withdraw after " + clock(r.WithdrawAt))})
	}
	for _, x := range r.Relays {
		rows = append(rows, p.relayRow(x, err))
	}
	return errors.Join(err, printRows(p.stdout, rows))
}

// relayRow says what a relay came to.
func (p *purchase) relayRow(x buyer.RelayResult, err error) [2]string {
	text := fmt.Sprintf("%s: passed %s, owed %s USD, signed %s", x.Relay, bytesText(x.Up+x.Down), x.Owed.USD(), x.Signed.USD())
	switch {
	case x.WithdrawAt != 0:
		text += "; a withdrawal of the rest was begun; finish it with x402 wallet withdraw after " + clock(x.WithdrawAt)
	case p.keep:
		text += "; the rest is kept there"
	case err == nil:
		text += fmt.Sprintf(", claimed %s, refunded %s", x.Claimed.USD(), x.Refunded.USD())
	}
	return [2]string{"relay", p.given.echo(text)}
}

func (p *purchase) printResult(r buyer.Result, end string, err error) error {
	var out struct {
		Result struct {
			buyer.Result
			End   string `json:"end"`
			Error string `json:"error,omitempty"`
		} `json:"result"`
	}
	out.Result.Result, out.Result.End = r, end
	if err != nil {
		out.Result.Error = p.given.echo(plain(err.Error()))
	}
	b, err := json.Marshal(out)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.stdout, "%s\n", b)
	return err
}

// without takes target out of what errors.Join made.
func without(err, target error) error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		if err == target {
			return nil
		}
		return err
	}
	var rest []error
	for _, e := range joined.Unwrap() {
		rest = append(rest, without(e, target))
	}
	return errors.Join(rest...)
}
