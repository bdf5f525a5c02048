package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// A side is where a process runs.
type side int

const (
	agentSide side = iota // with target and facilitator
	buyerSide             // with the load
)

// A lab is the path between the two sides: a veth pair between two network
// namespaces, or loopback.
type lab struct {
	describe string
	names    [2]string // of the namespaces; "": none
	addr     [2]string // of each side
}

// openLab makes namespaces if this process may, and says why if not.
func openLab(ctx context.Context, loopback bool) (*lab, error) {
	local := &lab{addr: [2]string{"127.0.0.1", "127.0.0.1"}}
	switch {
	case loopback:
		local.describe = "loopback"
		return local, nil
	case os.Geteuid() != 0:
		local.describe = "loopback (namespaces need root)"
		return local, nil
	}
	l := &lab{
		describe: "veth pair between two network namespaces, offloads on",
		// RFC 2544 gave 198.18.0.0/15 to benchmarks.
		addr: [2]string{"198.18.0.1", "198.18.0.2"},
	}
	for i, end := range []string{"a", "b"} {
		l.names[i] = fmt.Sprintf("x402-bench-%d-%s", os.Getpid(), end)
	}
	if err := l.make(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, errors.Join(err, l.close())
		}
		local.describe = fmt.Sprintf("loopback (%v)", err)
		return local, l.close()
	}
	return l, nil
}

func (l *lab) make(ctx context.Context) error {
	a, b := l.names[0], l.names[1]
	for _, command := range []string{
		"netns add " + a,
		"netns add " + b,
		"link add x402a netns " + a + " type veth peer name x402b netns " + b,
		"-n " + a + " address add " + l.addr[0] + "/24 dev x402a",
		"-n " + b + " address add " + l.addr[1] + "/24 dev x402b",
		"-n " + a + " link set lo up",
		"-n " + b + " link set lo up",
		"-n " + a + " link set x402a up",
		"-n " + b + " link set x402b up",
	} {
		if err := ip(ctx, command); err != nil {
			return err
		}
	}
	return nil
}

func ip(ctx context.Context, command string) error {
	text, err := exec.CommandContext(ctx, "ip", strings.Fields(command)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", command, err, strings.TrimSpace(string(text)))
	}
	return nil
}

// close removes the namespaces that are there, and with them the pair.
func (l *lab) close() error {
	var errs []error
	for _, name := range l.names {
		if _, err := os.Stat("/run/netns/" + name); name != "" && err == nil {
			errs = append(errs, ip(context.Background(), "netns delete "+name))
		}
	}
	return errors.Join(errs...)
}

// command is argv on a side. `ip netns exec` becomes argv, so that the process
// id is the program's.
func (l *lab) command(ctx context.Context, s side, argv ...string) *exec.Cmd {
	if name := l.names[s]; name != "" {
		argv = append([]string{"ip", "netns", "exec", name}, argv...)
	}
	return exec.CommandContext(ctx, argv[0], argv[1:]...)
}
