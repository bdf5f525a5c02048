package seller

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/depinsim/x402/modem"
)

// What the owner says to a modem. Short messages and the words of USSD are his
// alone: they pass the control socket and nothing else.

// MaxAirplane is the longest time for which the radio may be switched off.
const MaxAirplane = 30 * 24 * time.Hour

// A ModemChange is what came of a command that changes the modem: what it says
// of itself after it.
type ModemChange struct {
	Mode  string `json:"mode,omitempty"`  // the technologies that it may use
	Bands string `json:"bands,omitempty"` // the bands
	Port  string `json:"port,omitempty"`  // where it answers, after a restart
	Took  int64  `json:"took"`            // milliseconds
}

// SignalHistory is the radio of the last hours, the oldest sample first.
type SignalHistory struct {
	Samples []SignalSample `json:"samples"`
}

// A SignalSample is the radio at one moment.
type SignalSample struct {
	Age          int64        `json:"age"` // seconds
	Signal       modem.Signal `json:"signal"`
	Technology   string       `json:"technology"`
	Registration string       `json:"registration"`
}

// maxSamples are those of 12 hours, which take about 60 kB.
const maxSamples = int(12 * time.Hour / simEvery)

// A ShortMessage is one that came in.
type ShortMessage struct {
	ID      int       `json:"id"` // its place in the modem's store, or that of its first part
	From    string    `json:"from"`
	Time    time.Time `json:"time,omitzero"`
	Text    string    `json:"text"` // hex digits when Binary
	Binary  bool      `json:"binary,omitempty"`
	Missing int       `json:"missing,omitempty"` // parts that have not come
	Read    bool      `json:"read"`              // before
}

// A Sending is what came of short messages that were sent or deleted.
type Sending struct {
	Messages int `json:"messages"`
}

// A USSDAnswer is what the network says to a code.
type USSDAnswer struct {
	Text string `json:"text"`
	More bool   `json:"more"` // it waits for an answer, which is another code
}

// tellModem carries out a command about the modem.
func (l *line) tellModem(ctx context.Context, name string, args map[string]string) (any, error) {
	if l.cfg.Modem == nil || l.cfg.Retired {
		return nil, errNoModem
	}
	if err := l.failure(); err != nil {
		return nil, fmt.Errorf("the line does not run: %w", err)
	}
	if name == "signal" {
		return l.signals(), nil
	}
	v, err := l.obeyModem(ctx, name, args)
	if err != nil {
		return nil, advised(err)
	}
	return v, nil
}

// advised adds what to do about an error of the modem.
func advised(err error) error {
	do := modemAdvice(err)
	if _, unverified := errors.AsType[modem.UnverifiedError](err); unverified {
		do = "look in a minute whether it came about"
	} else if errors.Is(err, modem.ErrUnsupported) {
		do = "its maker's own program may know how"
	}
	if do == "" {
		return err
	}
	return fmt.Errorf("%w; %s", err, do)
}

var errWithheld = errors.New("another SIM is in the modem, and it is not yours to use until you say so: x402-agent sim accept")

// asks says whether a command only asks, or ends what another began: such are
// obeyed whatever SIM is in.
func asks(name string, args map[string]string) bool {
	switch name {
	case "airplane":
		return args["for"] == "" || args["for"] == "off"
	case "mode", "bands":
		return args["to"] == ""
	}
	return false
}

func (l *line) obeyModem(ctx context.Context, name string, args map[string]string) (any, error) {
	if l.sim.withheld() && !asks(name, args) {
		return nil, errWithheld
	}
	switch name {
	case "airplane":
		return l.airplane(ctx, args["for"])
	case "mode":
		return l.mode(ctx, args["to"])
	case "bands":
		return l.bands(ctx, args["to"])
	case "reset":
		began := time.Now()
		if err := l.restart(ctx); err != nil {
			return nil, err
		}
		return ModemChange{Port: l.sim.lastPort(), Took: since(began)}, nil
	}
	return l.converse(ctx, name, args)
}

func since(t time.Time) int64 { return time.Since(t).Milliseconds() }

// airplane switches the radio off or on, or says how it is.
func (s *Seller) airplane(ctx context.Context, how string) (st AirplaneStatus, err error) {
	switch how {
	case "":
	case "off":
		err = s.onRadio(ctx, s.land)
	case "on":
		err = s.onRadio(ctx, func(ctx context.Context) error { return s.takeOff(ctx, 0) })
	default:
		hold, perr := time.ParseDuration(how)
		if perr != nil || hold <= 0 || hold > MaxAirplane {
			return st, fmt.Errorf("airplane: %.20q is neither on nor off nor a time up to 720h", how)
		}
		err = s.onRadio(ctx, func(ctx context.Context) error { return s.takeOff(ctx, hold) })
	}
	return s.flight.status(), err
}

// mode says which technologies the modem may use, after it was told to if it is.
func (s *Seller) mode(ctx context.Context, to string) (c ModemChange, err error) {
	m, err := s.modemNow()
	if err != nil {
		return c, err
	}
	began := time.Now()
	if to == "" {
		mode, err := m.Mode(ctx)
		return ModemChange{Mode: mode.String(), Took: since(began)}, err
	}
	want, err := modem.ParseMode(to)
	if err != nil {
		return c, err
	}
	err = s.change(ctx, func(ctx context.Context, m *modem.Modem) error { return m.SetMode(ctx, want) })
	if err == nil {
		s.log.Info("the owner has set the modem's technologies", "mode", want)
	}
	return ModemChange{Mode: to, Took: since(began)}, err
}

// bands likewise.
func (s *Seller) bands(ctx context.Context, to string) (c ModemChange, err error) {
	m, err := s.modemNow()
	if err != nil {
		return c, err
	}
	began := time.Now()
	if to == "" {
		bands, err := m.Bands(ctx)
		return ModemChange{Bands: bands.String(), Took: since(began)}, err
	}
	want, err := modem.ParseBands(to)
	if err != nil {
		return c, err
	}
	var got modem.Bands
	err = s.change(ctx, func(ctx context.Context, m *modem.Modem) error {
		got, err = m.SetBands(ctx, want)
		return err
	})
	if err == nil {
		s.log.Info("the owner has set the modem's bands", "bands", got)
	}
	return ModemChange{Bands: got.String(), Took: since(began)}, err
}

func (s *Seller) signals() SignalHistory {
	h := SignalHistory{Samples: []SignalSample{}}
	for _, x := range s.sim.history.Samples() {
		h.Samples = append(h.Samples, SignalSample{
			int64(time.Since(x.At) / time.Second), x.Signal, x.Technology.String(), x.Registration.String(),
		})
	}
	return h
}

// converse is what needs the network and nothing else of the line.
func (s *Seller) converse(ctx context.Context, name string, args map[string]string) (any, error) {
	m, err := s.modemNow()
	if err != nil {
		return nil, err
	}
	if s.flight.on() && name != "sms-list" && name != "sms-delete" {
		return nil, errAirplane
	}
	switch name {
	case "sms-list":
		return s.shortMessages(ctx, m)
	case "sms-send":
		n, err := m.SendSMS(ctx, args["to"], args["text"])
		if err == nil {
			s.log.Info("the owner has sent a text", "messages", n)
		} else if n > 0 {
			err = fmt.Errorf("after %d messages of the text: %w", n, err)
		}
		return Sending{n}, err
	case "sms-delete":
		return deleteSMS(ctx, m, args["ids"])
	case "ussd-cancel":
		return USSDAnswer{}, m.CancelUSSD(ctx)
	}
	a, err := m.USSD(ctx, args["code"])
	if err == nil {
		s.log.Info("the owner has sent a USSD code")
	}
	for _, i := range s.sim.formerIMSIs() {
		a.Text = i.Redact(a.Text)
	}
	return USSDAnswer(a), err
}

func (s *Seller) shortMessages(ctx context.Context, m *modem.Modem) ([]ShortMessage, error) {
	all, err := m.Messages(ctx)
	list := make([]ShortMessage, 0, len(all))
	for _, x := range all {
		for _, i := range s.sim.formerIMSIs() { // a modem may keep what came for another card
			x.Redact(i)
		}
		list = append(list, ShortMessage{x.Indexes[0], x.From, x.Time, x.Text, x.Binary, x.Missing, x.Read})
	}
	return list, err
}

// deleteSMS deletes whole messages by the places of their first parts.
func deleteSMS(ctx context.Context, m *modem.Modem, ids string) (n Sending, err error) {
	all, err := m.Messages(ctx)
	if err != nil {
		return n, err
	}
	var places []int
	for word := range strings.SplitSeq(ids, ",") {
		id, err := strconv.Atoi(word)
		found := false
		for _, x := range all {
			if err == nil && x.Indexes[0] == id {
				places, found = append(places, x.Indexes...), true
				n.Messages++
			}
		}
		if !found {
			return Sending{}, fmt.Errorf("no message %.10q: x402-agent sms list shows them", word)
		}
	}
	return n, m.DeleteSMS(ctx, places...)
}
