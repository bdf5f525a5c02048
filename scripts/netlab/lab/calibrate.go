package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/depinsim/x402/scripts/netlab"
)

// calibrate shows what the emulator does to the kernel's TCP and to packets of
// its own, on the link that docs/performance.md is measured on: 50 Mbit/s, 40
// ms, a queue of 100 ms.
func calibrate(ctx context.Context, lab *netlab.Lab, seconds float64, out io.Writer) error {
	near, err := lab.Namespace(ctx, "near")
	if err != nil {
		return err
	}
	far, err := lab.Namespace(ctx, "far")
	if err != nil {
		return err
	}
	addr := netip.MustParseAddr("198.18.0.2")
	k, err := lab.Link(ctx, netlab.End{Namespace: near, Device: "link", Address: netip.MustParsePrefix("198.18.0.1/24")},
		netlab.End{Namespace: far, Device: "link", Address: netip.PrefixFrom(addr, 24)})
	if err != nil {
		return err
	}
	shape := netlab.Shape{Rate: 50_000_000, Delay: 20 * time.Millisecond, Queue: 100 * time.Millisecond}
	k.Set(shape, shape)
	if err := roundTrips(near, far, addr, out); err != nil {
		return err
	}
	length := time.Duration(seconds * float64(time.Second))
	for _, congestion := range []string{"cubic", "bbr"} {
		for _, loss := range []float64{0, 0.01, 0.05} {
			shape.Loss = loss
			k.Set(shape, shape)
			if err := tcp(ctx, [2]*netlab.Namespace{far, near}, congestion, length, func(bytes uint64, took time.Duration) {
				fmt.Fprintf(out, "TCP %-5s at %.0f%% loss: %6.2f Mbit/s\n", congestion, loss*100, float64(bytes)*8/1e6/took.Seconds())
			}); err != nil {
				return fmt.Errorf("%s: %w", congestion, err)
			}
		}
	}
	k.Set(netlab.Shape{}, netlab.Shape{})
	return tcp(ctx, [2]*netlab.Namespace{far, near}, "cubic", length/2, func(bytes uint64, took time.Duration) {
		fmt.Fprintf(out, "TCP without a shape: %.0f Mbit/s\n", float64(bytes)*8/1e6/took.Seconds())
	})
}

const trips = 100

// roundTrips shows how long packets take there and back.
func roundTrips(near, far *netlab.Namespace, addr netip.Addr, out io.Writer) error {
	echo, err := far.ListenPacket("udp4", addr.String()+":0")
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer echo.Close()
	wg.Go(func() {
		b := make([]byte, 100)
		for {
			n, from, err := echo.ReadFrom(b)
			if err != nil {
				return // closed
			}
			_, _ = echo.WriteTo(b[:n], from) // the reader times out
		}
	})
	conn, err := near.ListenPacket("udp4", "0.0.0.0:0")
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	var times []time.Duration
	for range trips {
		began := time.Now()
		if _, err := conn.WriteTo(make([]byte, 64), echo.LocalAddr()); err != nil {
			return err
		}
		if _, _, err := conn.ReadFrom(make([]byte, 100)); err != nil {
			return err
		}
		times = append(times, time.Since(began))
	}
	slices.Sort(times)
	_, err = fmt.Fprintf(out, "round trip of 40 ms: median %.2f ms, least %.2f, most of 95%% %.2f\n",
		milliseconds(times[trips/2]), milliseconds(times[0]), milliseconds(times[trips*95/100]))
	return err
}

func milliseconds(d time.Duration) float64 { return math.Round(d.Seconds()*1e5) / 100 }

// tcp sends from the first to the second for a while and tells what arrived in
// that time.
func tcp(ctx context.Context, ends [2]*netlab.Namespace, congestion string, length time.Duration, tell func(uint64, time.Duration)) error {
	var ln net.Listener
	if err := ends[0].Do(func() (err error) {
		ln, err = (&net.ListenConfig{Control: netlab.Congestion(congestion)}).Listen(ctx, "tcp4", "198.18.0.2:0")
		return err
	}); err != nil {
		return err
	}
	defer ln.Close()
	conn, err := ends[1].DialContext(ctx, "tcp4", ln.Addr().String())
	if err != nil {
		return err
	}
	defer conn.Close()
	from, err := ln.Accept()
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer from.Close()
	wg.Go(func() { _, _ = io.Copy(from, endless{}) }) // until it is closed
	began := time.Now()
	if err := conn.SetDeadline(began.Add(length)); err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, conn)
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		return errors.Join(err, errors.New("the flow ended early"))
	}
	tell(uint64(n), time.Since(began))
	return nil
}

// endless reads zeros.
type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }
