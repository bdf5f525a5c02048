package channel

import (
	"encoding/hex"
	"encoding/json"
	"testing"
)

// The vector of the npm client 2.27: chain 84532, canonical contract, the
// public development accounts 1 and 2 of the "test ... junk" mnemonic.
const goldenKeyHex = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"

func goldenDomain() Domain { return Domain{84532, SettlementContract()} }

func goldenConfig(t testing.TB) Config {
	t.Helper()
	var c Config
	err := json.Unmarshal([]byte(`{
		"payer": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
		"payerAuthorizer": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
		"receiver": "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
		"receiverAuthorizer": "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
		"token": "0x5fbdb2315678afecb367f032d93f642f64180aa3",
		"withdrawDelay": 900,
		"salt": "0x0000000000000000000000000000000000000000000000000000000000000000"}`), &c)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func goldenKey(t testing.TB) *Key {
	t.Helper()
	b, err := hex.DecodeString(goldenKeyHex)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ParseKey(b)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestGoldenVector(t *testing.T) {
	d, c, k := goldenDomain(), goldenConfig(t), goldenKey(t)
	id := d.ID(c)
	for _, row := range []struct{ what, got, want string }{
		{"payer", k.Address().String(), "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"},
		{"contract", SettlementContract().String(), "0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003"},
		{"collector", ERC3009Collector().String(), "0x4020806089470a89826cB9fB1f4059150b550004"},
		{"domain", d.separator().String(), "0xfdef80764086b1e0fc6ba99f0cb9aa1d59109fda7c23d60334c89d2de44dffce"},
		{"channel", id.String(), "0x2624f266d2038271944a71f08881e8b539767f6b5d633239273d133893e21476"},
		{"digest of 100", d.VoucherDigest(id, 100).String(), "0x11cc7ce5070c3e1362f215e34383f0280659764ae3c8bd127e9b9dbab68e595f"},
		{"voucher of 100", d.SignVoucher(k, id, 100).Signature.String(), "0x08582182b08912eca2a1d0135e3e9536ae7f4573806b6d39bf9beb17423033cc7b3389549b6db29d324564607f3f554b3eaa4f19fbcf70397a4248ccd234517c1b"},
		{"voucher of 270", d.SignVoucher(k, id, 270).Signature.String(), "0x392c270116ee1b17594d7378118d7eb29dbec2663dbf08e67f96f60dcf4217b35ad3c3fce9e0cc381874986740af436040e56091256dbe9c608e55a612e5ea7b1c"},
	} {
		if row.got != row.want {
			t.Errorf("%s:\n got %s\nwant %s", row.what, row.got, row.want)
		}
	}
	if h := configType.String(); h[:10] != "0x1c9a06ce" || h[58:] != "755db308" {
		t.Errorf("type hash of ChannelConfig is %s", h)
	}
	if h := voucherType.String(); h[:10] != "0x1e1bd6ff" || h[58:] != "94609a69" {
		t.Errorf("type hash of Voucher is %s", h)
	}
	for _, max := range []Amount{100, 270} {
		v := d.SignVoucher(k, id, max)
		got, err := Recover(d.VoucherDigest(v.Channel, v.Max), v.Signature)
		if err != nil || got != c.Payer {
			t.Errorf("Recover(%d) = %s, %v", max, got, err)
		}
	}
}

// The type hashes that EIP-3009 publishes.
func TestTokenTypeHashes(t *testing.T) {
	if got := receiveType.String(); got != "0xd099cc98ef71107a616c4f0f941f04c322d8e254fe26b3c6668db87aae413de8" {
		t.Errorf("ReceiveWithAuthorization: %s", got)
	}
	if got := transferType.String(); got != "0x7c7c6cdb67a18743f49ec6fa9b35f50d52ed05cbed4cc592e13b44501c1a2267" {
		t.Errorf("TransferWithAuthorization: %s", got)
	}
}
