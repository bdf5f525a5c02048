package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel"
)

func (p program) run(ctx context.Context, f *flags, args []string) (err error) {
	config := f.String("config", defaultConfig, "")
	ready := f.String("ready-file", "", "")
	if err := f.parse(args); err != nil {
		return err
	}
	cfg, err := seller.LoadConfig(*config)
	if err != nil {
		return configError{err}
	}
	total := memTotal("/proc/meminfo")
	limitMemory(total, os.Getenv)
	if cfg.MaxFlows == 0 {
		cfg.MaxFlows = maxFlows(total)
	}
	cfg.MaxStrangers = maxStrangers(total)
	if *ready != "" {
		if err := agent.RemoveReady(*ready); err != nil { // one of an agent that was killed
			return fmt.Errorf("ready file: %w", err)
		}
		defer func() { err = errors.Join(err, agent.RemoveReady(*ready)) }()
		cfg.Ready = func(st seller.Status) error { return announce(*ready, cfg, st) }
	}
	return seller.Run(ctx, cfg)
}

// A readiness is the content of the ready file.
type readiness struct {
	Agent   channel.Address `json:"agent"`
	Listen  string          `json:"listen"`
	Offer   string          `json:"offer"`
	Control string          `json:"control"`
	PID     int             `json:"pid"`
	SIMs    []readySIM      `json:"sims,omitempty"`
}

// A readySIM is one of several.
type readySIM struct {
	Name   string          `json:"name"`
	Agent  channel.Address `json:"agent"`
	Listen string          `json:"listen"`
	Offer  string          `json:"offer"`
}

// announce writes the ready file of an agent that serves.
func announce(path string, cfg seller.Config, st seller.Status) error {
	r := readiness{Agent: st.Agent, Listen: st.Listen, Offer: st.Offer, Control: cfg.ControlPath(), PID: st.PID}
	for _, sim := range st.SIMs {
		if r.Offer == "" && sim.Refusing == "" {
			r.Agent, r.Listen, r.Offer = sim.Agent, sim.Listen, sim.Offer
		}
		r.SIMs = append(r.SIMs, readySIM{sim.Name, sim.Agent, sim.Listen, sim.Offer})
	}
	b, err := json.Marshal(r)
	if err == nil {
		err = agent.WriteReady(path, append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("ready file: %w", err)
	}
	return nil
}
