package directory

import (
	"strings"
	"testing"
	"time"
)

// charging is a file of a relay that charges.
const charging = minimal + `
[price]
per_gb = "0.5"
[payment]
state_dir = "state"
facilitator = "https://facilitator.example"
network = "eip155:84532"
asset = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
asset_name = "USDC"
asset_version = "2"
pay_to = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
`

func TestConfigToll(t *testing.T) {
	f, err := parseConfig("/etc/relay.toml", []byte(charging))
	if err != nil || f.Warnings != nil {
		t.Fatal(err, f.Warnings)
	}
	c := f.Config.Toll.withDefaults()
	if c.Price != 500_000 || c.StateDir != "/etc/state" || c.Payment.WithdrawDelay != 86400 || c.Payment.MinDeposit != 100_000 ||
		c.SettleEvery != 24*time.Hour || c.SettleAt != 1_000_000 || c.Credit.Cap != 50_000 || c.TotalCredit != 1_000_000 {
		t.Errorf("%+v", c)
	}
	for name, tt := range map[string]struct{ old, new, want string }{
		"free":           {`"0.5"`, `"0"`, ""},
		"number":         {`"0.5"`, `0.5`, "price.per_gb: want USD in quotes"},
		"negative":       {`"0.5"`, `"-1"`, "price.per_gb: amount"},
		"too dear":       {`"0.5"`, `"1000001"`, "is over"},
		"no directory":   {`state_dir = "state"`, ``, "payment.state_dir: missing"},
		"facilitator":    {`https:`, `ftp:`, "payment.facilitator: facilitator URL"},
		"network":        {`eip155:84532`, `base`, "payment.network: network"},
		"asset":          {`"0x036`, `"0x`, "payment.asset: address"},
		"nobody":         {`0x70997970C51812dc3A010C7d01b50e0d17dc79C8`, `0x0000000000000000000000000000000000000000`, "payment.pay_to: nobody's address"},
		"no name":        {`"USDC"`, `""`, "payment.asset_name: want the name"},
		"delay":          {`state_dir`, "withdraw_delay = '1h'\nstate_dir", "payment.withdraw_delay:"},
		"deposit":        {`state_dir`, "min_deposit = '0'\nstate_dir", "payment.min_deposit: want"},
		"credit":         {`[payment]`, "[credit]\ncap = '0.00001'\n[payment]", ""},
		"no credit":      {`[payment]`, "[credit]\ncap = '0'\n[payment]", "credit.cap: want"},
		"all is lost":    {`[payment]`, "[credit]\nloss_percent = 101\n[payment]", "credit.loss_percent: 101"},
		"settle":         {`[payment]`, "[settle]\nevery = '1s'\n[payment]", "settle.every:"},
		"unknown":        {`state_dir`, "pay_too = '1'\nstate_dir", "[payment] has state_dir"},
		"nothing is set": {charging[strings.Index(charging, "[payment]"):], "", "payment.state_dir, payment.facilitator, payment.network"},
	} {
		_, err := parseConfig("relay.toml", []byte(strings.Replace(charging, tt.old, tt.new, 1)))
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for text, want := range map[string]string{
		strings.Replace(charging, `"0.5"`, `"0"`, 1):  "price.per_gb: not set, so the relay is free",
		strings.Replace(charging, "https", "http", 1): "payment.facilitator: http:",
	} {
		f, err := parseConfig("relay.toml", []byte(text))
		if err != nil || len(f.Warnings) != 1 || !strings.Contains(f.Warnings[0], want) {
			t.Errorf("%v, %q", err, f.Warnings)
		}
	}
}
