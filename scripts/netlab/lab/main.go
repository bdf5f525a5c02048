// Command lab builds a netlab.World and runs a command in one of its hosts, or
// takes orders from its standard input, to try things by hand:
//
//	go run ./scripts/netlab/lab --agent-nat symmetric --up 50 --down 50 --rtt 40ms --loss 0.01
//	go run ./scripts/netlab/lab --rtt 40ms -- buyer curl http://198.18.3.2/
//	go run ./scripts/netlab/lab --calibrate
//
// The emulated link is the agent's; up is from the agent. It needs root.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/depinsim/x402/scripts/netlab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal kills
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

// settings are what the flags say.
type settings struct {
	world     netlab.WorldConfig
	up, down  netlab.Shape
	calibrate bool
	seconds   float64
	argv      []string // namespace, command and arguments; none: take orders
}

func parse(args []string, log io.Writer) (s settings, err error) {
	fs := flag.NewFlagSet("lab", flag.ContinueOnError)
	fs.SetOutput(log)
	var nats [2]string
	var up, down, loss, reorder float64
	var rtt, jitter, queue time.Duration
	fs.StringVar(&nats[0], "buyer-nat", "restricted", "none, fullcone, restricted or symmetric")
	fs.StringVar(&nats[1], "agent-nat", "restricted", "likewise")
	fs.Float64Var(&up, "up", 0, "the agent's `MBIT` a second up; 0: no limit")
	fs.Float64Var(&down, "down", 0, "and down")
	fs.DurationVar(&rtt, "rtt", 0, "round trip, half of it each way")
	fs.DurationVar(&jitter, "jitter", 0, "the most that is added, half of it each way")
	fs.DurationVar(&queue, "queue", 100*time.Millisecond, "what may wait at the rate")
	fs.Float64Var(&loss, "loss", 0, "share of packets lost, each way")
	fs.Float64Var(&reorder, "reorder", 0, "share of packets that come 5 ms late and are overtaken, each way")
	fs.BoolVar(&s.calibrate, "calibrate", false, "measure the emulator with the kernel's TCP instead")
	fs.Float64Var(&s.seconds, "seconds", 8, "length of one transfer of --calibrate")
	if err := fs.Parse(args); err != nil {
		return s, err
	}
	s.argv = fs.Args()
	s.up = netlab.Shape{Rate: uint64(up * 1e6), Delay: rtt / 2, Jitter: jitter / 2, Queue: queue, Loss: loss, Reorder: reorder, ReorderBy: 5 * time.Millisecond}
	s.down = s.up
	s.down.Rate = uint64(down * 1e6)
	s.world.AgentUp, s.world.AgentDown = &s.up, &s.down
	var errs [2]error
	s.world.BuyerNAT, errs[0] = netlab.ParseNAT(nats[0])
	s.world.AgentNAT, errs[1] = netlab.ParseNAT(nats[1])
	if len(s.argv) == 1 {
		return s, errors.New("a namespace and a command are needed")
	}
	return s, errors.Join(errs[:]...)
}

// run builds the lab and removes it when it is done.
func run(ctx context.Context, args []string, in io.Reader, out io.Writer) (err error) {
	s, err := parse(args, os.Stderr)
	if err != nil {
		return err
	}
	lab, err := netlab.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	if s.calibrate {
		return calibrate(ctx, lab, s.seconds, out)
	}
	w, err := lab.World(ctx, s.world)
	if err != nil {
		return err
	}
	hosts := map[string]*netlab.Namespace{
		"buyer": w.Buyer, "buyer-router": w.BuyerRouter.Namespace, "wan": w.WAN,
		"agent-router": w.AgentRouter.Namespace, "agent": w.Agent, "internet": w.Internet,
	}
	if len(s.argv) > 0 {
		n, ok := hosts[s.argv[0]]
		if !ok {
			return fmt.Errorf("no namespace %q", s.argv[0])
		}
		cmd := n.Command(ctx, s.argv[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, os.Stderr
		return cmd.Run()
	}
	for name, n := range hosts {
		fmt.Fprintf(out, "%-13s ip netns exec %s\n", name, n.Name())
	}
	fmt.Fprintf(out, "buyer %s behind %s (%s); agent %s behind %s (%s); relays from %s; target %s\n%s",
		w.BuyerAddr, w.BuyerRouter.Outside(), w.BuyerRouter.NAT, w.AgentAddr, w.AgentRouter.Outside(), w.AgentRouter.NAT, w.Relay(0), w.Target, help)
	return obey(ctx, w, in, out)
}

// obey takes orders until the input or ctx ends.
func obey(ctx context.Context, w *netlab.World, in io.Reader, out io.Writer) error {
	lines := make(chan string) // closed when the input has ended
	var wg sync.WaitGroup
	wg.Go(func() { // if ctx ends first, this ends with the process
		defer close(lines)
		for scan := bufio.NewScanner(in); scan.Scan(); {
			select {
			case lines <- scan.Text():
			case <-ctx.Done():
				return
			}
		}
	})
	for {
		select {
		case <-ctx.Done():
			return nil
		case line, ok := <-lines:
			if !ok || line == "quit" {
				return nil
			}
			if err := order(ctx, w, strings.Fields(line), out); err != nil {
				fmt.Fprintln(out, err)
			}
		}
	}
}
