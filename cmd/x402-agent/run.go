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
}

// announce writes the ready file of an agent that serves.
func announce(path string, cfg seller.Config, st seller.Status) error {
	b, err := json.Marshal(readiness{Agent: st.Agent, Listen: st.Listen, Offer: cfg.OfferPath(), Control: cfg.ControlPath(), PID: st.PID})
	if err == nil {
		err = agent.WriteReady(path, append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("ready file: %w", err)
	}
	return nil
}
