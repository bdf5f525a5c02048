package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/depinsim/x402/modem"
)

func TestRenderModems(t *testing.T) {
	held := func(name string) error {
		return modem.HeldError{Port: "/dev/ttyUSB2", Holder: modem.Holder{PID: 812, Name: name}}
	}
	var lines []modemLine
	for _, m := range []modem.Found{
		{Path: "1-1.1", ID: "2c7c:0125", Maker: "Quectel", IMEI: "490154203237518", Port: "/dev/ttyUSB2", Nets: []string{"wwan0"}},
		{Path: "1-1.2", ID: "12d1:14dc", Maker: "Huawei", Nets: []string{"eth2"}, Err: modem.ErrNoPort},
		{Path: "1-1.3", ID: "1199:9071", Maker: "Sierra", Err: held("pppd")},
		{Path: "1-1.4", ID: "1199:9071", Maker: "Sierra", Err: held("ModemManager")},
		{Path: "1-1.5", ID: "2c7c:0125", Maker: "Quectel", Err: modem.ErrUnauthorized},
		{Path: "1-1.6", ID: "2c7c:0125", Maker: "Quectel", Err: held("x402-agent")},
		{Path: "0000:01:00.0", ID: "17cb:0306", Err: errors.Join(modem.ErrTimeout)},
	} {
		lines = append(lines, lineOf(m))
	}
	out := renderModems(lines)
	for _, want := range []string{
		"490154203237518  1-1.1         Quectel    /dev/ttyUSB2",
		"1-1.2            1-1.2         Huawei     -",
		"0000:01:00.0     0000:01:00.0  17cb:0306  -",
		"1-1.6            1-1.6         Quectel    /dev/ttyUSB2 (the agent's)",
		"1-1.2: no AT port",
		"1-1.3: /dev/ttyUSB2 is in use by pppd, process 812\n    do: stop what uses the port",
		"1-1.4: /dev/ttyUSB2 is in use by ModemManager",
		"do: echo 1 > /sys/bus/usb/devices/1-1.5/authorized",
		"do: wait half a minute",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if manager := lines[3]; asksModemManager != (manager.Through == throughManager) || asksModemManager == strings.Contains(manager.Do, "no D-Bus") {
		t.Errorf("%+v", manager)
	}
	if out := renderModems(nil); !strings.HasPrefix(out, "no modem") {
		t.Errorf("nothing: %s", out)
	}
}
