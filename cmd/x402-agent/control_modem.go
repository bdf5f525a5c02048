package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/modem"
)

// An order is a command to the agent, and what is made of its answer.
type order struct {
	name string
	args []string // keys and values
	view
}

// give gives an order and prints what came of it.
func (p program) give(ctx context.Context, c *seller.Control, asJSON bool, o order) error {
	var raw json.RawMessage
	if err := c.Get(ctx, o.name, &raw, o.args...); err != nil {
		return err
	}
	return p.print(raw, asJSON, o.view)
}

// modem tells the modem something, or asks it.
func (p program) modem(ctx context.Context, f *flags, args []string) error {
	f.most = 2
	c, asJSON, err := talk(f, args)
	if err != nil {
		return err
	}
	o, err := modemOrder(f.word(0), f.word(1))
	if err != nil {
		return err
	}
	return p.give(ctx, c, asJSON, o)
}

// modemOrder is what a subcommand of modem asks for.
func modemOrder(name, how string) (o order, err error) {
	var change seller.ModemChange
	switch name {
	case "airplane":
		if hold, perr := time.ParseDuration(how); how != "" && how != "on" && how != "off" && (perr != nil || hold <= 0 || hold > seller.MaxAirplane) {
			return o, usage("modem airplane: %.20q is neither on nor off nor a time such as 10m, up to 720h", how)
		}
		var st seller.AirplaneStatus
		return order{name, []string{"for", how}, view{&st, func() string { return renderAirplane(st) + "\n" }}}, nil
	case "mode":
		if _, perr := modem.ParseMode(how); how != "" && perr != nil {
			return o, usage("modem %s", perr)
		}
		return order{name, []string{"to", how}, view{&change, func() string { return change.Mode + "\n" }}}, nil
	case "bands":
		if _, perr := modem.ParseBands(how); how != "" && perr != nil {
			return o, usage("modem %s", perr)
		}
		return order{name, []string{"to", how}, view{&change, func() string { return change.Bands + "\n" }}}, nil
	case "reset", "signal":
	case "":
		return o, usage("modem: what? There are airplane, mode, bands, reset, signal")
	default:
		return o, usage("modem: no %q. There are airplane, mode, bands, reset, signal", name)
	}
	if how != "" {
		return o, usage("modem %s: unexpected argument %q", name, how)
	}
	if name == "reset" {
		return order{name, nil, view{&change, func() string {
			return fmt.Sprintf("the modem has restarted and answers on %s; %d s\n", printable(change.Port), change.Took/1000)
		}}}, nil
	}
	var all seller.SignalHistory
	return order{name, nil, view{&all, func() string { return renderSignals(all.Samples) }}}, nil
}

// sms lists, sends or deletes short messages.
func (p program) sms(ctx context.Context, f *flags, args []string) error {
	f.most = 100
	c, asJSON, err := talk(f, args)
	if err != nil {
		return err
	}
	var all []seller.ShortMessage
	var n seller.Sending
	o := order{name: "sms-" + f.word(0)}
	switch words := f.words[min(1, len(f.words)):]; {
	case o.name == "sms-list" && len(words) == 0:
		o.view = view{&all, func() string { return renderMessages(all) }}
	case o.name == "sms-send" && len(words) == 2:
		text := words[1]
		if text == "-" {
			if text, err = readText(p.in); err != nil {
				return err
			}
		}
		o.args = []string{"to", words[0], "text", text}
		o.view = view{&n, func() string { return "sent as " + count(n.Messages, "message") + "\n" }}
	case o.name == "sms-delete" && len(words) > 0:
		for _, id := range words {
			if _, err := strconv.ParseUint(id, 10, 16); err != nil {
				return usage("sms delete: %.20q is no message's number; sms list shows them", id)
			}
		}
		o.args = []string{"ids", strings.Join(words, ",")}
		o.view = view{&n, func() string { return "deleted " + count(n.Messages, "message") + "\n" }}
	default:
		return usage("sms: want list, send NUMBER TEXT, or delete ID...")
	}
	return p.give(ctx, c, asJSON, o)
}

// readText reads a text without the end of its last line.
func readText(in io.Reader) (string, error) {
	const most = 4 << 10 // more than eight messages hold
	b, err := io.ReadAll(io.LimitReader(in, most))
	return strings.TrimRight(string(b), "\r\n"), err
}

func (p program) ussd(ctx context.Context, f *flags, args []string) error {
	cancel := f.Bool("cancel", false, "")
	f.most = 1
	c, asJSON, err := talk(f, args)
	if err != nil {
		return err
	}
	var a seller.USSDAnswer
	o := order{"ussd", []string{"code", f.word(0)}, view{&a, func() string {
		if a.More {
			return text(a.Text) + "the network waits for an answer: x402-agent ussd ANSWER, or --cancel\n"
		}
		return text(a.Text)
	}}}
	switch {
	case *cancel && f.word(0) != "":
		return usage("ussd: a code, or --cancel")
	case *cancel:
		o.name, o.args, o.render = "ussd-cancel", nil, func() string { return "ended\n" }
	case f.word(0) == "":
		return usage("ussd: which code? Such as '*100#', in quotes")
	}
	return p.give(ctx, c, asJSON, o)
}
