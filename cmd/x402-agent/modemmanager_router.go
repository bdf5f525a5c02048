//go:build router

package main

import "context"

const asksModemManager = false

func modemManager(context.Context) (map[string]managedModem, error) { return nil, nil }
