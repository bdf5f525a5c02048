package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/depinsim/x402/scripts/netlab"
)

const help = `orders:
  up KEY=VALUE …, down KEY=VALUE …   rate (Mbit/s) delay jitter queue loss reorder cut (true, false)
  counts                             of the agent's link
  lease buyer|agent                  another public address
  move                               another address of the buyer inside
  udp buyer|agent block|pass|PORT=BYTES
  quit
`

// order does one order.
func order(ctx context.Context, w *netlab.World, words []string, out io.Writer) error {
	if len(words) == 0 {
		return nil
	}
	routers := map[string]*netlab.Router{"buyer": w.BuyerRouter, "agent": w.AgentRouter}
	lines := map[string]*netlab.Line{"up": w.AgentLink.AB, "down": w.AgentLink.BA}
	switch verb, rest := words[0], words[1:]; {
	case lines[verb] != nil:
		s, err := reshape(lines[verb].Shape(), rest)
		if err == nil {
			lines[verb].Set(s)
		}
		return err
	case verb == "counts" && len(rest) == 0:
		_, err := fmt.Fprintf(out, "up %+v\ndown %+v\n", w.AgentLink.AB.Counts(), w.AgentLink.BA.Counts())
		return err
	case verb == "lease" && len(rest) == 1 && routers[rest[0]] != nil:
		addr, err := routers[rest[0]].Lease(ctx)
		if err == nil {
			_, err = fmt.Fprintln(out, addr)
		}
		return err
	case verb == "move" && len(rest) == 0:
		addr, err := w.MoveBuyer(ctx)
		if err == nil {
			_, err = fmt.Fprintln(out, addr)
		}
		return err
	case verb == "udp" && len(rest) == 2 && routers[rest[0]] != nil:
		p, err := parsePolicy(rest[1])
		if err != nil {
			return err
		}
		return routers[rest[0]].Police(ctx, p)
	}
	_, err := io.WriteString(out, help)
	return err
}

func parsePolicy(word string) (netlab.Policy, error) {
	switch word {
	case "block":
		return netlab.Policy{BlockUDP: true}, nil
	case "pass":
		return netlab.Policy{}, nil
	}
	name, value, _ := strings.Cut(word, "=")
	port, err := strconv.ParseUint(name, 10, 16)
	if err != nil {
		return netlab.Policy{}, err
	}
	rate, err := strconv.ParseUint(value, 10, 64)
	return netlab.Policy{Throttle: map[uint16]uint64{uint16(port): rate}}, err
}

// reshape changes what words name.
func reshape(s netlab.Shape, words []string) (netlab.Shape, error) {
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		var err error
		switch key {
		case "rate":
			var mbits float64
			mbits, err = strconv.ParseFloat(value, 64)
			s.Rate = uint64(max(mbits, 0) * 1e6)
		case "loss":
			s.Loss, err = strconv.ParseFloat(value, 64)
		case "reorder":
			s.Reorder, err = strconv.ParseFloat(value, 64)
		case "delay":
			s.Delay, err = time.ParseDuration(value)
		case "jitter":
			s.Jitter, err = time.ParseDuration(value)
		case "queue":
			s.Queue, err = time.ParseDuration(value)
		case "cut":
			s.Down, err = strconv.ParseBool(value)
		default:
			err = fmt.Errorf("no key %q", key)
		}
		if err != nil {
			return s, err
		}
	}
	return s, nil
}
