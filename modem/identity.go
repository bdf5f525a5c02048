package modem

import (
	"context"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"time"
)

// An Identity says which card is in which modem.
type Identity struct {
	IMSI     IMSI
	ICCID    string // of the card; "" when the modem does not say. Some carriers' holds the IMSI's digits
	IMEI     string // of the modem; "" when it does not say
	Maker    string
	Model    string
	Revision string // of the firmware
}

// Identity reads who the SIM and the modem are. It waits for a card that is
// starting, and enters its PIN if there is one in the config. Besides the
// errors of a modem that does not answer it returns ErrNoSIM, ErrSIMBusy,
// ErrPINRequired, ErrPUKRequired and ErrPINRefused. Other calls wait meanwhile.
func (m *Modem) Identity(ctx context.Context) (Identity, error) {
	var id Identity
	err := m.do(ctx, func() (err error) {
		id, err = m.identity(ctx)
		return err
	})
	if err != nil {
		return Identity{}, err // id may still be the owner's
	}
	return id, nil
}

func (m *Modem) identity(ctx context.Context) (Identity, error) {
	if err := m.readDevice(ctx); err != nil {
		return Identity{}, err
	}
	if err := m.waitReady(ctx); err != nil {
		return Identity{}, err
	}
	iccid, err := m.readICCID(ctx)
	if err != nil {
		return Identity{}, err
	}
	imsi, err := m.readIMSI(ctx)
	if err != nil {
		return Identity{}, err
	}
	m.imsi = imsi
	d := m.device
	id := Identity{IMSI: imsi, ICCID: iccid, IMEI: d.imei, Maker: d.maker, Model: d.model, Revision: d.revision}
	if imsi.hide(&id.IMEI, &id.Maker, &id.Model, &id.Revision) {
		m.device = device{} // read again: a late answer stood for another
	}
	return id, nil
}

// A device is the modem behind the port, read until it has said who it is.
type device struct {
	imei, maker, model, revision string
}

// readDevice reads maker, model, revision and IMEI. A modem without them still
// works, so only errors that end the whole call are returned.
func (m *Modem) readDevice(ctx context.Context) error {
	if m.device.imei != "" && m.device.maker != "" {
		return nil
	}
	var d device
	text := func(cmd string, to *string) error {
		_, err := m.try(ctx, cmd, func(lines []string) (ok bool) {
			*to, ok = parseText(lines, cmd)
			return ok
		})
		return err
	}
	imei := func() error {
		_, err := m.try(ctx, "+CGSN", func(lines []string) (ok bool) {
			d.imei, ok = parseIMEI(lines)
			return ok
		})
		return err
	}
	// The one answer in bare digits does not stand next to the IMSI's.
	for _, read := range []func() error{
		imei,
		func() error { return text("+CGMI", &d.maker) },
		func() error { return text("+CGMM", &d.model) },
		func() error { return text("+CGMR", &d.revision) },
	} {
		if err := read(); err != nil {
			return err
		}
	}
	m.device = d
	return nil
}

// readICCID reads the card's number by the modem's commands, else from the card
// (EF_ICCID, readable without PIN, 3GPP TS 31.102 clause 4.2.11). It is "" when
// none of them answers.
func (m *Modem) readICCID(ctx context.Context) (iccid string, err error) {
	for _, cmd := range m.device.dialect().iccid {
		ok, err := m.try(ctx, cmd, func(lines []string) (ok bool) {
			iccid, ok = parseICCID(lines)
			return ok
		})
		if ok || err != nil {
			return iccid, err
		}
	}
	data, err := m.readCard(ctx, efICCID, 10)
	if err != nil {
		return "", err
	}
	if iccid, ok := iccidOf(hex.EncodeToString(data)); ok {
		return iccid, nil
	}
	return "", nil
}

// Files on a card, by their identifiers (3GPP TS 31.102 clause 4.2).
const (
	efICCID = 0x2fe2
	efAD    = 0x6fad
)

// readCard reads the first size bytes of a file on the card. It returns nothing
// when the card or the modem refuses.
func (m *Modem) readCard(ctx context.Context, file, size int) ([]byte, error) {
	var reply cardReply
	take := func(lines []string) (ok bool) {
		reply, ok = parseCRSM(lines)
		return ok
	}
	crsm := func(command, length int) (bool, error) {
		return m.try(ctx, "+CRSM="+strconv.Itoa(command)+","+strconv.Itoa(file)+",0,0,"+strconv.Itoa(length), take)
	}
	const readBinary, getResponse = 176, 192
	ok, err := crsm(readBinary, size)
	if ok && reply.waiting() > 0 {
		ok, err = crsm(getResponse, reply.waiting())
	}
	if !ok || err != nil || !reply.ok() {
		return nil, err
	}
	return reply.data, nil
}

// readIMSI reads the IMSI. A card that has just become ready may be busy for a
// moment more.
func (m *Modem) readIMSI(ctx context.Context) (IMSI, error) {
	var digits string
	take := func(lines []string) (ok bool) {
		digits, ok = parseIMSI(lines)
		// The IMEI looks the same: then this is the answer to AT+CGSN.
		return ok && (m.device.imei == "" || !strings.HasPrefix(m.device.imei, digits))
	}
	for end := time.Now().Add(m.cfg.SIMWait); ; {
		err := m.ask(ctx, "+CIMI", take)
		if err == nil {
			break
		}
		cme, _ := errors.AsType[CMEError](err)
		starting := errors.Is(err, ErrSIMBusy) || errors.Is(err, errRefused) || cme.Code == cmeFailure
		if !starting || !time.Now().Before(end) {
			return IMSI{}, err
		}
		if err := m.pause(ctx, pollTime); err != nil {
			return IMSI{}, err
		}
	}
	length, err := m.readMNCLength(ctx, digits)
	if err != nil {
		return IMSI{}, err
	}
	return ParseIMSI(digits, length)
}

// readMNCLength collects what mncLength decides by. The network is asked only
// when card and table do not agree.
func (m *Modem) readMNCLength(ctx context.Context, digits string) (int, error) {
	data, err := m.readCard(ctx, efAD, 4)
	if err != nil {
		return 0, err
	}
	ad := parseEFAD(data)
	if ad == tableMNCLength(digits) {
		return ad, nil
	}
	plmn, err := m.homePLMN(ctx)
	if err != nil {
		return 0, err
	}
	return mncLength(digits, ad, plmn), nil
}
