package main

import (
	"errors"
	"flag"
	"path/filepath"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/carrier"
)

func (f *connectFlags) exitFlags(fs *flag.FlagSet) {
	fs.BoolVar(&f.verifyExit, "verify-exit", false, "")
	fs.Func("networks", "", func(path string) error {
		f.networks = append(f.networks, path)
		if path == "" {
			return errors.New("want a file")
		}
		return nil
	})
}

// tableFiles are the files of the state folder that are a table of networks.
const tableFiles = "ip2asn*"

// exitCheck is what --verify-exit asks for, nil without it.
func (p *purchase) exitCheck() (*buyer.ExitCheck, error) {
	if !p.verifyExit {
		if len(p.networks) > 0 {
			return nil, usage("--networks: it says whose the exit's address is: --verify-exit looks for that")
		}
		return nil, nil
	}
	c := &buyer.ExitCheck{Relays: p.relays}
	if len(c.Relays) == 0 {
		var err error
		if c.Relays, err = p.marketFlags.relays(p.places); err != nil {
			return nil, err
		}
	}
	if len(c.Relays) == 0 {
		return nil, withHint(usage("--verify-exit: no relay is known that could say where traffic leaves"), "x402 relay add keeps one")
	}
	files := p.networks
	if len(files) == 0 {
		files, _ = filepath.Glob(filepath.Join(p.state, tableFiles)) // the pattern is well-formed
	}
	if len(files) > 0 {
		var err error
		if c.Networks, err = carrier.Read(files...); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// showExit has the view tell where traffic leaves, once.
func showExit(v *view, next func(buyer.Status)) func(buyer.Status) {
	told := false
	return func(s buyer.Status) {
		if s.Exit != nil && !told {
			told = true
			_, _ = v.Write([]byte(exitText(*s.Exit))) // never fails
		}
		next(s)
	}
}

// exitText is where traffic leaves, in a line.
func exitText(e buyer.Exit) string {
	if e.Error != "" {
		return "exit: not known: " + printable(plain(e.Error))
	}
	text := "exit " + e.Address.String()
	if n := networkText(e.Network); n != "" {
		text += " " + n
	}
	switch {
	case e.Confirmed():
		text += " (carrier)"
	case e.Evidence != "":
		text += " (claimed: " + e.Reason.String() + ")"
	}
	return text
}
