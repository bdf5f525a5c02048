package agent

import (
	"encoding"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/depinsim/x402/channel"
)

// A KeptReceipt is one that its seller or buyer has kept.
type KeptReceipt struct {
	Receipt
	// Kept is when, by the keeper's clock, and Note what the keeper has to say of
	// it. Neither is signed. Unix seconds.
	Kept uint64
	Note string
}

// LatestReceipts leaves of the receipts of each session the one that has most.
func LatestReceipts(all []KeptReceipt) []KeptReceipt {
	type session struct {
		channel channel.ID
		n       uint64
	}
	at := map[session]int{}
	var latest []KeptReceipt
	for _, r := range all {
		s := session{r.Channel(), r.Total.Session}
		if i, ok := at[s]; !ok {
			at[s] = len(latest)
			latest = append(latest, r)
		} else if r.Supersedes(latest[i].Receipt) {
			latest[i] = r
		}
	}
	return latest
}

// A Field is a column of a receipt as text, for CSV and for lines of JSON: the same
// ones at the seller and at the buyer. A receipt can be read back from its fields
// and checked.
type Field struct{ Name, Value string }

// Fields are r as text, those that people look for first.
func (r KeptReceipt) Fields() []Field {
	t := r.Total
	owed, _ := t.Owed() // fits: see check
	amount, unpaid := r.Amounts()
	n := func(v uint64) string { return strconv.FormatUint(v, 10) }
	fields := make([]Field, 0, 40)
	add := func(name, value string) { fields = append(fields, Field{name, value}) }
	add("time", timeText(r.Time))
	add("network", channel.NetworkName(r.Domain.ChainID))
	add("channelId", r.Channel().String())
	add("session", n(t.Session))
	add("payer", r.Config.Payer.String())
	add("receiver", r.Config.Receiver.String())
	add("receiverAuthorizer", r.Config.ReceiverAuthorizer.String())
	add("token", r.Config.Token.String())
	add("bytesUp", n(t.Up-t.BaseUp))
	add("bytesDown", n(t.Down-t.BaseDown))
	add("priceUp", t.Price.Up.String())
	add("priceUpUSD", t.Price.Up.USD())
	add("priceDown", t.Price.Down.String())
	add("priceDownUSD", t.Price.Down.USD())
	add("amount", amount.String())
	add("amountUSD", amount.USD())
	add("owed", owed.String())
	add("owedUSD", owed.USD())
	add("maxClaimableAmount", r.Max.String())
	add("maxClaimableUSD", r.Max.USD())
	add("unpaid", unpaid.String())
	add("unpaidUSD", unpaid.USD())
	add("kept", timeText(r.Kept))
	add("note", r.Note)
	add("base", t.Base.String())
	add("baseUp", n(t.BaseUp))
	add("baseDown", n(t.BaseDown))
	add("up", n(t.Up))
	add("down", n(t.Down))
	add("contract", r.Domain.Contract.String())
	add("payerAuthorizer", r.Config.PayerAuthorizer.String())
	add("withdrawDelay", n(r.Config.WithdrawDelay))
	add("salt", r.Config.Salt.String())
	add("voucherSignature", r.Voucher.String())
	add("signature", r.Signature.String())
	return fields
}

// AppendJSON appends fields as one line of JSON, all of them strings.
func AppendJSON(b []byte, fields []Field) []byte {
	for i, f := range fields {
		value, _ := json.Marshal(f.Value) // a string always is JSON
		b = append(b, "{,"[min(i, 1)], '"')
		b = append(append(b, f.Name...), `":`...)
		b = append(b, value...)
	}
	return append(b, "}\n"...)
}

// AppendCSV appends the names or the values of fields as one line of CSV (RFC
// 4180). A value that a spreadsheet would take for a formula begins with an
// apostrophe then.
func AppendCSV(b []byte, fields []Field, names bool) []byte {
	for i, f := range fields {
		if i > 0 {
			b = append(b, ',')
		}
		v := f.Value
		if names {
			v = f.Name
		}
		if v != "" && strings.IndexByte("=+-@\t\r", v[0]) >= 0 {
			v = "'" + v
		}
		if strings.ContainsAny(v, "\",\r\n") {
			v = `"` + strings.ReplaceAll(v, `"`, `""`) + `"`
		}
		b = append(b, v...)
	}
	return append(b, "\r\n"...)
}

// Made is when the agent made r, by its clock; "" if that is not known.
func (r Receipt) Made() string { return timeText(r.Time) }

// timeText is a time as RFC 3339 writes it, "" if it is not known.
func timeText(t uint64) string {
	if t == 0 {
		return ""
	}
	return time.Unix(int64(min(t, maxTime)), 0).UTC().Format(time.RFC3339)
}

// ReceiptOf reads a receipt back from its fields, by their names. What can be
// derived from others may be missing, but if it is there it must be right. Who
// has signed the receipt, Verify says.
func ReceiptOf(fields map[string]string) (KeptReceipt, error) {
	f := fieldReader{fields: fields}
	r := KeptReceipt{Note: fields["note"]}
	c, t := &r.Config, &r.Total
	r.Time, r.Kept = f.time("time"), f.time("kept")
	r.Domain.ChainID = f.network("network")
	f.read("contract", &r.Domain.Contract)
	f.read("payer", &c.Payer)
	f.read("payerAuthorizer", &c.PayerAuthorizer)
	f.read("receiver", &c.Receiver)
	f.read("receiverAuthorizer", &c.ReceiverAuthorizer)
	f.read("token", &c.Token)
	f.read("salt", &c.Salt)
	c.WithdrawDelay, t.Session = f.number("withdrawDelay"), f.number("session")
	f.read("priceUp", &t.Price.Up)
	f.read("priceDown", &t.Price.Down)
	f.read("base", &t.Base)
	t.BaseUp, t.BaseDown, t.Up, t.Down = f.number("baseUp"), f.number("baseDown"), f.number("up"), f.number("down")
	f.read("maxClaimableAmount", &r.Max)
	f.read("voucherSignature", &r.Voucher)
	f.read("signature", &r.Signature)
	if f.err == nil {
		f.err = r.check()
	}
	if f.err != nil {
		return KeptReceipt{}, f.err
	}
	for _, want := range r.Fields() {
		if text, ok := fields[want.Name]; ok && text != want.Value {
			return KeptReceipt{}, fmt.Errorf("receipt: %s is %.80q, by what is signed it is %q", want.Name, text, want.Value)
		}
	}
	return r, nil
}

// A fieldReader reads fields until one is wrong.
type fieldReader struct {
	fields map[string]string
	err    error
}

func (f *fieldReader) read(name string, v encoding.TextUnmarshaler) {
	text, ok := f.fields[name]
	if f.err != nil {
		return
	}
	if !ok {
		f.err = fmt.Errorf("receipt: there is no %s", name)
	} else if err := v.UnmarshalText([]byte(text)); err != nil {
		f.err = fmt.Errorf("receipt: %s: %w", name, err)
	}
}

func (f *fieldReader) number(name string) uint64 {
	var a channel.Amount // a number like any other
	f.read(name, &a)
	return uint64(a)
}

func (f *fieldReader) network(name string) uint64 {
	id, err := channel.ParseNetwork(f.fields[name])
	if err != nil && f.err == nil {
		f.err = fmt.Errorf("receipt: %w", err)
	}
	return id
}

func (f *fieldReader) time(name string) uint64 {
	text := f.fields[name]
	if text == "" {
		return 0
	}
	at, err := time.Parse(time.RFC3339, text)
	if err == nil && at.Unix() > 0 {
		return uint64(at.Unix())
	}
	if f.err == nil {
		f.err = fmt.Errorf("receipt: %s is %.40q, want one such as 2006-01-02T15:04:05Z", name, text)
	}
	return 0
}

// AppendReceipts appends receipts as they are exported: as CSV, which begins with
// a line of names, or as lines of JSON.
func AppendReceipts(b []byte, all []KeptReceipt, asCSV bool) []byte {
	if asCSV {
		b = AppendCSV(b, KeptReceipt{}.Fields(), true)
	}
	for _, r := range all {
		if asCSV {
			b = AppendCSV(b, r.Fields(), false)
		} else {
			b = AppendJSON(b, r.Fields())
		}
	}
	return b
}

// KeptSince leaves of receipts those that were kept on a day or later, which text
// names as 2006-01-31, or from a time on as RFC 3339 has it; "" leaves all.
func KeptSince(all []KeptReceipt, text string) ([]KeptReceipt, error) {
	if text == "" {
		return all, nil
	}
	since, err := time.Parse(time.DateOnly, text)
	if err != nil {
		since, err = time.Parse(time.RFC3339, text)
	}
	if err != nil {
		return nil, fmt.Errorf("%.40q: want a day such as 2006-01-31, or a time such as 2006-01-31T15:04:05Z", text)
	}
	var some []KeptReceipt
	for _, r := range all {
		if int64(r.Kept) >= since.Unix() {
			some = append(some, r)
		}
	}
	return some, nil
}
