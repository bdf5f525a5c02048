package buyer

import (
	"bytes"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/facilitatortest"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/evm/evmtest"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
	"github.com/depinsim/x402/channel/x402"
)

// TestTransaction holds what we sign against go-ethereum.
func TestTransaction(t *testing.T) {
	key := ledgertest.Key(t, "payer")
	to := channel.Address{0x40, 0x20, 1}
	for _, v := range []uint64{0, 1, 0x7f, 0x80, 0xff, 0x100, 1<<56 - 1, 1 << 56, 1<<64 - 1} {
		for _, n := range []int{0, 1, 4, 55, 56, 228, 255, 256, 1 << 16} {
			data := bytes.Repeat([]byte{byte(v)}, n)
			ours := transaction{chain: 84532, nonce: v, tip: v / 2, most: v, gas: v, to: to, data: data}
			target := common.Address(to)
			number := func(v uint64) *big.Int { return new(big.Int).SetUint64(v) }
			signer := types.LatestSignerForChainID(big.NewInt(84532))
			theirs := types.NewTx(&types.DynamicFeeTx{
				ChainID: big.NewInt(84532), Nonce: v, GasTipCap: number(v / 2), GasFeeCap: number(v), Gas: v, To: &target, Data: data,
			})
			sig := key.Sign(channel.Hash(signer.Hash(theirs)))
			sig[64] -= 27
			signed, err := theirs.WithSignature(signer, sig[:])
			if err != nil {
				t.Fatal(err)
			}
			want, err := signed.MarshalBinary()
			if err != nil {
				t.Fatal(err)
			}
			if got := ours.sign(key); !bytes.Equal(got, want) {
				t.Errorf("%d, %d bytes of data: got %x, want %x", v, n, got, want)
			}
		}
	}
}

func TestEther(t *testing.T) {
	for wei, want := range map[string]string{
		"0": "0", "1": "0.000000000000000001", "1000000000000000000": "1", "12340000000000000000": "12.34", "20000000000000": "0.00002",
	} {
		n, _ := new(big.Int).SetString(wei, 10)
		if got := Ether(n); got != want {
			t.Errorf("%s wei: got %s, want %s", wei, got, want)
		}
	}
}

// onChain is a chain, and a facilitator that settles on it.
func onChain(t *testing.T) (*evmtest.Chain, *facilitator.Client) {
	t.Helper()
	chain := evmtest.Simulated(t, evmtest.Config{})
	client, err := nethttp.New(nethttp.Config{URL: facilitatortest.Serve(t, chain)})
	if err != nil {
		t.Fatal(err)
	}
	return chain, client
}

// TestWithdrawOnChain: the wallet's account sends both steps of a withdrawal
// through the facilitator, and is told what its gas needs.
func TestWithdrawOnChain(t *testing.T) {
	chain, client := onChain(t)
	p := ledgertest.NewParty(t, chain.Params(), 1)
	chain.Mint(p.Payer.Address(), 1000)
	d := p.Deposit(700, 0)
	if _, err := client.Deposit(t.Context(), chain.Params().Network(), chain.Params().Asset(), d); err != nil {
		t.Fatal(err)
	}
	payer, err := channel.NewPayer(&shelf{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := payer.Open(chain.Params().Domain(), p.Config); err != nil {
		t.Fatal(err)
	}
	x := Holdings{Payer: payer, Facilitator: client, Key: p.Payer}
	look := func() Holding {
		t.Helper()
		h, err := x.Look(t.Context(), p.ID)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	if _, err := payer.Observe(p.ID, 700, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := payer.Sign(p.Payer, p.ID, 100, nil); err != nil {
		t.Fatal(err)
	}
	h := look()
	if _, err := x.Begin(t.Context(), h); !errors.Is(err, ErrNoNode) {
		t.Errorf("without a node: %v", err)
	}
	x.Node = aNode(t, chain.URL, 1)
	_, err = x.Begin(t.Context(), h)
	wantText(t, err, " ether on "+chain.Params().Network()+", at most 0.000000000000000001 are allowed")
	x.Node = aNode(t, chain.URL, 1e18)
	_, err = x.Begin(t.Context(), h)
	wantText(t, err, fmt.Sprintf("%s holds 0 on %s: send it what is missing", p.Payer.Address(), chain.Params().Network()))

	chain.Fund(p.Payer.Address())
	if h, err = x.Begin(t.Context(), h); err != nil || h.Withdrawing != 600 || h.WithdrawAt == 0 {
		t.Fatalf("%+v, %v", h, err)
	}
	chain.Advance(ledgertest.Delay * time.Second)
	if h = look(); !h.Due() {
		t.Fatalf("not due: %+v", h)
	}
	if h, err = x.Finish(t.Context(), h); err != nil || h.State.Balance != 100 || h.WithdrawAt != 0 {
		t.Fatalf("%+v, %v", h, err)
	}
	if got := chain.Balance(p.Payer.Address()); got != 900 {
		t.Errorf("the wallet has %s, want 900", got)
	}
}

// TestWithdrawCall holds our calldata against the contract's ABI.
func TestWithdrawCall(t *testing.T) {
	p := ledgertest.NewParty(t, ledger.Params{ChainID: 84532, Token: channel.Address{9}}, 1)
	p.Config.Salt = channel.Hash{1, 2, 3}
	for _, step := range []string{x402.WithdrawInitiate, x402.WithdrawFinalize} {
		want := evmtest.CallOf(t, p.WithdrawOp(t, step, 1<<40, 0))
		if got := withdrawCall(p.Config, x402.Withdraw{Step: step, Amount: 1 << 40}); !bytes.Equal(got, want.Data) {
			t.Errorf("%s: got %x, want %x", step, got, want.Data)
		}
	}
}

func aNode(t *testing.T, url string, most int64) *Node {
	t.Helper()
	n, err := NewNode(url, big.NewInt(most))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func wantText(t *testing.T, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v, want %s", err, text)
	}
}

// TestHostileNode: what a node answers costs no more than allowed, and no error
// tells where it is.
func TestHostileNode(t *testing.T) {
	sane := map[string]string{
		"eth_chainId": "0x7", "eth_getTransactionCount": "0x1", "eth_maxPriorityFeePerGas": "0x1", "eth_gasPrice": "0x2",
		"eth_estimateGas": "0x5208", "eth_getBalance": "0xffffffffffffffffffff",
	}
	var wrong map[string]string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		body.ReadFrom(r.Body)
		for method, result := range sane {
			if !strings.Contains(body.String(), `"`+method+`"`) {
				continue
			}
			if other, ok := wrong[method]; ok {
				result = other
			}
			if strings.HasPrefix(result, "{") || result == "" {
				fmt.Fprint(w, result)
				return
			}
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":1,"result":%q}`, result)
		}
	}))
	defer srv.Close()
	n := aNode(t, srv.URL+"/secret", 1e18)
	fill := func() (transaction, error) {
		tx := transaction{chain: 7}
		return tx, n.fill(t.Context(), &tx, channel.Address{1})
	}
	if _, err := fill(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ method, answer, want string }{
		{"eth_chainId", "0x8", "the node is one of eip155:8, and the channel is on eip155:7"},
		{"eth_chainId", "", "ask the node for eth_chainId: status 200, no answer in JSON-RPC"},
		{"eth_getTransactionCount", "0x10000000000000000", "is too large"},
		{"eth_getTransactionCount", "12", "with no number"},
		{"eth_getTransactionCount", "0x-1", "with no number"},
		{"eth_gasPrice", "0xffffffffffffffff", "price of gas is too large"},
		{"eth_gasPrice", "0xfffffffffffff", "at most 1 are allowed"},
		{"eth_maxPriorityFeePerGas", "0x8000000000000000", "price of gas is too large"},
		{"eth_estimateGas", "0x7a121", "needs 500001 gas, more than 500000"},
		{"eth_estimateGas", `{"error":{"code":3,"message":"execution reverted"}}`, "try the withdrawal: the node refuses eth_estimateGas: execution reverted"},
		{"eth_getBalance", "0x1", "send it what is missing"},
	} {
		wrong = map[string]string{tt.method: tt.answer}
		_, err := fill()
		wantText(t, err, tt.want)
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("it tells the URL: %v", err)
		}
	}
	srv.Close()
	if _, err := fill(); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a node that is gone: %v", err)
	}
	for _, bad := range []string{"", "ws://x", "http://", "x\x00"} {
		if _, err := NewNode(bad, nil); err == nil {
			t.Errorf("%q is taken for a URL", bad)
		}
	}
}
