// Package modemtest plays a cellular modem: it answers AT commands as the modems
// of eight makers do, with their dialects and their faults, on a
// pseudo-terminal or on a pipe.
//
//	sim, err := modemtest.New(modemtest.Config{Profile: modemtest.Huawei, PIN: "1234"})
//	go sim.Run(ctx)                                             // in a WaitGroup
//	m, err := modem.Open(ctx, modem.Config{Open: sim.Dial})     // over a net.Pipe
//	sim.Unplug()                                                // and so on
//
// Dial needs no terminal, so that tests with simulated time can use it; RunPTY
// serves a real one. The modem can be changed from any goroutine while it runs.
package modemtest

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// ErrUnplugged is what Serve and Dial return while the modem is unplugged.
var ErrUnplugged = errors.New("modem unplugged")

// An Operator is a network with its PLMN: MCC and MNC, 5 or 6 digits.
type Operator struct {
	Name string
	PLMN string
}

// A Card is what a SIM holds. Zero fields are those of a card of the test
// network 001 01.
type Card struct {
	IMSI  string
	ICCID string // 18 to 20 digits
	PIN   string // "" for a card that asks for none
	Tries int    // for the PIN, 3 when zero, none when negative
	// MNCLength is what EF_AD says, 2 when zero; negative for a card that does
	// not say.
	MNCLength int
}

// Config is a modem at the moment when it is plugged in.
type Config struct {
	Profile string // Quectel when empty
	Card
	NoSIM    bool
	IMEI     string   // a test device's when empty
	Operator Operator // the network in use, Test 00101 when zero
	// Registration is the <stat> of 3GPP TS 27.007 clause 7.2: 1 is home and the
	// default, 5 roaming; negative for 0.
	Registration int
	// Technology is the <AcT> of the same clause: 7 is LTE and the default;
	// negative for a modem that does not say.
	Technology int
	// RSSI and RSRP are in dBm, -71 and -95 when zero.
	RSSI, RSRP int
	// Attach is how long the modem looks for its network after its radio was
	// switched on or it was told to register.
	Attach time.Duration
	// Sticky is how long the modem has to be away from the network to get
	// another address there; negative: it always gets the same.
	Sticky time.Duration
	// Leased is called when the network gives another address, before the modem
	// says that it is back. It must not call the modem.
	Leased func()
	// USSD has the answers to codes, as they follow "+CUSD: ". One that is
	// empty never comes; codes that are not here are not supported.
	USSD   map[string]string
	Faults Faults
}

// Faults are what real modems do wrong. Set them with Break.
type Faults struct {
	// Delay comes before each answer, Slow before those of single commands, by
	// their text after "AT".
	Delay time.Duration
	Slow  map[string]time.Duration
	// Answers replaces whole answers: text after "AT" to the lines, final one
	// included; no lines for silence.
	Answers map[string][]string
	// URCs are sent in turn, one in the middle of each answer.
	URCs []string
	// BusyFor is how long after power-on the card is busy, or has failed when
	// FailsFirst is set.
	BusyFor    time.Duration
	FailsFirst bool
	// StickyEcho: ATE0 is taken and ignored. ExtraCR: lines end in \r\r\n while
	// echo is on, as with some Huawei firmware. Numeric: results are digits until
	// ATV1, as a program before may have left it.
	StickyEcho, ExtraCR, Numeric bool
	// UCS2: the alphabet is UCS2 until AT+CSCS, as ModemManager leaves it.
	UCS2 bool
	// TextErrors: +CME ERROR in words whatever +CMEE says. PlainErrors: no
	// +CMEE, every error is ERROR.
	TextErrors, PlainErrors bool
	// Extra is one more final line after each answer, such as ERROR.
	Extra string
	// Garbage is sent before each answer.
	Garbage string
	// Halves: an answer is cut in two, with a pause of this length between.
	Halves time.Duration
	// TwoStep: AT+CRSM says how much there is, and GET RESPONSE fetches it.
	TwoStep bool
	// NoTries: the modem does not know how many tries a PIN has left. NoICCID:
	// it does not tell the card's number while the card is locked.
	NoTries, NoICCID bool
	// Hang: the modem takes no byte any more, so that writes block.
	Hang bool
	// Boot is how long after power-on the modem answers nothing; then it says
	// that it is there. Away is how long its port is gone when it restarts.
	Boot, Away time.Duration
	// Torn: of so many answers one stops in its middle for good.
	Torn int
	// Late are commands, without "AT", that say OK at once and the rest in the
	// middle of the next answer.
	Late []string
	// Vanish is a command, without "AT", at which the modem restarts.
	Vanish string
	// Forgets: settings are taken and not kept.
	Forgets bool
	// Deaf: radio commands are taken and have no effect until a restart.
	Deaf bool
}

// A Modem is one scripted modem.
type Modem struct {
	dials chan net.Conn // from Dial to Run; blocks until Run takes it

	mu      sync.Mutex
	cfg     Config
	plugged bool
	away    time.Time     // until then it is unplugged all the same: it restarts
	changed chan struct{} // closed and replaced when plugged, away or Hang changes
	said    chan string   // what it says on its own; dropped when full
	state
}

// state is what a power cycle resets.
type state struct {
	since    time.Time // power-on
	echo     bool
	verbose  bool // results in words
	cmee     int
	byNumber bool // format of AT+COPS?
	unlocked bool
	held     string // what GET RESPONSE would fetch
	urc      int    // the next of Faults.URCs
	answers  int    // for Faults.Torn
	late     string // what Faults.Late holds back
	greeted  bool   // has said that it is there, after Faults.Boot

	unlockedCommands bool // Sierra
	ucs2             bool // by AT+CSCS
	off              bool // radio, by AT+CFUN=4
	left             bool // the network, by AT+COPS=2
	attached         time.Time
	released         time.Time // when the address was given back; zero while it has one
	prompting        bool      // a short message follows

	flash
}

// flash is what survives a power cycle.
type flash struct {
	attempts int
	restarts int
	address  int // counts the addresses that the network has given
	settings map[string]string
	inbox    []string // PDUs by index, "" for none
	seen     []bool   // listed before
	sent     []string // PDUs
}

// New makes a plugged-in modem. Errors name the field.
func New(cfg Config) (*Modem, error) {
	cfg = withDefaults(cfg)
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	m := &Modem{dials: make(chan net.Conn), cfg: cfg, plugged: true, changed: make(chan struct{}), said: make(chan string, 16)}
	m.settings = maps.Clone(m.dialect().settings)
	m.powerOn()
	return m, nil
}

func withDefaults(c Config) Config {
	def := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	num := func(n *int, value int) {
		if *n == 0 {
			*n = value
		}
	}
	def(&c.Profile, Quectel)
	def(&c.IMEI, "490154203237518") // 3GPP's own example
	def(&c.Operator.Name, "Test")
	def(&c.Operator.PLMN, "00101")
	c.Card = c.Card.withDefaults()
	num(&c.Registration, 1)
	num(&c.Technology, 7)
	num(&c.RSSI, -71)
	num(&c.RSRP, -95)
	c.Registration = max(c.Registration, 0)
	return c
}

func (c Card) withDefaults() Card {
	if c.IMSI == "" {
		c.IMSI = "001010123456789"
	}
	if c.ICCID == "" {
		c.ICCID = "8988211000000000011"
	}
	if c.Tries == 0 {
		c.Tries = 3
	}
	c.Tries = max(c.Tries, 0)
	if c.MNCLength == 0 {
		c.MNCLength = 2
	}
	return c
}

func (c Config) validate() error {
	if err := c.Card.validate(); err != nil {
		return err
	}
	switch {
	case !slices.Contains(Profiles(), c.Profile):
		return fmt.Errorf("profile: %q is none of %s", c.Profile, strings.Join(Profiles(), ", "))
	case !digits(c.IMEI, 14, 16):
		return errors.New("imei: want 14 to 16 digits")
	case !digits(c.Operator.PLMN, 5, 6):
		return errors.New("plmn: want 5 or 6 digits, MCC and MNC")
	case strings.ContainsAny(c.Operator.Name, "\"\r\n"):
		return errors.New("operator: no quotes and line ends")
	case c.Registration > 15:
		return errors.New("registration: want 0 to 15")
	case c.Faults.Delay < 0 || c.Faults.BusyFor < 0 || c.Faults.Halves < 0 || c.Faults.Boot < 0 || c.Faults.Away < 0 || c.Attach < 0:
		return errors.New("delay: must not be negative")
	}
	return nil
}

func (c Card) validate() error {
	switch {
	case !digits(c.IMSI, 6, 15):
		return errors.New("imsi: want 6 to 15 digits")
	case !digits(c.ICCID, 18, 20) || !strings.HasPrefix(c.ICCID, "89"):
		return errors.New("iccid: want 18 to 20 digits that begin with 89")
	case c.PIN != "" && !digits(c.PIN, 4, 8):
		return errors.New("pin: want 4 to 8 digits")
	case c.Tries > 10:
		return errors.New("tries: want at most 10")
	case c.MNCLength == 1 || c.MNCLength > 3:
		return errors.New("mnc length: want 2 or 3")
	}
	return nil
}

func digits(s string, shortest, longest int) bool {
	return len(s) >= shortest && len(s) <= longest && strings.Trim(s, "0123456789") == ""
}

// powerOn resets what a power cycle resets. The caller holds mu, or is New.
func (m *Modem) powerOn() {
	m.state = state{
		since:   time.Now(),
		echo:    true,
		verbose: !m.cfg.Faults.Numeric,
		ucs2:    m.cfg.Faults.UCS2 && m.cfg.Profile != Huawei,
		flash:   m.flash,
	}
	m.attached = m.since.Add(m.cfg.Faults.Boot)
}

// notify wakes up what waits for plugged or Hang. The caller holds mu.
func (m *Modem) notify() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// Unplug takes the modem out: its port vanishes.
func (m *Modem) Unplug() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.plugged = false
	m.notify()
}

// Replug puts the modem back in. Its card is locked again if it has a PIN.
func (m *Modem) Replug() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.plugged, m.away = true, time.Time{}
	m.powerOn()
	m.notify()
}

// restart takes the port away for a while. The caller holds mu.
func (m *Modem) restart() {
	m.restarts++
	m.away = time.Now().Add(max(m.cfg.Faults.Away, time.Second))
	m.powerOn()
	m.since = m.away
	m.attached = m.since.Add(m.cfg.Faults.Boot)
	m.notify()
}

// Restarts is how often the modem was told to restart.
func (m *Modem) Restarts() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.restarts
}

// Register changes the <stat> of the registration.
func (m *Modem) Register(stat int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cfg.Registration = stat
}

// Roam registers the modem with a foreign network.
func (m *Modem) Roam(abroad Operator) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cfg.Registration, m.cfg.Operator = 5, abroad
}

// SwapSIM puts another card in, or none for nil. The card starts as after
// power-on.
func (m *Modem) SwapSIM(card *Card) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if card != nil {
		c := card.withDefaults()
		if err := c.validate(); err != nil {
			return err
		}
		m.cfg.Card = c
	}
	m.cfg.NoSIM, m.unlocked, m.since = card == nil, false, time.Now()
	return nil
}

// Break changes the faults.
func (m *Modem) Break(change func(*Faults)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(&m.cfg.Faults)
	m.notify()
}

// PINAttempts is how often a PIN was sent to a card in this modem.
func (m *Modem) PINAttempts() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.attempts
}

// watch returns the condition of the port, and a channel that is closed when it
// changes.
func (m *Modem) watch() (plugged, hangs bool, changed <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.plugged && !time.Now().Before(m.away), m.cfg.Faults.Hang, m.changed
}
