package modemmanager

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/depinsim/x402/modem"
)

// bus starts a message bus of its own and returns its address.
func bus(t *testing.T) string {
	t.Helper()
	daemon, err := exec.LookPath("dbus-daemon")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("dbus-daemon is missing: apt-get install dbus-daemon")
		}
		t.Skip("dbus-daemon is missing: apt-get install dbus-daemon")
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "bus.conf")
	if err := os.WriteFile(config, []byte(`<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:dir=`+dir+`</listen>
  <auth>EXTERNAL</auth>
  <policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy>
</busconfig>
`), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(daemon, "--config-file="+config, "--nofork", "--print-address")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(address)
}

// A manager plays ModemManager on a bus.
type manager struct {
	objects map[dbus.ObjectPath]map[string]properties
	cards   map[dbus.ObjectPath]properties
	hangs   chan struct{} // when there is one, GetManagedObjects waits for it to be closed
}

// GetManagedObjects is that of org.freedesktop.DBus.ObjectManager.
func (m *manager) GetManagedObjects() (map[dbus.ObjectPath]map[string]properties, *dbus.Error) {
	if m.hangs != nil {
		<-m.hangs
	}
	return m.objects, nil
}

// A card answers org.freedesktop.DBus.Properties for one SIM.
type card properties

// GetAll is the one method that is used.
func (c card) GetAll(iface string) (map[string]dbus.Variant, *dbus.Error) {
	if iface != simIface {
		return nil, dbus.NewError("org.freedesktop.DBus.Error.UnknownInterface", []any{"no " + iface})
	}
	return c, nil
}

// serve puts the manager on the bus.
func (m *manager) serve(t *testing.T, address string) {
	t.Helper()
	conn, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.Export(m, root, "org.freedesktop.DBus.ObjectManager"); err != nil {
		t.Fatal(err)
	}
	for path, c := range m.cards {
		if err := conn.Export(card(c), path, "org.freedesktop.DBus.Properties"); err != nil {
			t.Fatal(err)
		}
	}
	if reply, err := conn.RequestName(service, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("%v, %v", reply, err)
	}
}

func variants(p map[string]any) properties {
	out := properties{}
	for name, v := range p {
		out[name] = dbus.MakeVariant(v)
	}
	return out
}

type port struct {
	Name string
	Kind uint32
}

type quality struct {
	Percent uint32
	Recent  bool
}

const imsi = "310260123456789"

// quectel is a modem as ModemManager 1.20 shows it, connected and roaming.
func quectel() *manager {
	return &manager{
		objects: map[dbus.ObjectPath]map[string]properties{
			root + "/Modem/0": {
				modemIface: variants(map[string]any{
					"Sim": dbus.ObjectPath(root + "/SIM/0"), "Manufacturer": "Quectel", "Model": "EC25", "Revision": "EC25EFAR06A06M4G",
					"EquipmentIdentifier": "490154203237518", "Device": "/sys/devices/platform/soc/usb1/1-1/1-1.2", "PrimaryPort": "cdc-wdm0",
					"Ports": []port{{"cdc-wdm0", 6}, {"ttyUSB2", 3}, {"wwan0", 2}}, "State": int32(11), "StateFailedReason": uint32(0),
					"UnlockRequired": uint32(1), "AccessTechnologies": uint32(1 << 14), "SignalQuality": quality{67, true},
				}),
				radioIface: variants(map[string]any{
					"Imei": "490154203237518", "RegistrationState": uint32(5), "OperatorCode": "26202", "OperatorName": "Vodafone.de",
				}),
			},
			root + "/Bearer/1": {service + ".Bearer": variants(map[string]any{"Connected": true})},
		},
		cards: map[dbus.ObjectPath]properties{
			root + "/SIM/0": variants(map[string]any{
				"SimIdentifier": "8901260123456789012", "Imsi": imsi, "OperatorIdentifier": "310260", "OperatorName": "T-Mobile",
			}),
		},
	}
}

func TestRead(t *testing.T) {
	address := bus(t)
	if _, err := Read(t.Context(), Config{Address: address}); !errors.Is(err, ErrAbsent) {
		t.Errorf("nobody there: %v", err)
	}
	mm := quectel()
	mm.objects[root+"/Modem/1"] = map[string]properties{modemIface: variants(map[string]any{
		"Sim": dbus.ObjectPath("/"), "State": int32(-1), "StateFailedReason": uint32(2), "Device": "/sys/devices/platform/soc/usb1/1-1/1-1.1",
	})}
	mm.serve(t, address)
	modems, err := Read(t.Context(), Config{Address: address})
	if err != nil || len(modems) != 2 {
		t.Fatalf("%+v, %v", modems, err)
	}
	if none := modems[0]; none.Path != "1-1.1" || none.Status.SIM != modem.SIMAbsent || none.State != "failed" || !none.Identity.IMSI.IsZero() {
		t.Errorf("%+v", none)
	}
	m := modems[1]
	if m.Path != "1-1.2" || m.Port != "cdc-wdm0" || !slices.Equal(m.Nets, []string{"wwan0"}) || m.State != "connected" {
		t.Errorf("%+v", m)
	}
	id := m.Identity
	if id.IMSI.Digits() != imsi || id.IMSI.MNC() != "260" || id.ICCID != "8901260123456789012" || id.IMEI != "490154203237518" || id.Maker+" "+id.Model != "Quectel EC25" || id.Revision == "" {
		t.Errorf("%+v", id)
	}
	want := modem.Status{
		SIM: modem.SIMReady, Operator: modem.Operator{Name: "Vodafone.de", MCC: "262", MNC: "02"},
		Registration: modem.Roaming, Roaming: true, Technology: modem.LTE, Signal: modem.Signal{RSSI: -72},
	}
	if m.Status != want {
		t.Errorf("got  %+v\nwant %+v", m.Status, want)
	}
	if text := fmt.Sprintf("%+v", modems); strings.Contains(text, imsi) {
		t.Error("the IMSI prints")
	}
}

// TestReadStrange has properties be missing, of wrong types, and out of range.
func TestReadStrange(t *testing.T) {
	address := bus(t)
	mm := &manager{
		objects: map[dbus.ObjectPath]map[string]properties{
			root + "/Modem/0": {modemIface: variants(map[string]any{
				"Sim": "not a path", "State": "eleven", "SignalQuality": uint32(5), "Ports": "x", "Device": int32(4), "Model": []byte{1}, "AccessTechnologies": "lte",
			})},
			root + "/Modem/1": {modemIface: {}, radioIface: {}},
			root + "/Modem/2": {modemIface: variants(map[string]any{
				"Sim": dbus.ObjectPath(root + "/SIM/9"), "State": int32(8), "SignalQuality": quality{4_000_000_000, false}, "Ports": []port{{"../../etc", 2}, {"", 2}},
				"Model": "EC\x1b[31m25" + strings.Repeat("x", 999),
			}), radioIface: variants(map[string]any{"RegistrationState": uint32(99), "OperatorCode": "26"})},
		},
		cards: map[dbus.ObjectPath]properties{root + "/SIM/9": variants(map[string]any{"Imsi": "12", "SimIdentifier": uint64(5), "OperatorIdentifier": "99"})},
	}
	mm.serve(t, address)
	modems, err := Read(t.Context(), Config{Address: address})
	if err != nil || len(modems) != 3 {
		t.Fatalf("%+v, %v", modems, err)
	}
	for _, m := range modems {
		if !m.Identity.IMSI.IsZero() || m.Status.Signal.RSSI != 0 || len(m.Nets) != 0 || strings.Contains(m.Identity.Model, "\x1b") || len(m.Identity.Model) > 128 || m.Status.Registration.Registered() {
			t.Errorf("%+v", m)
		}
	}
}

// TestReadNoCard has a card be named that is not there.
func TestReadNoCard(t *testing.T) {
	address := bus(t)
	mm := quectel()
	mm.cards = nil
	mm.serve(t, address)
	if _, err := Read(t.Context(), Config{Address: address}); err == nil || strings.Contains(err.Error(), imsi) {
		t.Error(err)
	}
}

// TestReadHangs has ModemManager not answer.
func TestReadHangs(t *testing.T) {
	address := bus(t)
	mm := quectel()
	mm.hangs = make(chan struct{})
	mm.serve(t, address)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := Read(ctx, Config{Address: address}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	close(mm.hangs)
	if _, err := Read(t.Context(), Config{Address: "unix:path=" + filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("no bus, no error")
	}
}

func TestStates(t *testing.T) {
	for _, test := range []struct {
		state        int32
		reason, lock uint32
		sim          dbus.ObjectPath
		want         modem.SIMState
	}{
		{11, 0, 1, "/a", modem.SIMReady}, {3, 0, 3, "/a", modem.SIMReady}, {3, 0, 1, "/", modem.SIMAbsent}, {1, 0, 0, "/a", modem.SIMBusy},
		{2, 0, 2, "/a", modem.SIMPIN}, {2, 0, 4, "/a", modem.SIMPUK}, {2, 0, 9, "/a", modem.SIMLocked}, {2, 0, 0, "/a", modem.SIMBusy},
		{-1, 2, 0, "/", modem.SIMAbsent}, {-1, 3, 0, "/a", modem.SIMFailed}, {-1, 4, 0, "/a", modem.SIMUnknown}, {-1, 5, 0, "/a", modem.SIMAbsent},
	} {
		p := variants(map[string]any{"Sim": test.sim, "StateFailedReason": test.reason, "UnlockRequired": test.lock})
		if got := simState(p, test.state); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
	for access, want := range map[uint32]modem.Technology{
		0: 0, 1 << 3: modem.GSM, 1<<3 | 1<<4: modem.EDGE, 1 << 5: modem.UMTS, 1<<5 | 1<<9: modem.HSPA, 1 << 14: modem.LTE, 1<<14 | 1<<15: modem.NRNSA,
		1 << 15: modem.NR, 1 << 17: modem.NBIoT,
	} {
		if got := technology(access); got != want {
			t.Errorf("%x: %v", access, got)
		}
	}
	for stat, want := range map[uint32]modem.Registration{0: 0, 1: modem.Home, 2: modem.Searching, 3: modem.Denied, 5: modem.Roaming, 8: modem.EmergencyOnly, 99: 0} {
		if got := registration(stat); got != want {
			t.Errorf("%d: %v", stat, got)
		}
	}
	for state, want := range map[int32]string{-1: "failed", 0: "unknown", 8: "registered", 11: "connected", 12: "state 12", -2: "state -2"} {
		if got := stateName(state); got != want {
			t.Errorf("%d: %s", state, got)
		}
	}
}

// TestMNC has the card's own operator decide, and the plans where it does not
// say.
func TestMNC(t *testing.T) {
	for _, test := range []struct{ imsi, operator, want string }{
		{"310260123456789", "310260", "260"}, {"310260123456789", "31026", "26"}, {"310260123456789", "", "260"}, {"262011234567890", "", "01"},
		{"262011234567890", "310260", "01"}, {"246813579", "24681", "81"}, {"12345", "", ""}, {"x62011234567890", "", ""},
	} {
		var m Modem
		m.takeCard(variants(map[string]any{"Imsi": test.imsi, "OperatorIdentifier": test.operator}))
		if got := m.Identity.IMSI.MNC(); got != test.want {
			t.Errorf("%s by %s: %q", test.imsi, test.operator, got)
		}
	}
}
