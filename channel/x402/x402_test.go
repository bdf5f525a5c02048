package x402

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/channel"
)

// Messages as the reference implementation (npm, 2.27) sends them, with the
// addresses of the root package's test vector.
const (
	config = `{"payer":"0x70997970C51812dc3A010C7d01b50e0d17dc79C8","payerAuthorizer":"0x70997970C51812dc3A010C7d01b50e0d17dc79C8",` +
		`"receiver":"0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC","receiverAuthorizer":"0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",` +
		`"token":"0x5FbDB2315678afecb367f032d93F642f64180aa3","withdrawDelay":900,` +
		`"salt":"0x0000000000000000000000000000000000000000000000000000000000000000"}`
	signature = `"0x08582182b08912eca2a1d0135e3e9536ae7f4573806b6d39bf9beb17423033cc7b3389549b6db29d324564607f3f554b3eaa4f19fbcf70397a4248ccd234517c1b"`
	voucher   = `{"channelId":"0x2624f266d2038271944a71f08881e8b539767f6b5d633239273d133893e21476","maxClaimableAmount":"100","signature":` + signature + `}`
	row       = `{"voucher":{"channel":` + config + `,"maxClaimableAmount":"100"},"signature":` + signature + `,"totalClaimed":"90"}`
	salt      = `"0x0101010101010101010101010101010101010101010101010101010101010101"`
)

func payloads() map[string]string {
	return map[string]string{
		"exact": `{"signature":` + signature + `,"authorization":{"from":"0x70997970C51812dc3A010C7d01b50e0d17dc79C8",` +
			`"to":"0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC","value":"100","validAfter":"0","validBefore":"1770000000","nonce":` + salt + `}}`,
		"deposit": `{"type":"deposit","channelConfig":` + config + `,"voucher":` + voucher +
			`,"deposit":{"amount":"1000","authorization":{"erc3009Authorization":{"validAfter":"0","validBefore":"1770000000","salt":` + salt + `,"signature":` + signature + `}}}}`,
		"voucher": `{"type":"voucher","channelConfig":` + config + `,"voucher":` + voucher + `}`,
		"refund":  `{"type":"refund","channelConfig":` + config + `,"voucher":` + voucher + `,"amount":"50"}`,
		"refund completed": `{"type":"refund","channelConfig":` + config + `,"voucher":` + voucher + `,"amount":"50","refundNonce":"1","claims":[` + row +
			`],"refundAuthorizerSignature":` + signature + `,"claimAuthorizerSignature":` + signature + `}`,
		"refund completed without claims": `{"type":"refund","channelConfig":` + config + `,"voucher":` + voucher + `,"amount":"50","refundNonce":"1","claims":[],"refundAuthorizerSignature":` + signature + `}`,

		"claim":  `{"type":"claim","claims":[` + row + `,` + row + `],"claimAuthorizerSignature":` + signature + `}`,
		"settle": `{"type":"settle","receiver":"0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC","token":"0x5FbDB2315678afecb367f032d93F642f64180aa3"}`,
	}
}

// TestPayloads reads the reference's messages and writes them byte for byte.
func TestPayloads(t *testing.T) {
	for name, text := range payloads() {
		var p Payload
		if err := Unmarshal([]byte(text), &p); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if want, _, _ := strings.Cut(name, " "); p.Type() != want {
			t.Errorf("%s: type is %q", name, p.Type())
		}
		out, err := json.Marshal(p)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(text, string(out)); diff != "" {
			t.Errorf("%s (-in +out):\n%s", name, diff)
		}
	}
	if _, err := json.Marshal(Payload{}); err == nil {
		t.Error("an empty payload was written")
	}
}

// TestMessages: what is not ours survives a round trip too.
func TestMessages(t *testing.T) {
	required := `{"x402Version":2,"error":"Payment required","resource":{"url":"https://a.test/x","mimeType":"text/plain"},` +
		`"accepts":[{"scheme":"batch-settlement","network":"eip155:84532","amount":"100","asset":"0x5FbDB2315678afecb367f032d93F642f64180aa3",` +
		`"payTo":"0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC","maxTimeoutSeconds":300,"extra":{"minDeposit":"100000","name":"USDC","novel":{"a":[1]},` +
		`"receiverAuthorizer":"0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC","version":"2","withdrawDelay":900}}],"extensions":{"x":{"info":{}}}}`
	var p PaymentRequired
	if err := Unmarshal([]byte(required), &p); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(required, string(out)); diff != "" {
		t.Errorf("PaymentRequired (-in +out):\n%s", diff)
	}
	if *p.Accepts[0].Extra.WithdrawDelay != 900 || *p.Accepts[0].Extra.MinDeposit != 100_000 {
		t.Errorf("extra is %+v", p.Accepts[0].Extra)
	}
}

// TestForeignAccepts: a way to pay that is not ours does not hide one that is.
func TestForeignAccepts(t *testing.T) {
	const ours = `{"scheme":"exact","network":"eip155:5","amount":"100","asset":"0x5FbDB2315678afecb367f032d93F642f64180aa3",` +
		`"payTo":"0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC","maxTimeoutSeconds":300,"extra":{"name":"USDC","version":"2"}}`
	decode := func(text string) (PaymentRequired, error) {
		return DecodeRequired(base64.StdEncoding.EncodeToString([]byte(text)))
	}
	for name, foreign := range map[string]string{
		"solana":    `{"scheme":"exact","network":"solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp","amount":"100","asset":"EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v","payTo":"x"}`,
		"large":     strings.Replace(ours, `"100"`, `"1000000000000000000000"`, 1),
		"no object": `7`,
	} {
		for _, accepts := range []string{ours + "," + foreign, foreign + "," + ours} {
			p, err := decode(`{"x402Version":2,"error":"x","accepts":[` + accepts + `]}`)
			if err != nil || len(p.Accepts) != 1 || p.Accepts[0].Amount != 100 || p.Version != 2 || p.Error != "x" {
				t.Errorf("%s: %+v, %v", name, p, err)
			}
		}
	}
	if _, err := decode(`{"x402Version":2,"accepts":{}}`); err == nil {
		t.Error("accepts that are no list were accepted")
	}
}

func TestSettlementResponse(t *testing.T) {
	for _, text := range []string{
		`{"success":true,"payer":"0x70997970C51812dc3A010C7d01b50e0d17dc79C8","transaction":"","network":"eip155:84532","amount":"",` +
			`"extra":{"chargedAmount":"70","channelState":{"channelId":"0x2624f266d2038271944a71f08881e8b539767f6b5d633239273d133893e21476",` +
			`"balance":"1000","totalClaimed":"0","withdrawRequestedAt":0,"refundNonce":"0","chargedCumulativeAmount":"170"}}}`,
		`{"success":true,"transaction":"0x12","network":"eip155:84532","amount":"5000"}`,
		`{"success":false,"errorReason":"insufficient_funds","transaction":"","network":"eip155:84532","amount":""}`,
	} {
		var r SettlementResponse
		if err := Unmarshal([]byte(text), &r); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		out, err := json.Marshal(r)
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(text, string(out)); diff != "" {
			t.Errorf("(-in +out):\n%s", diff)
		}
	}
	var r SettlementResponse
	for _, text := range []string{
		`{"success":true,"amount":null,"payer":""}`, `{"success":true,"transaction":"","network":""}`,
	} {
		if err := Unmarshal([]byte(text), &r); err != nil || r.Amount != nil || r.Payer != nil {
			t.Errorf("%s: %+v, %v", text, r, err)
		}
	}
	for _, text := range []string{`{"amount":"-1"}`, `{"amount":{}}`, `{"payer":"0x12"}`, `[]`} {
		if err := Unmarshal([]byte(text), &r); err == nil {
			t.Errorf("%s was accepted", text)
		}
	}
}

func TestStrict(t *testing.T) {
	for name, text := range map[string]string{
		"twice":          `{"amount":"1","amount":"2"}`,
		"twice, by case": `{"amount":"1","AMOUNT":"2"}`,
		"twice, inside":  `{"extra":{"name":"a","Name":"b"}}`,
		"trailing":       `{"amount":"1"} {}`,
		"deep":           strings.Repeat("[", 1000) + strings.Repeat("]", 1000),
		"large":          `"` + strings.Repeat("x", MaxBody) + `"`,
		"cut":            `{"amount":"1"`,
		"empty":          ``,
	} {
		var r Requirements
		if err := Unmarshal([]byte(text), &r); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	var p Payload
	rows := strings.Repeat(row+",", MaxClaims) + row
	if err := Unmarshal([]byte(`{"type":"claim","claims":[`+rows+`]}`), &p); err == nil {
		t.Error("too many claims were accepted")
	}
	if err := Unmarshal([]byte(`{"type":"claim","claims":[`+rows[:len(rows)-len(row)-1]+`]}`), &p); err != nil {
		t.Errorf("%d claims: %v", MaxClaims, err)
	}
}

func TestHeader(t *testing.T) {
	in := VerifyResponse{IsValid: true, InvalidMessage: "ü"}
	s, err := EncodeHeader(in)
	if err != nil {
		t.Fatal(err)
	}
	var out VerifyResponse
	if err := DecodeHeader(s, &out); err != nil || out != in {
		t.Errorf("%+v, %v", out, err)
	}
	for _, s := range []string{"", "{}", "====", s + "A", base64.StdEncoding.EncodeToString(make([]byte, MaxHeader+3))} {
		if err := DecodeHeader(s, &out); err == nil {
			t.Errorf("%.20q was accepted", s)
		}
	}
	if _, err := EncodeHeader(VerifyResponse{InvalidMessage: strings.Repeat("x", MaxHeader)}); err == nil {
		t.Error("a header of any length was written")
	}
}

// TestDigests: the hashing of Withdraw is the root package's, which its test
// vector pins.
func TestDigests(t *testing.T) {
	d := channel.Domain{ChainID: 84532, Contract: channel.SettlementContract()}
	id := channel.ID{1}
	got := typed(d, hashStruct("Voucher(bytes32 channelId,uint128 maxClaimableAmount)", channel.Hash(id), word(100)))
	if want := d.VoucherDigest(id, 100); got != want {
		t.Errorf("digest is %s, want %s", got, want)
	}
	w := Withdraw{Step: WithdrawInitiate, Channel: id, Amount: 5}
	f := Withdraw{Step: WithdrawFinalize, Channel: id}
	if w.Digest(d) == f.Digest(d) || w.Digest(d) == d.VoucherDigest(id, 5) {
		t.Error("two messages have one digest")
	}
}

func TestSupportedToken(t *testing.T) {
	token := channel.Address{1}
	s := Supported{Kinds: []Kind{
		{Version: 1, Scheme: SchemeBatch, Network: "eip155:1"},
		{Version: 2, Scheme: SchemeExact, Network: "eip155:1", Extra: &KindExtra{Asset: &token}},
		{Version: 2, Scheme: SchemeBatch, Network: "eip155:5", Extra: &KindExtra{Asset: &token, Name: "USDC", Version: "2"}},
	}}
	if diff := cmp.Diff([]string{"eip155:5"}, s.Networks()); diff != "" {
		t.Error(diff)
	}
	got, err := s.Token("eip155:5")
	if want := (channel.Token{ChainID: 5, Address: token, Name: "USDC", Version: "2"}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for _, network := range []string{"eip155:1", "solana:x", ""} {
		if _, err := s.Token(network); err == nil {
			t.Errorf("%q has an asset", network)
		}
	}
}

// FuzzPayload: what is accepted is written and read to the same.
func FuzzPayload(f *testing.F) {
	for _, text := range payloads() {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Payload
		if Unmarshal(b, &p) != nil {
			return
		}
		out, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var again Payload
		if err := Unmarshal(out, &again); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		if diff := cmp.Diff(p, again); diff != "" {
			t.Error(diff)
		}
	})
}

// FuzzHeader reads a header as each message that one carries.
func FuzzHeader(f *testing.F) {
	for _, text := range payloads() {
		f.Add(base64.StdEncoding.EncodeToString([]byte(`{"x402Version":2,"accepted":{"extra":{"a":1}},"payload":` + text + `}`)))
	}
	f.Add(base64.StdEncoding.EncodeToString([]byte(`{"x402Version":2,"accepts":[{"amount":1}]}`)))
	f.Add(base64.StdEncoding.EncodeToString([]byte(`{"success":true,"amount":""}`)))
	f.Fuzz(func(t *testing.T, s string) {
		var payment PaymentPayload
		var required PaymentRequired
		var settled SettlementResponse
		if p, err := DecodeRequired(s); err == nil && len(p.Accepts) > MaxHeader {
			t.Errorf("%d ways to pay", len(p.Accepts))
		}
		for _, v := range []any{&payment, &required, &settled} {
			if DecodeHeader(s, v) != nil {
				continue
			}
			if p, ok := v.(*PaymentPayload); ok && p.Payload.Type() == "" {
				continue // no payload member at all; nothing that could be written
			}
			if _, err := json.Marshal(v); err != nil {
				t.Errorf("%T: %v", v, err)
			}
		}
	})
}
