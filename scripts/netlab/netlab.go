// Package netlab builds small internets out of Linux network namespaces: hosts
// and routers joined by veth pairs or by emulated links, with the NATs that
// carriers use. Programs and sockets of tests and of scripts/bench run in them.
//
//	lab, err := netlab.Open(ctx)
//	defer lab.Close()
//	w, err := lab.World(ctx, netlab.WorldConfig{AgentNAT: netlab.Symmetric, AgentUp: &netlab.Shape{Rate: 50e6, Loss: 0.01}})
//	conn, err := w.Buyer.ListenPacket("udp4", "0.0.0.0:0")
//	err = w.Agent.Command(ctx, "x402-agent", "run").Run()
//
// It needs Linux, root, ip and nft, and for emulated links /dev/net/tun; Missing
// says what is not there. Nothing that it does reaches outside of its own
// namespaces. Close removes them. What a process left that died before is
// removed by the next Open, of this or another process: names hold the process
// id and when that process started, so that nobody's living lab is taken for a
// dead one.
//
// Link is a link emulator of our own, since many kernels have no netem. It keeps
// time to about 0.2 ms on a machine with a processor to spare; its promises
// (delays are never shorter, order, counts) hold on any.
package netlab

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// prefix begins the names of all namespaces made here.
const prefix = "x402lab-"

// folder is where ip keeps the names of namespaces (ip-netns(8)).
const folder = "/run/netns"

// A Lab owns namespaces and the links between them. Its methods may be called
// by several goroutines.
type Lab struct {
	name string         // begins those of its namespaces
	wg   sync.WaitGroup // the links' lines

	mu         sync.Mutex
	namespaces []*Namespace
	links      []*Link
	closed     bool
}

// Missing says why no lab can be made here; nil if one can.
func Missing() error {
	if err := supported(); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("netlab: network namespaces need root")
	}
	for _, name := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("netlab: %w", err)
		}
	}
	if _, err := os.Stat(tunDevice); err != nil {
		return fmt.Errorf("netlab: %w", err)
	}
	return nil
}

// Open removes what dead processes left and returns an empty lab.
func Open(ctx context.Context) (*Lab, error) {
	if err := Missing(); err != nil {
		return nil, err
	}
	if err := sweep(ctx); err != nil {
		return nil, err
	}
	started, err := startOf("self")
	if err != nil {
		return nil, err
	}
	return &Lab{name: fmt.Sprintf("%s%d-%d-%s-", prefix, os.Getpid(), started, rand.Text()[:6])}, nil
}

// Close ends the links and the processes that still run in the lab, and removes
// its namespaces. A second Close does nothing.
func (l *Lab) Close() error {
	l.mu.Lock()
	closed, links, namespaces := l.closed, l.links, l.namespaces
	l.closed = true
	l.mu.Unlock()
	if closed {
		return nil
	}
	var errs []error
	for _, k := range links {
		errs = append(errs, k.stop())
	}
	l.wg.Wait()
	for _, k := range links {
		errs = append(errs, k.close())
	}
	for _, n := range namespaces {
		errs = append(errs, remove(context.Background(), n.name))
	}
	return errors.Join(errs...)
}

// Namespace makes one. name tells it from the others of the lab.
func (l *Lab) Namespace(ctx context.Context, name string) (*Namespace, error) {
	n := &Namespace{name: l.name + name}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil, errors.New("netlab: the lab is closed")
	}
	l.namespaces = append(l.namespaces, n)
	l.mu.Unlock()
	if err := ip(ctx, "netns", "add", n.name); err != nil {
		return nil, err
	}
	// Without link-local addresses of IPv6 nothing is sent that nobody asked for,
	// and counts are exact. A kernel without IPv6 has no such file.
	if err := n.Sysctl("ipv6/conf/default/addr_gen_mode", "1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return n, ip(ctx, "-n", n.name, "link", "set", "lo", "up")
}

// sweep removes the namespaces of processes that have ended.
func sweep(ctx context.Context) error {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if dead(e.Name(), startOf) {
			errs = append(errs, remove(ctx, e.Name()))
		}
	}
	return errors.Join(errs...)
}

// dead says whether name is a namespace of a lab whose process has ended.
// started answers as startOf does.
func dead(name string, started func(pid string) (uint64, error)) bool {
	rest, ours := strings.CutPrefix(name, prefix)
	fields := strings.SplitN(rest, "-", 4)
	if !ours || len(fields) != 4 {
		return false
	}
	if _, err := strconv.ParseUint(fields[0], 10, 31); err != nil {
		return false
	}
	since, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil {
		return false
	}
	now, err := started(fields[0])
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	return now != since
}

// startOf is when a process started, in ticks since the machine did: field 22 of
// proc_pid_stat(5).
func startOf(pid string) (uint64, error) {
	text, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:])) // from 3
	if len(fields) < 20 {
		return 0, fmt.Errorf("netlab: /proc/%s/stat: %q", pid, text)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// remove kills what runs in a namespace and removes it. One that is not there,
// or that another process removes at the same time, is no error.
func remove(ctx context.Context, name string) error {
	text, _ := exec.CommandContext(ctx, "ip", "netns", "pids", name).Output() // none to kill if it fails
	for field := range strings.FieldsSeq(string(text)) {
		if pid, err := strconv.Atoi(field); err == nil && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended meanwhile
		}
	}
	err := ip(ctx, "netns", "delete", name)
	if _, there := os.Stat(filepath.Join(folder, name)); errors.Is(there, os.ErrNotExist) {
		return nil
	}
	return err
}

// ip runs ip(8).
func ip(ctx context.Context, args ...string) error {
	text, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(text)))
	}
	return nil
}
