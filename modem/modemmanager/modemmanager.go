// Package modemmanager reads the modems that ModemManager owns, over D-Bus: who
// the SIM is and what the network says, in the words of package modem.
//
//	modems, err := modemmanager.Read(ctx, modemmanager.Config{})
//
// Where ModemManager has a modem's ports nobody else should use them, so this is
// the way there; modem.Find says where (a modem.HeldError). It only reads,
// starts nothing and needs no rights that every user of the system bus does not
// have. Router builds do not have it.
//
// The interface is that of ModemManager 1.6 and later,
// https://www.freedesktop.org/software/ModemManager/api/latest/.
package modemmanager

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/depinsim/x402/modem"
)

// ErrAbsent says that ModemManager does not run.
var ErrAbsent = errors.New("ModemManager is not on the bus")

// Config says where the bus is.
type Config struct {
	// Address is the bus, in the form of the D-Bus specification. Empty: the
	// system's.
	Address string
}

// readTime bounds a whole Read.
const readTime = 10 * time.Second

// A Modem is one that ModemManager has, as it stands now.
type Modem struct {
	Object string // its path on the bus
	// Path is where it is plugged in, as modem.Found has it.
	Path string
	// Port is the one that ModemManager talks on, Nets are the network
	// interfaces, without /dev.
	Port string
	Nets []string
	// Identity is that of card and modem, the zero IMSI without a ready card.
	Identity modem.Identity
	// Status has no power but RSSI, which comes from ModemManager's per cent.
	Status modem.Status
	State  string // ModemManager's own word, such as "connected"
}

const (
	service    = "org.freedesktop.ModemManager1"
	root       = "/org/freedesktop/ModemManager1"
	modemIface = service + ".Modem"
	radioIface = modemIface + ".Modem3gpp"
	simIface   = service + ".Sim"
)

// properties are those of one interface, by their names.
type properties = map[string]dbus.Variant

// Read asks ModemManager for all its modems, ordered by where they are. It
// returns ErrAbsent when ModemManager does not run, and takes 10 s at most.
func Read(ctx context.Context, cfg Config) ([]Modem, error) {
	modems, err := read(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("modemmanager: %w", err)
	}
	return modems, nil
}

func read(ctx context.Context, cfg Config) (modems []Modem, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	connect := dbus.ConnectSystemBus
	if cfg.Address != "" {
		connect = func(opts ...dbus.ConnOption) (*dbus.Conn, error) { return dbus.Connect(cfg.Address, opts...) }
	}
	conn, err := connect(dbus.WithContext(ctx))
	if err != nil {
		return nil, inTime(ctx, err)
	}
	defer conn.Close()
	var objects map[dbus.ObjectPath]map[string]properties
	if err := call(ctx, conn.Object(service, root), &objects, "org.freedesktop.DBus.ObjectManager.GetManagedObjects"); err != nil {
		return nil, err
	}
	for _, object := range slices.Sorted(maps.Keys(objects)) {
		all := objects[object]
		if all[modemIface] == nil {
			continue
		}
		m := fromProperties(all[modemIface], all[radioIface])
		m.Object = string(object)
		if sim, ok := value[dbus.ObjectPath](all[modemIface], "Sim"); ok && len(sim) > 1 {
			var card properties
			if err := call(ctx, conn.Object(service, sim), &card, "org.freedesktop.DBus.Properties.GetAll", simIface); err != nil {
				return nil, err
			}
			m.takeCard(card)
		}
		modems = append(modems, m)
	}
	slices.SortStableFunc(modems, func(a, b Modem) int { return strings.Compare(a.Path, b.Path) })
	return modems, nil
}

// call calls a method without starting who has it.
func call(ctx context.Context, object dbus.BusObject, result any, method string, args ...any) error {
	err := object.CallWithContext(ctx, method, dbus.FlagNoAutoStart, args...).Store(result)
	if err == nil {
		return nil
	}
	var said dbus.Error
	if errors.As(err, &said) {
		switch said.Name {
		case "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner":
			return ErrAbsent
		}
		return errors.New(path.Base(method) + ": " + said.Name) // its text may hold what it was asked for
	}
	return inTime(ctx, err)
}

// inTime calls the end of a connection by our own clock what it is.
func inTime(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// value is a property of the type that it has to have; false for any other.
func value[T any](p properties, name string) (T, bool) {
	v, ok := p[name].Value().(T)
	return v, ok
}

// text is a property that is shown: short and printable.
func text(p properties, name string) string {
	s, _ := value[string](p, name)
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s[:min(len(s), 128)], ""))
}

// fromProperties reads a modem without its card.
func fromProperties(p, radio properties) (m Modem) {
	if device := text(p, "Device"); device != "" {
		m.Path = path.Base(device)
	}
	m.Port = text(p, "PrimaryPort")
	m.Nets = nets(p)
	m.Identity = modem.Identity{
		IMEI: text(p, "EquipmentIdentifier"), Maker: text(p, "Manufacturer"), Model: text(p, "Model"), Revision: text(p, "Revision"),
	}
	state, _ := value[int32](p, "State")
	m.State = stateName(state)
	m.Status.SIM = simState(p, state)
	m.Status.Signal.RSSI = rssi(p)
	if m.Status.SIM != modem.SIMReady {
		return m
	}
	stat, _ := value[uint32](radio, "RegistrationState")
	m.Status.Registration = registration(stat)
	m.Status.Roaming = m.Status.Registration == modem.Roaming
	if !m.Status.Registration.Registered() {
		return m
	}
	m.Status.Operator.Name = text(radio, "OperatorName")
	if code := text(radio, "OperatorCode"); isPLMN(code) {
		m.Status.Operator.MCC, m.Status.Operator.MNC = code[:3], code[3:]
	}
	access, _ := value[uint32](p, "AccessTechnologies")
	m.Status.Technology = technology(access)
	return m
}

// takeCard reads the card: its operator's code says how long the network code in
// the IMSI is. A number that does not begin with it is taken by its own.
func (m *Modem) takeCard(card properties) {
	m.Identity.ICCID = text(card, "SimIdentifier")
	digits, _ := value[string](card, "Imsi")
	operator := text(card, "OperatorIdentifier")
	length := 2
	if isPLMN(operator) && strings.HasPrefix(digits, operator) {
		length = len(operator) - 3
	} else if guess, ok := modem.MNCLength(digits); ok {
		length = guess
	}
	if imsi, err := modem.ParseIMSI(digits, length); err == nil {
		m.Identity.IMSI = imsi
	}
}

func isPLMN(s string) bool {
	return (len(s) == 5 || len(s) == 6) && strings.Trim(s, "0123456789") == ""
}

// portNet is MM_MODEM_PORT_TYPE_NET.
const portNet = 2

// nets are the network interfaces among the ports, a(su).
func nets(p properties) (names []string) {
	ports, _ := value[[][]any](p, "Ports")
	for _, port := range ports {
		if len(port) != 2 || len(names) == 16 {
			continue
		}
		name, ok := port[0].(string)
		kind, ok2 := port[1].(uint32)
		if ok && ok2 && kind == portNet && name != "" && !strings.Contains(name, "/") {
			names = append(names, name)
		}
	}
	return names
}

// rssi turns ModemManager's per cent back into what it makes them of: 0 at -113
// dBm and 100 at -51. No per cent is nothing known.
func rssi(p properties) int {
	quality, _ := value[[]any](p, "SignalQuality")
	if len(quality) != 2 {
		return 0
	}
	percent, ok := quality[0].(uint32)
	if !ok || percent == 0 || percent > 100 {
		return 0
	}
	return -113 + int(percent)*62/100
}
