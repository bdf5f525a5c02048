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

// Computed by a second implementation, written for the purpose from the
// standards, which also gives the two domain separators that Circle's deployed
// contracts answer.
func TestDigests(t *testing.T) {
	d, c := goldenDomain(), goldenConfig(t)
	id := d.ID(c)
	var other ID
	var salt Hash
	for i := range other {
		other[i], salt[i] = 0x11, 0x22
	}
	sepolia := Token{84532, mustAddress(t, "0x036CbD53842c5426634e7929541eC2318f3dCF7e"), "USDC", "2"}
	base := Token{8453, mustAddress(t, "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"), "USD Coin", "2"}
	nonce := DepositNonce(id, salt)
	auth := Authorization{c.Payer, ERC3009Collector(), 1000, 0, 1800000000, nonce}
	for _, row := range []struct {
		what string
		got  Hash
		want string
	}{
		{"claim of two", d.ClaimDigest([]ClaimEntry{{id, 270, 170}, {other, 1<<64 - 1, 5}}), "0xec8c52cabdb9d9162c706642f1caf9275c378dbeb28dfc9b2c763aaf147576cc"},
		{"claim of none", d.ClaimDigest(nil), "0x57b970b91bd540b4ca1aa82be12adbc9b769b6e978e5285b2a859bd989304e9a"},
		{"refund", d.RefundDigest(id, 7, 830), "0xde56c5c9a5b8d8a668d1f8dacbff2c6a7cc7f8262eb872749ae6038e5700611d"},
		{"deposit nonce", nonce, "0x308d5462185e8ba7eb792e2f160b467b1bb801f4dc7fde05bdeb2654e158342c"},
		{"USDC on Base Sepolia", separator(sepolia.Name, sepolia.Version, sepolia.ChainID, sepolia.Address), "0x71f17a3b2ff373b803d70a5a07c046c1a2bc8e89c09ef722fcb047abe94c9818"},
		{"USDC on Base", separator(base.Name, base.Version, base.ChainID, base.Address), "0x02fa7265e7c5d81118673727957699e4d68f74cd74b7db77da710fe8a2c7834f"},
		{"receive", sepolia.ReceiveDigest(auth), "0xbb36bb22a48121c706d49a164aa29a318584561d151382a018c42657da9f8804"},
		{"transfer", sepolia.TransferDigest(auth), "0x936767c8b6e7cd272a646cf1d4e1b73fa6d91e440fa3bafd0065729d1170cd99"},
	} {
		if row.got.String() != row.want {
			t.Errorf("%s:\n got %s\nwant %s", row.what, row.got, row.want)
		}
	}
}

func mustAddress(t testing.TB, s string) Address {
	t.Helper()
	a, err := ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestNetwork(t *testing.T) {
	for _, id := range []uint64{1, 8453, 84532, 1 << 53, 1<<64 - 1} {
		if got, err := ParseNetwork(NetworkName(id)); got != id || err != nil {
			t.Errorf("ParseNetwork(%s) = %d, %v", NetworkName(id), got, err)
		}
	}
	for _, in := range []string{"", "eip155", "eip155:", "eip155:0", "eip155:01", "eip155:-1", "eip155:x", "base-sepolia", "solana:1", "EIP155:1", "eip155:18446744073709551616"} {
		if got, err := ParseNetwork(in); err == nil {
			t.Errorf("ParseNetwork(%q) = %d, want an error", in, got)
		}
	}
}

func TestVoucherJSON(t *testing.T) {
	d := goldenDomain()
	v := d.SignVoucher(goldenKey(t), d.ID(goldenConfig(t)), 100)
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"channelId":"` + v.Channel.String() + `","maxClaimableAmount":"100","signature":"` + v.Signature.String() + `"}`
	if string(b) != want {
		t.Errorf("got  %s\nwant %s", b, want)
	}
	c, err := json.Marshal(goldenConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	var back Config
	if err := json.Unmarshal(c, &back); err != nil || back != goldenConfig(t) {
		t.Errorf("%s: %v", c, err)
	}
}
