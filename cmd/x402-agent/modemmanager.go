//go:build !router

package main

import (
	"context"

	"github.com/depinsim/x402/modem/modemmanager"
)

// asksModemManager says whether this build can ask ModemManager over D-Bus.
// Builds with the tag router cannot: docs/decisions/0022-modemmanager.md.
const asksModemManager = true

// modemManager is what ModemManager says of its modems, by where they are.
func modemManager(ctx context.Context) (map[string]managedModem, error) {
	modems, err := modemmanager.Read(ctx, modemmanager.Config{})
	if err != nil {
		return nil, err
	}
	managed := make(map[string]managedModem, len(modems))
	for _, m := range modems {
		managed[m.Path] = managedModem{m.Identity.IMEI, m.State}
	}
	return managed, nil
}
