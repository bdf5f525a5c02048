package demo

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sound is a report that adds up.
func sound() Report {
	return Report{
		SIM:    SIM{MCC: "001", MNC: "01", Operator: "Test", Technology: "LTE", Modem: "Quectel EC25", IMSI: "imsi(redacted)"},
		Buyer:  Buyer{BytesUp: 1000, BytesDown: 50_100_000, Owed: 200_404, Signed: 200_404, Claimed: 200_404, Refunded: 49_596},
		Agent:  Agent{BytesUp: 1000, BytesDown: 50_100_000, Owed: 200_404, Paid: 200_404, Claimed: 200_404, BytesLost: 777, Sessions: 2},
		Ledger: Ledger{PayerBefore: 3_000_000, PayerAfter: 2_799_596, ReceiverBefore: 5, ReceiverAfter: 200_407, Fee: 2},
		Transfer: Transfer{
			Bytes: 50_000_000, Seconds: 2, Mbps: 200, Resumed: 2,
		},
		UDP:   UDP{Echoed: 200},
		Crash: Crash{Injected: true, Seconds: 0.4},
	}
}

func TestCheck(t *testing.T) {
	tests := map[string]struct {
		change func(*Report)
		want   []string
	}{
		"sound": {func(*Report) {}, []string{}},
		"up":    {func(r *Report) { r.Agent.BytesUp++ }, []string{"bytes up, buyer and agent: 1000 is not 1001"}},
		"down":  {func(r *Report) { r.Agent.BytesDown-- }, []string{"bytes down, buyer and agent: 50100000 is not 50099999"}},
		"owed": {func(r *Report) { r.Agent.Owed++ }, []string{
			"owed, buyer and agent: 200404 is not 200405", "owed and signed: 200405 is not 200404",
		}},
		"claimed less": {func(r *Report) { r.Agent.Claimed--; r.Buyer.Claimed-- }, []string{
			"signed and claimed: 200404 is not 200403",
			"what the payer has left and was claimed, and what it had: 2999999 is not 3000000",
			"what the receiver has and paid as a fee, and what it had and claimed: 200409 is not 200408",
		}},
		"fee":       {func(r *Report) { r.Ledger.Fee = 0 }, []string{"what the receiver has and paid as a fee, and what it had and claimed: 200407 is not 200409"}},
		"escrow":    {func(r *Report) { r.Ledger.Escrow = 1 }, []string{"left in escrow, and nothing: 1 is not 0"}},
		"unsettled": {func(r *Report) { r.Ledger.Unsettled = 1 }, []string{"left unsettled, and nothing: 1 is not 0"}},
		"no crash":  {func(r *Report) { r.Crash.Injected = false }, []string{"the agent was not killed"}},
		"uncounted": {func(r *Report) { r.Transfer.Bytes *= 2 }, []string{"bytes down: 50100000 counted, the file has 100000000"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := sound()
			test.change(&r)
			if diff := cmp.Diff(test.want, r.check()); diff != "" {
				t.Error(diff)
			}
		})
	}
	if faults := (Report{}).check(); len(faults) == 0 {
		t.Error("a demo in which nothing happened adds up")
	}
}

func TestReportJSON(t *testing.T) {
	b, err := json.Marshal(sound())
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]map[string]any
	var all map[string]json.RawMessage
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	delete(all, "faults") // the only list
	b, _ = json.Marshal(all)
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	for group, names := range map[string]string{
		"sim": "mcc mnc operator", "buyer": "bytes_up bytes_down signed", "agent": "bytes_up bytes_down owed claimed",
		"ledger":   "payer_before payer_after receiver_before receiver_after fee escrow",
		"transfer": "seconds mbps", "crash": "injected",
	} {
		for name := range strings.FieldsSeq(names) {
			v, ok := got[group][name]
			if _, number := v.(float64); !ok || !number && group != "sim" && group != "crash" {
				t.Errorf("%s.%s is %T", group, name, v)
			}
		}
	}
}

func TestTable(t *testing.T) {
	var b bytes.Buffer
	r := sound()
	if err := r.table(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Test, MCC 001, MNC 01, LTE", "50,100,000   50,100,000   equal", "0.200404 (200,404)",
		"3.00 (3,000,000)   2.799596 (2,799,596)   -0.200404 (200,404)", "0.000002 (2)", "Everything adds up",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	b.Reset()
	r.Agent.Claimed++
	r.Faults = r.check()
	if err := r.table(&b); err != nil || strings.Contains(b.String(), "Everything adds up") || !strings.Contains(b.String(), "DIFFERENT") {
		t.Errorf("a false report reads, %v\n%s", err, b.String())
	}
}
