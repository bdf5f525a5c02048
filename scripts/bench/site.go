package main

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/facilitator/server"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/scripts/netlab"
)

// The site is what is on the agent's side besides the agent: a facilitator
// that keeps its ledger in memory, and the target that load goes to.
type siteSettings struct {
	Host   string          `json:"host"` // to listen on
	Payer  channel.Address `json:"payer"`
	Amount channel.Amount  `json:"amount"` // that Payer gets
	// Congestion names controls of the kernel's TCP, each for a target more.
	Congestion []string `json:"congestion"`
}

// siteReady is the site's answer.
type siteReady struct {
	Target      string        `json:"target"`
	UDP         string        `json:"udp"`    // likewise, for datagrams
	Direct      []string      `json:"direct"` // by congestion control
	Facilitator string        `json:"facilitator"`
	Params      ledger.Params `json:"params"`
}

func site(c console) error {
	var s siteSettings
	if err := c.dec.Decode(&s); err != nil {
		return err
	}
	r := siteReady{Params: ledger.Params{
		ChainID: 1<<41 + 2544, Token: channel.Address{0xbe}, Name: "USDC", Version: "2", FeeDivisor: ledger.FeeDivisor,
	}}
	srv, err := server.New(server.Config{Ledger: ledger.NewMemory(r.Params), Dev: true})
	if err != nil {
		return err
	}
	web, err := net.Listen("tcp", net.JoinHostPort(s.Host, "0"))
	if err != nil {
		return err
	}
	target, err := net.Listen("tcp", net.JoinHostPort(s.Host, "0"))
	if err != nil {
		return err
	}
	udp, err := net.ListenPacket("udp", net.JoinHostPort(s.Host, "0"))
	if err != nil {
		return err
	}
	targets := []net.Listener{target}
	for _, name := range s.Congestion {
		address := ""
		lc := net.ListenConfig{Control: netlab.Congestion(name)}
		if ln, err := lc.Listen(context.Background(), "tcp", net.JoinHostPort(s.Host, "0")); err == nil { // else the kernel has none
			targets, address = append(targets, ln), ln.Addr().String()
		}
		r.Direct = append(r.Direct, address)
	}
	r.Target, r.UDP, r.Facilitator = target.Addr().String(), udp.LocalAddr().String(), "http://"+web.Addr().String()
	return c.serve(func(ctx context.Context) error {
		hs := &http.Server{Handler: srv, ReadHeaderTimeout: 10 * time.Second}
		var wg sync.WaitGroup
		defer wg.Wait()
		defer udp.Close()
		defer hs.Close()
		errc := make(chan error, 2+len(targets)) // one from each below
		wg.Go(func() { errc <- hs.Serve(web) })
		wg.Go(func() { errc <- serveDatagrams(udp) })
		for _, ln := range targets {
			defer ln.Close()
			wg.Go(func() { errc <- serveTarget(ln) })
		}
		if err := fund(ctx, r.Facilitator, s); err != nil {
			return err
		}
		if err := c.enc.Encode(r); err != nil {
			return err
		}
		select {
		case err := <-errc:
			return err
		case <-ctx.Done():
			return nil
		}
	})
}

func fund(ctx context.Context, url string, s siteSettings) error {
	if s.Amount == 0 {
		return nil
	}
	fac, err := nethttp.New(nethttp.Config{URL: url})
	if err != nil {
		return err
	}
	_, err = fac.Faucet(ctx, x402.FaucetRequest{Address: s.Payer, Amount: s.Amount, Ref: channel.Hash{1}})
	return err
}

// What a connection to the target asks for, in its first bytes.
const (
	opDown  = 'D' // send for a while, then end
	opUp    = 'U' // take until the end, then answer how much, in 8 bytes
	opFirst = 'F' // send one byte and end
	opTake  = 'T' // take for a while, then answer how much, in 8 bytes
	opHold  = 'H' // send one byte, then wait for the end
)

// A wish is what stands in those bytes: the operation, then two big-endian
// numbers of 8 bytes.
type wish struct {
	op    byte
	lasts time.Duration // opDown, opTake
	rate  uint64        // opDown: bytes a second; 0: as many as go
}

const wishSize = 1 + 8 + 8

func (w wish) bytes() []byte {
	b := binary.BigEndian.AppendUint64([]byte{w.op}, uint64(w.lasts))
	return binary.BigEndian.AppendUint64(b, w.rate)
}

func parseWish(b [wishSize]byte) wish {
	return wish{b[0], time.Duration(binary.BigEndian.Uint64(b[1:])), binary.BigEndian.Uint64(b[9:])}
}

// serveTarget serves until ln is closed, and the connections to their ends.
func serveTarget(ln net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		wg.Go(func() {
			defer conn.Close()
			// What a connection comes to is for its client to say.
			_ = fulfil(conn)
		})
	}
}

func fulfil(conn net.Conn) error {
	var b [wishSize]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		return err
	}
	switch w := parseWish(b); w.op {
	case opDown:
		return send(conn, w.lasts, w.rate)
	case opUp:
		n, err := io.Copy(io.Discard, conn)
		if err != nil {
			return err
		}
		_, err = conn.Write(binary.BigEndian.AppendUint64(nil, uint64(n)))
		return err
	case opTake:
		return take(conn, w.lasts)
	case opFirst:
		_, err := conn.Write([]byte{opFirst})
		return err
	case opHold:
		if _, err := conn.Write([]byte{opHold}); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, conn)
		return err
	}
	return errors.New("unknown operation")
}

// take counts what comes in a while from the first byte, and answers. What comes
// later is taken too, since a connection closed before would lose the answer.
func take(conn net.Conn, lasts time.Duration) error {
	var first [1]byte
	if _, err := io.ReadFull(conn, first[:]); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(lasts)); err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, conn)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	if _, err := conn.Write(binary.BigEndian.AppendUint64(nil, uint64(n)+1)); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, conn)
	return err
}

// chunk is what is written at once by those who have no reason for another.
const chunk = 64 << 10

// send writes for a while: as fast as w takes it, or at a rate.
func send(w io.Writer, lasts time.Duration, rate uint64) error {
	buf := make([]byte, chunk)
	began := time.Now()
	if rate == 0 {
		for time.Since(began) < lasts {
			if _, err := w.Write(buf); err != nil {
				return err
			}
		}
		return nil
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for sent := uint64(0); ; {
		passed := time.Since(began)
		due := uint64(min(passed, lasts).Microseconds()) * rate / 1_000_000
		for sent < due {
			n, err := w.Write(buf[:min(uint64(len(buf)), due-sent)])
			if err != nil {
				return err
			}
			sent += uint64(n)
		}
		if passed >= lasts {
			return nil
		}
		<-tick.C
	}
}
