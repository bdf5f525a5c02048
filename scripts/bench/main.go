// Command bench measures what docs/performance.md promises, on this machine
// and in one run: throughput and processor time beside a bare QUIC relay and
// direct TCP, the agent's memory, the time to the first byte, what metering and
// vouchers cost, what the agent writes to flash, its instructions on routers, and
// what a relay costs, free or paid; on emulated links also with loss, little
// bandwidth, a blackout and other flows, beside the kernel's TCP and other tunnels.
//
//	go run ./scripts/bench [--only GROUPS] [--rounds 5] [--seconds 3] [--json]
//	    [--peer hysteria=PATH] [--plot FILE.svg]
//
// Buyer, agent, relay, target and load are separate processes: as root in two
// network namespaces joined by a veth pair, else on loopback. What is compared
// is interleaved, and medians are shown, since only ratios of the same run mean
// something on a shared machine. It is no test: a target that is missed is
// shown as such and the exit status stays 0.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == roleArg {
		os.Exit(roleMain(os.Args[2]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal kills
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures as args say and prints the report to out.
func run(ctx context.Context, args []string, out, log io.Writer) error {
	c := config{log: log}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(log)
	asJSON := fs.Bool("json", false, "print JSON")
	seconds := fs.Float64("seconds", 3, "length of one transfer, in `SECONDS`")
	fs.IntVar(&c.rounds, "rounds", 5, "how often each thing is measured; at least 5 for a figure to quote")
	only := fs.String("only", strings.Join(groups(), ","), "`GROUPS` to measure, separated by commas; "+
		strings.Join(onLink(), ", ")+", and the limited link of relay (one flow by a relay beside the same directly) need root")
	fs.BoolVar(&c.loopback, "loopback", false, "use loopback although namespaces could be made")
	fs.StringVar(&c.profiles, "profile", "", "write CPU profiles of the transfers' agents and buyers into `DIR`")
	fs.Var(&c.peers, "peer", "measure another tunnel too, `NAME=PATH` of its program; NAME: "+strings.Join(peerKinds(), ", "))
	plot := fs.String("plot", "", "draw the figures of the links into `FILE` (SVG)")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if c.rounds < 1 || *seconds < 0.05 || *seconds > 600 {
		return errors.New("--rounds: at least 1; --seconds: 0.05 to 600")
	}
	c.length = time.Duration(*seconds * float64(time.Second))
	c.only = strings.Split(*only, ",")
	for _, g := range c.only {
		if !slices.Contains(groups(), g) {
			return fmt.Errorf("--only: %q is none of %s", g, strings.Join(groups(), ", "))
		}
	}
	r, err := c.measure(ctx)
	if err != nil {
		return err
	}
	if *plot != "" {
		if err := os.WriteFile(*plot, []byte(r.plot()), 0o644); err != nil {
			return err
		}
	}
	if *asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	_, err = io.WriteString(out, r.table())
	return err
}
