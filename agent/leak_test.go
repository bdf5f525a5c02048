package agent_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unicode/utf16"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/directory"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/modem"
	"github.com/depinsim/x402/modem/modemtest"
	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/server"
)

// needles are the forms in which an IMSI could get out, by their names.
func needles(imsi string) map[string][]byte {
	forms := map[string][]byte{}
	straight := func(digits string) []byte {
		b, _ := hex.DecodeString(digits[:len(digits)&^1])
		return b
	}
	add := func(name string, b []byte) {
		forms[name] = b
		forms[name+" in hex"] = []byte(hex.EncodeToString(b))
		forms[name+" in HEX"] = []byte(strings.ToUpper(hex.EncodeToString(b)))
		for shift := range 3 { // where it is in what is encoded
			text := base64.StdEncoding.EncodeToString(append(make([]byte, shift), b...))
			first := (8*shift + 5) / 6
			text = text[first : 8*(shift+len(b))/6]
			forms[fmt.Sprintf("%s in base64, %d", name, shift)] = []byte(text)
			forms[fmt.Sprintf("%s in base64url, %d", name, shift)] = []byte(strings.NewReplacer("+", "-", "/", "_").Replace(text))
		}
		forms[name+" in base32"] = []byte(base32.StdEncoding.EncodeToString(b)[:8*len(b)/5])
	}
	whole := append([]byte{}, bcd("9"+imsi)...) // EF_IMSI: parity, then the digits
	add("EF_IMSI", whole)
	add("digits", []byte(imsi))
	add("the subscriber's digits", []byte(imsi[5:])) // behind MCC and MNC
	add("BCD", bcd(imsi))
	add("packed digits", straight("0"+imsi))
	add("number", binary.BigEndian.AppendUint64(nil, number(imsi)))
	add("number, little-endian", binary.LittleEndian.AppendUint64(nil, number(imsi)))
	forms["UTF-16"] = wide(imsi)
	forms["spaced"] = []byte(strings.Join(strings.Split(imsi, ""), " "))
	forms["hexadecimal number"] = fmt.Appendf(nil, "%x", number(imsi))
	forms["backwards"] = backwards(imsi)
	md, sha, sha2, keccak := md5.Sum([]byte(imsi)), sha1.Sum([]byte(imsi)), sha256.Sum256([]byte(imsi)), channel.Keccak256([]byte(imsi))
	for name, sum := range map[string][]byte{"MD5": md[:], "SHA-1": sha[:], "SHA-256": sha2[:], "Keccak": keccak[:]} {
		add(name, sum[:8])
	}
	return forms
}

func number(digits string) (n uint64) {
	for _, d := range digits {
		n = 10*n + uint64(d-'0')
	}
	return n
}

func backwards(s string) []byte {
	b := []byte(s)
	for i := range len(b) / 2 {
		b[i], b[len(b)-1-i] = b[len(b)-1-i], b[i]
	}
	return b
}

// leaks names the forms of an IMSI that are in b.
func leaks(imsi string, b []byte) (found []string) {
	for name, form := range needles(imsi) {
		if bytes.Contains(b, form) {
			found = append(found, name)
		}
	}
	return found
}

// A capture holds all that went by, by where.
type capture struct {
	mu sync.Mutex
	by map[string]*bytes.Buffer
}

// to returns what writes to a stream.
func (c *capture) to(name string) io.Writer {
	return writerFunc(func(b []byte) (int, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.by[name] == nil {
			c.by[name] = new(bytes.Buffer)
		}
		return c.by[name].Write(b)
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func (c *capture) text(name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by[name] == nil {
		return ""
	}
	return c.by[name].String()
}

// search reports every form of each IMSI in every stream.
func (c *capture) search(t *testing.T, imsis ...string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, b := range c.by {
		t.Logf("%s: %d bytes", name, b.Len())
		for _, imsi := range imsis {
			for _, form := range leaks(imsi, b.Bytes()) {
				t.Errorf("%s holds the IMSI %s as %s", name, imsi, form)
			}
		}
	}
}

// A tappedSocket copies every packet, in both directions.
type tappedSocket struct {
	net.PacketConn
	tap io.Writer
}

func (s tappedSocket) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := s.PacketConn.ReadFrom(b)
	_, _ = s.tap.Write(b[:n])
	return n, from, err
}

func (s tappedSocket) WriteTo(b []byte, to net.Addr) (int, error) {
	_, _ = s.tap.Write(b)
	return s.PacketConn.WriteTo(b, to)
}

// tapTCP passes connections on to an address and copies what goes by. It
// returns its own address.
func tapTCP(t *testing.T, to string, tap io.Writer) string {
	t.Helper()
	ln := listen(t)
	var wg sync.WaitGroup
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				near.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
				wg.Go(func() {
					_, _ = io.Copy(way[1], io.TeeReader(way[0], tap))
					way[0].Close()
					way[1].Close()
				})
			}
		}
	})
	return ln.Addr().String()
}

// TestLeaksAreFound: each form is found wherever it stands.
func TestLeaksAreFound(t *testing.T) {
	const imsi = "262019876543217"
	for name, form := range needles(imsi) {
		b := append(append([]byte("before"), form...), "after"...)
		if len(form) < 7 || len(leaks(imsi, b)) == 0 {
			t.Errorf("%s, %q, is not found", name, form)
		}
	}
	for _, text := range []string{
		`{"imsi":"262019876543217"}`, "msin=9876543217", base64.StdEncoding.EncodeToString([]byte(`"262019876543217"`)),
		base64.RawURLEncoding.EncodeToString([]byte("x=262019876543217;")), "+CRSM: 144,0,\"082926108967452371\"", "08292610896745237" + "1",
		hex.EncodeToString([]byte("262019876543217")),
	} {
		if len(leaks(imsi, []byte(text))) == 0 {
			t.Errorf("not found in %s", text)
		}
	}
	for _, text := range []string{"26201", "imsi(redacted)", "mcc=262 mnc=01", strings.Repeat("0123456789", 100)} {
		if found := leaks(imsi, []byte(text)); found != nil {
			t.Errorf("%s: found as %v", text, found)
		}
	}
}

// A spy keeps what agents publish at a relay, as the relay reads it.
type spy struct {
	*directory.Directory
	tap io.Writer
}

func (s *spy) Publish(who [20]byte, from netip.Addr, offer []byte) error {
	_, _ = s.tap.Write(append(offer, '\n'))
	return s.Directory.Publish(who, from, offer)
}

// spiedRelay is a relay whose operator writes down all that it can see.
func spiedRelay(t *testing.T, c *capture, log *slog.Logger) relay.Name {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := server.SelfSigned(key)
	if err != nil {
		t.Fatal(err)
	}
	pin, err := server.Pin(cert)
	if err != nil {
		t.Fatal(err)
	}
	here, index := netip.MustParseAddr("127.0.0.1"), &spy{tap: c.to("the relay's index")}
	s, err := server.Listen(t.Context(), server.Config{
		Listen: netip.AddrPortFrom(here, 0), Public: []netip.Addr{here}, Certificate: cert, Directory: index, Logger: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	name := relay.Name{Host: here.String(), Port: s.Port(), Pin: pin, Pinned: true}
	index.Directory = directory.New(directory.Options{Name: name}) // before anybody comes
	r := start(s.Run)
	t.Cleanup(func() { r.stop(t) })
	return name
}

// TestIMSIStays runs an agent with all that it has, a modem with faults among
// it, and finds the numbers of its SIMs in nothing that leaves it, or that it
// leaves behind.
func TestIMSIStays(t *testing.T) {
	t.Parallel()
	const first, second = "262019876543217", "262027654321098"
	c := &capture{by: map[string]*bytes.Buffer{}}
	log := slog.New(slog.NewJSONHandler(c.to("logs"), &slog.HandlerOptions{Level: slog.LevelDebug}))
	hub := spiedRelay(t, c, log.With("side", "relay"))
	words := map[string]string{"*100#": `0,"IMSI 262-01 9876 543217",15`, "*101#": `0,"IMSI ` + first + `",15`}
	m, sim := withModem(t, modemtest.Config{USSD: words, Card: modemtest.Card{IMSI: first, ICCID: "8926201" + first[5:] + "08", PIN: "4711"}, Faults: modemtest.Faults{
		URCs: []string{"+CREG: 1", "^RSSI:17", "^IMSI:" + first, `+CUSD: 0,"` + first + `",15`},
	}}, func(cfg *seller.Config) {
		alsoTCP(t, cfg)
		cfg.Logger = log.With("side", "agent")
		cfg.Modem.Logger, cfg.Modem.PINGuard, cfg.Modem.PIN = cfg.Logger, filepath.Join(cfg.StateDir, "pins"), must(modem.ParsePIN("4711"))
		tapped := cfg.Socket
		cfg.Socket = func(ctx context.Context, listen string) (net.PacketConn, error) {
			socket, err := tapped(ctx, listen)
			return tappedSocket{socket, c.to("UDP")}, err
		}
		cfg.Payment.Facilitator = "http://" + tapTCP(t, strings.TrimPrefix(cfg.Payment.Facilitator, "http://"), c.to("HTTP to the facilitator"))
		cfg.Relays = []relay.Name{hub}
		cfg.Endpoints = []string{cfg.Listen}
		cfg.KCP = true
	})
	control := seller.DialControl(m.cfg.ControlPath())
	ask := func(commands ...string) (st seller.Status) {
		for _, command := range append(commands, "status") {
			var raw json.RawMessage
			err := control.Get(t.Context(), command, &raw)
			fmt.Fprintln(c.to("control socket"), string(raw))
			if err != nil && command != first { // which repeats what it was sent
				fmt.Fprintln(c.to("control socket"), err)
			}
			if command == "status" && err == nil {
				if err := json.Unmarshal(raw, &st); err != nil {
					t.Fatal(err)
				}
			}
		}
		return st
	}
	ussd := []string{"ussd code=%2A100%23", "ussd code=%2A101%23"}
	all := append(ussd, "sessions", "earnings", "sim", "settle", "signal", "sms-list", "no such", first)
	deliver := func(imsi string) {
		sim.Deliver(received(8, wide("Your IMSI is "+imsi)), received(4, []byte("IMSI="+imsi)), received(4, bcd("9"+imsi)), received(8, wide("another")))
	}
	deliver(first)
	until(t, "for the SIM", func() bool { st := ask(); return st.Modem != nil && st.Refusing == "" })

	site := web(t)
	for _, way := range []string{buyer.QUIC, buyer.TLS, buyer.KCP} { // by its address, and by the relay
		p := m.buy(func(b *buyer.Config) {
			b.Reach = buyer.ReachConfig{Transport: way}
			if way == buyer.QUIC {
				b.Offer.Endpoints = nil
			}
			b.Logger = log.With("side", "buyer")
		})
		fetch(t, p.through(), site.URL+"/300000", 300_000)
		upload(t, p.through(), site.URL+"/", 100_000)
		ask(all...)
		p.stop(t)
	}
	// A buyer made by hand sees what the agent says, capsule by capsule.
	cheat := newCheat(m, 200_000)
	cheat.connect(nil)
	cheat.terms()

	sim.Break(func(f *modemtest.Faults) {
		f.Answers = map[string][]string{
			"+CGMI": {first, "OK"}, "+CGMM": {"MODEL " + first, "OK"}, "+COPS?": {`+COPS: 0,0,"` + first + `",7`, "OK"},
			"+CSQ": {"+CME ERROR: IMSI " + first + " rejected"}, "+CCID": {first, "OK"},
		}
	})
	unplug(t, sim, control, nil)
	until(t, "for the modem", func() bool { return ask().Modem.Error != modem.ErrGone.Error() })
	sim.Break(func(f *modemtest.Faults) { f.Answers = nil })
	unplug(t, sim, control, &modemtest.Card{IMSI: second, ICCID: "8949020000000000026"})
	until(t, "for the other SIM", func() bool { return ask().Modem.Withheld })
	n := cheat.notice()
	if n.Code != agent.NoticeSwapped {
		t.Errorf("%+v", n)
	}
	fmt.Fprintln(c.to("capsules"), n.Code, n.Text)
	cheat.conn.Close(0, "")
	for capsule := range cheat.in {
		_, _ = c.to("capsules").Write(capsule.Value)
	}
	ask(all...)
	card, err := control.AcceptSIM(t.Context(), "")
	fmt.Fprintf(c.to("control socket"), "%+v %v\n", card, err)
	deliver(second)
	ask(all...)
	sim.Roam(modemtest.Operator{Name: "Abroad", PLMN: "20801"})
	unplug(t, sim, control, nil)
	until(t, "for the SIM abroad", func() bool { st := ask(); return st.Modem.Roaming && st.Refusing == "" })
	ask(all...)
	ask("mode", "bands", "airplane for=on", "airplane for=off", "sms-delete ids=0")
	until(t, "for the radio", func() bool { return ask().Refusing == "" })
	b := must(json.Marshal(m.offer()))
	_, _ = c.to("capsules").Write(b)
	m.agent.stop(t)
	files(t, c, m.dir)

	c.search(t, first, second)
	for name, want := range map[string]string{ // what was captured is what there was
		"logs": `"mcc":"262"`, "control socket": `"mnc":"02"`, "control socket ": `"text":"Your IMSI is 26202imsi(redacted)"`, " control socket": `"text":"another"`,
		"control  socket": `"text":"IMSI 262-01 imsi(redacted)"`, "the relay's index": `"operator"`, "HTTP to the facilitator": "batch-settlement", "capsules": "sim_changed",
		"UDP": "\x00", "files": card.Fingerprint,
	} {
		name = strings.Join(strings.Fields(name), " ") // a stream may be named several times
		if !strings.Contains(c.text(name), want) {
			t.Errorf("%s were not captured: no %q in %d bytes", name, want, len(c.text(name)))
		}
	}
}

// received is a short message of a coding (3GPP TS 23.040 clause 9.2.2.1), in hex.
func received(coding byte, data []byte) string {
	return fmt.Sprintf("0791947101670000040C9194711732059600%02X42118251325180%02X%X", coding, len(data), data)
}

// wide is a text in UCS2, bcd are digits in half octets, the first one lower.
func wide(text string) (b []byte) {
	for _, c := range utf16.Encode([]rune(text)) {
		b = binary.BigEndian.AppendUint16(b, c)
	}
	return b
}

func bcd(digits string) (b []byte) {
	for i := 0; i+1 < len(digits); i += 2 {
		b = append(b, digits[i]-'0'|(digits[i+1]-'0')<<4)
	}
	return b
}

// unplug takes the modem out, changes the card and plugs it in again.
func unplug(t *testing.T, sim *modemtest.Modem, control *seller.Control, card *modemtest.Card) {
	t.Helper()
	sim.Unplug()
	until(t, "for the modem to be missed", func() bool {
		var st seller.Status
		return control.Get(t.Context(), "status", &st) == nil && st.Modem.Error != ""
	})
	if card != nil {
		if err := sim.SwapSIM(card); err != nil {
			t.Fatal(err)
		}
	}
	sim.Replug()
}

// files reads all that is below a folder, names too.
func files(t *testing.T, c *capture, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		fmt.Fprintf(c.to("files"), "%s\n%s\n", path, b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
