package server

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
)

// askRPC posts to /rpc.
func askRPC(t *testing.T, s *Server, body string) (out struct {
	ID     json.RawMessage
	Result string
	Error  *rpcError
}) {
	t.Helper()
	resp, err := (&http.Client{Transport: direct{s}}).Post("http://facilitator.test/rpc", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &out); err != nil || resp.StatusCode != 200 {
		t.Fatalf("status %d, %v: %s", resp.StatusCode, err, b)
	}
	return out
}

// TestRPC reads what stock clients read. The selectors are those of the
// contract's published ABI.
func TestRPC(t *testing.T) {
	s, c, p := setup(t)
	if _, err := c.Deposit(t.Context(), s.params.Network(), s.params.Asset(), p.Deposit(1_000, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Claim(t.Context(), s.params.Network(), p.Claim(300, 255)); err != nil {
		t.Fatal(err)
	}
	word := func(v uint64) string { return fmt.Sprintf("%064x", v) }
	call := func(to channel.Address, field, data string) string {
		return fmt.Sprintf(`{"jsonrpc":"2.0","id":7,"method":"eth_call","params":[{"to":%q,%q:%q},"latest"]}`, strings.ToLower(to.String()), field, data)
	}
	contract, token := s.params.Domain().Contract, s.params.Token
	payer := strings.ToLower(p.Config.Payer.String()[2:])
	for name, tt := range map[string]struct{ ask, want string }{
		"chain":            {`{"jsonrpc":"2.0","id":7,"method":"eth_chainId","params":[]}`, fmt.Sprintf("%#x", s.params.ChainID)},
		"channel":          {call(contract, "data", "0x7a7ebd7b"+p.ID.String()[2:]), "0x" + word(1_000) + word(255)},
		"channel, unknown": {call(contract, "input", "0x7a7ebd7b"+word(5)), "0x" + word(0) + word(0)},
		"balance":          {call(token, "data", "0x70a08231"+word(0)[:24]+payer), "0x" + word(9_999_000)},
	} {
		if got := askRPC(t, s, tt.ask); got.Result != tt.want || got.Error != nil || string(got.ID) != "7" {
			t.Errorf("%s: %+v, want %s", name, got, tt.want)
		}
	}
	for name, tt := range map[string]struct {
		ask  string
		code int
	}{
		"no JSON":        {`{`, rpcInvalid},
		"a batch":        {`[{"jsonrpc":"2.0","id":7,"method":"eth_chainId"}]`, rpcInvalid},
		"another method": {`{"jsonrpc":"2.0","id":7,"method":"eth_sendRawTransaction","params":["0x"]}`, rpcNoMethod},
		"no call":        {`{"jsonrpc":"2.0","id":7,"method":"eth_call"}`, rpcParams},
		"call of null":   {`{"jsonrpc":"2.0","id":7,"method":"eth_call","params":[null]}`, rpcParams},
		"no address":     {`{"jsonrpc":"2.0","id":7,"method":"eth_call","params":[{"to":"0x12"}]}`, rpcParams},
		"of nobody":      {call(channel.Address{9}, "data", "0x70a08231"+word(0)), rpcParams},
		"no function":    {call(token, "data", "0x12345678"+word(0)), rpcParams},
		"short":          {call(token, "data", "0x70a08231"), rpcParams},
		"no hex":         {call(token, "data", "0xzz"), rpcParams},
	} {
		if got := askRPC(t, s, tt.ask); got.Error == nil || got.Error.Code != tt.code || got.Result != "" {
			t.Errorf("%s: %+v, want code %d", name, got, tt.code)
		}
	}
}

// FuzzRPC: no call makes the server panic.
func FuzzRPC(f *testing.F) {
	s, err := New(Config{Ledger: ledger.NewMemory(testParams())})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(`{"to":"0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003","data":"0x7a7ebd7b0000000000000000000000000000000000000000000000000000000000000005"}`)
	f.Fuzz(func(t *testing.T, call string) {
		v, err := s.parseCall([]json.RawMessage{json.RawMessage(call)})
		if err == nil && len(v.result(ledger.NewState(s.params)))%32 != 0 {
			t.Error("half a word")
		}
	})
}
