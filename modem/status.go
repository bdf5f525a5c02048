package modem

import "context"

// A Status is what card and network say at one moment. Without a ready card
// only SIM and Signal are filled in.
type Status struct {
	SIM          SIMState
	Operator     Operator // of the network in use, which need not be the card's own
	Registration Registration
	Technology   Technology
	Signal       Signal
	Roaming      bool
}

// Status asks the modem how it stands. It changes nothing on the card: a PIN is
// only entered by Identity. What the modem does not know stays zero; errors are
// those of a modem that does not answer.
func (m *Modem) Status(ctx context.Context) (Status, error) {
	var s Status
	err := m.do(ctx, func() (err error) {
		s, err = m.status(ctx)
		return err
	})
	if err != nil {
		return Status{}, err // s may still be the owner's
	}
	return s, nil
}

func (m *Modem) status(ctx context.Context) (s Status, err error) {
	if err := m.readDevice(ctx); err != nil {
		return s, err
	}
	if s.SIM, _, err = m.simState(ctx); err != nil {
		return s, err
	}
	if s.Signal, err = m.readSignal(ctx); err != nil || s.SIM != SIMReady {
		return s, err
	}
	var act int
	if s.Registration, act, err = m.readRegistration(ctx); err != nil {
		return s, err
	}
	s.Roaming = s.Registration == Roaming
	if !s.Registration.Registered() {
		return s, nil
	}
	cops, err := m.readOperator(ctx)
	if err != nil {
		return s, err
	}
	m.imsi.hide(&cops.name, &cops.plmn)
	s.Operator.Name = cops.name
	if cops.plmn != "" {
		s.Operator.MCC, s.Operator.MNC = cops.plmn[:3], cops.plmn[3:]
	}
	s.Technology, err = m.readTechnology(ctx, cops.act, act)
	return s, err
}

// readSignal joins both commands: AT+CSQ is everywhere and measures the whole
// band, AT+CESQ what matters on 3G, LTE and 5G.
func (m *Modem) readSignal(ctx context.Context) (Signal, error) {
	var csq, cesq Signal
	if _, err := m.try(ctx, "+CSQ", func(lines []string) (ok bool) {
		csq, ok = parseCSQ(lines)
		return ok
	}); err != nil {
		return Signal{}, err
	}
	_, err := m.try(ctx, "+CESQ", func(lines []string) (ok bool) {
		cesq, ok = parseCESQ(lines)
		return ok
	})
	if cesq.RSSI == 0 {
		cesq.RSSI = csq.RSSI
	}
	if cesq.RSCP == 0 {
		cesq.RSCP = csq.RSCP
	}
	return cesq, err
}

// readRegistration asks the domains that carry data first: 5G, LTE, packets,
// circuits. The first where the modem is registered counts; if there is none,
// the one that knows most about why.
func (m *Modem) readRegistration(ctx context.Context) (best Registration, act int, err error) {
	act = -1
	for _, prefix := range []string{"+C5GREG", "+CEREG", "+CGREG", "+CREG"} {
		var stat, technology int
		ok, err := m.try(ctx, prefix+"?", func(lines []string) (ok bool) {
			stat, technology, ok = parseRegistration(lines, prefix)
			return ok
		})
		if err != nil {
			return best, act, err
		}
		if !ok {
			continue
		}
		r := registrationOf(stat)
		if r.Registered() {
			return r, technology, nil
		}
		best = max(best, r)
	}
	return best, act, nil
}

// readOperator asks for the network by number and then by name: the format is a
// setting of the modem, and is left as modems come, by name.
func (m *Modem) readOperator(ctx context.Context) (copsReply, error) {
	both := copsReply{act: -1}
	for _, format := range []string{"+COPS=3,2", "+COPS=3,0"} {
		if _, err := m.try(ctx, format, anything); err != nil {
			return both, err
		}
		_, err := m.try(ctx, "+COPS?", func(lines []string) bool {
			reply, ok := parseCOPS(lines)
			if ok {
				both = merge(both, reply)
			}
			return ok
		})
		if err != nil {
			return both, err
		}
	}
	return both, nil
}

// anything takes any answer: the command has no lines.
func anything([]string) bool { return true }

// merge fills in what the first reply lacks.
func merge(a, b copsReply) copsReply {
	if a.plmn == "" {
		a.plmn = b.plmn
	}
	if a.name == "" {
		a.name = b.name
	}
	if a.act < 0 {
		a.act = b.act
	}
	return a
}

// homePLMN is the number of the network in use if it is the card's own.
func (m *Modem) homePLMN(ctx context.Context) (string, error) {
	registration, _, err := m.readRegistration(ctx)
	if err != nil || registration != Home {
		return "", err
	}
	cops, err := m.readOperator(ctx)
	return cops.plmn, err
}

// readTechnology takes what a registration said, else asks by the vendors' own
// commands.
func (m *Modem) readTechnology(ctx context.Context, acts ...int) (Technology, error) {
	for _, act := range acts {
		if t := technologyOf(act); t != NoTechnology {
			return t, nil
		}
	}
	for _, cmd := range []string{"+QNWINFO", "^SYSINFOEX", "+CPSI?", "+ZPAS?", "#PSNT?"} {
		t := NoTechnology
		ok, err := m.try(ctx, cmd, func(lines []string) bool {
			t = parseTechnology(lines)
			return t != NoTechnology
		})
		if ok || err != nil {
			return t, err
		}
	}
	return NoTechnology, nil
}
