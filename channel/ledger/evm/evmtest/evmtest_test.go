package evmtest

import (
	"bytes"
	"encoding/hex"
	"flag"
	"math/big"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
	"github.com/depinsim/x402/channel/x402"
)

var update = flag.Bool("update", false, "write contracts.json")

// TestContracts: contracts.json is what the pinned compiler makes of contracts/.
func TestContracts(t *testing.T) {
	modules := npm(t)
	cmd := exec.CommandContext(t.Context(), "node", "npm/compile.js", "contracts")
	cmd.Env = append(os.Environ(), "NODE_PATH="+modules)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, complaints.Bytes())
	}
	if *update {
		if err := os.WriteFile("contracts.json", out, 0o644); err != nil {
			t.Fatal(err)
		}
	} else if !bytes.Equal(out, contractsJSON) {
		t.Error("contracts.json is not made of contracts/: run go generate ./channel/ledger/evm/evmtest")
	}
}

// TestSignatures: what the client and the facilitator of @x402/evm 2.27.0 call
// and read, as the ABI in that package says it.
func TestSignatures(t *testing.T) {
	const config = "(address,address,address,address,address,uint40,bytes32)"
	const claims = "((" + config + ",uint128),bytes,uint128)[]"
	const authorization = "(address,address,uint256,uint256,uint256,bytes32,"
	for contract, signatures := range map[string]map[string]string{
		"X402BatchSettlement": {
			"multicall":               "multicall(bytes[]) bytes[] results",
			"deposit":                 "deposit(" + config + ",uint128,address,bytes)",
			"claim":                   "claim(" + claims + ")",
			"claimWithSignature":      "claimWithSignature(" + claims + ",bytes)",
			"settle":                  "settle(address,address)",
			"initiateWithdraw":        "initiateWithdraw(" + config + ",uint128)",
			"finalizeWithdraw":        "finalizeWithdraw(" + config + ")",
			"refund":                  "refund(" + config + ",uint128)",
			"refundWithSignature":     "refundWithSignature(" + config + ",uint128,uint256,bytes)",
			"getChannelId":            "getChannelId(" + config + ") bytes32",
			"CHANNEL_CONFIG_TYPEHASH": "CHANNEL_CONFIG_TYPEHASH() bytes32",
			"channels":                "channels(bytes32) uint128 balance uint128 totalClaimed",
			"pendingWithdrawals":      "pendingWithdrawals(bytes32) uint128 amount uint40 initiatedAt",
			"receivers":               "receivers(address,address) uint128 totalClaimed uint128 totalSettled",
			"getVoucherDigest":        "getVoucherDigest(bytes32,uint128) bytes32",
			"getRefundDigest":         "getRefundDigest(bytes32,uint256,uint128) bytes32",
			"refundNonce":             "refundNonce(bytes32) uint256",
			"getClaimBatchDigest":     "getClaimBatchDigest(" + claims + ") bytes32",
			"Settled":                 "Settled(address,address,address,uint128) indexed receiver indexed token indexed sender amount",
		},
		"TestToken": {
			"transferWithAuthorization":  "transferWithAuthorization" + authorization + "bytes)",
			"transferWithAuthorization0": "transferWithAuthorization" + authorization + "uint8,bytes32,bytes32)",
			"receiveWithAuthorization":   "receiveWithAuthorization" + authorization + "bytes)",
			"authorizationState":         "authorizationState(address,bytes32) bool",
			"balanceOf":                  "balanceOf(address) uint256",
			"name":                       "name() string",
			"version":                    "version() string",
			"decimals":                   "decimals() uint8",
		},
		"Multicall3": {
			"tryAggregate": "tryAggregate(bool,(address,bytes)[]) (bool,bytes)[] results",
			"aggregate3":   "aggregate3((address,bool,bytes)[]) (bool,bytes)[] results",
		},
	} {
		a, err := Compiled(contract)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range signatures {
			if got := signature(a.ABI, name); got != want {
				t.Errorf("%s has %q, want %q", contract, got, want)
			}
		}
	}
}

// signature writes out a method and what it returns, or an event.
func signature(a abi.ABI, name string) string {
	method := a.Methods[name]
	words := []string{method.Sig}
	for _, out := range method.Outputs {
		words = append(words, out.Type.String(), out.Name)
	}
	if e, ok := a.Events[name]; ok {
		words = []string{e.Sig}
		for _, in := range e.Inputs {
			if in.Indexed {
				words = append(words, "indexed")
			}
			words = append(words, in.Name)
		}
	}
	return strings.TrimSpace(strings.Join(words, " "))
}

// kinds are the chains that a test runs on.
var kinds = map[string]func(testing.TB, Config) *Chain{"simulated": Simulated, "anvil": Anvil}

func onEach(t *testing.T, c Config, test func(*testing.T, *Chain)) {
	for name, start := range kinds {
		t.Run(name, func(t *testing.T) { test(t, start(t, c)) })
	}
}

// The vector of the npm client 2.27, see package channel's golden test.
func TestGolden(t *testing.T) {
	onEach(t, Config{}, func(t *testing.T, c *Chain) {
		payer := common.HexToAddress("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")
		receiver := common.HexToAddress("0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC")
		token := common.HexToAddress("0x5fbdb2315678afecb367f032d93f642f64180aa3")
		config := channelConfig{payer, payer, receiver, receiver, token, big.NewInt(900), [32]byte{}}
		at, name := channel.SettlementContract(), "X402BatchSettlement"
		hash := func(v []any) channel.Hash { return v[0].([32]byte) }
		golden := func(what string, got channel.Hash, want string) {
			t.Helper()
			if got.String() != want {
				t.Errorf("%s is %s, want %s", what, got, want)
			}
		}
		const id = "0x2624f266d2038271944a71f08881e8b539767f6b5d633239273d133893e21476"
		golden("channel id", hash(c.View(at, name, "getChannelId", config)), id)

		// The contract has no view for its domain; the id is made of it.
		separator, err := hex.DecodeString("fdef80764086b1e0fc6ba99f0cb9aa1d59109fda7c23d60334c89d2de44dffce")
		if err != nil {
			t.Fatal(err)
		}
		typeHash := hash(c.View(at, name, "CHANNEL_CONFIG_TYPEHASH"))
		fields := pack(t, name, "getChannelId", config)[4:]
		structHash := channel.Keccak256(typeHash[:], fields)
		golden("channel id of the domain", channel.Keccak256([]byte{0x19, 1}, separator, structHash[:]), id)

		idHash, err := channel.ParseID(id)
		if err != nil {
			t.Fatal(err)
		}
		digest := c.View(at, name, "getVoucherDigest", idHash, big.NewInt(100))
		golden("digest of 100", hash(digest), "0x11cc7ce5070c3e1362f215e34383f0280659764ae3c8bd127e9b9dbab68e595f")
		sig, err := hex.DecodeString("08582182b08912eca2a1d0135e3e9536ae7f4573806b6d39bf9beb17423033cc7b3389549b6db29d324564607f3f554b3eaa4f19fbcf70397a4248ccd234517c1b")
		if err != nil {
			t.Fatal(err)
		}
		if signer, err := channel.Recover(hash(digest), channel.Signature(sig)); err != nil || signer != channel.Address(payer) {
			t.Errorf("voucher of 100 is signed by %s, %v", signer, err)
		}
	})
}

// TestDigests: the contract hashes what it is asked to sign as package channel does.
func TestDigests(t *testing.T) {
	c := Simulated(t, Config{ID: 1337})
	p := ledgertest.NewParty(t, c.Params(), 1)
	at, name := channel.SettlementContract(), "X402BatchSettlement"
	op := p.ClaimOp(t, 100, 90)
	op.Rows = append(op.Rows, p.ClaimOp(t, 7, 6).Rows...)
	d := c.Params().Domain()
	for what, row := range map[string]struct {
		got  []any
		want channel.Hash
	}{
		"channel": {c.View(at, name, "getChannelId", configOf(p.Config)), channel.Hash(p.ID)},
		"voucher": {c.View(at, name, "getVoucherDigest", p.ID, big.NewInt(5)), d.VoucherDigest(p.ID, 5)},
		"refund":  {c.View(at, name, "getRefundDigest", p.ID, big.NewInt(7), big.NewInt(830)), d.RefundDigest(p.ID, 7, 830)},
		"claims": {c.View(at, name, "getClaimBatchDigest", claimsOf(op.Rows)),
			d.ClaimDigest([]channel.ClaimEntry{{Channel: p.ID, Max: 100, TotalClaimed: 90}, {Channel: p.ID, Max: 7, TotalClaimed: 6}})},
	} {
		if channel.Hash(row.got[0].([32]byte)) != row.want {
			t.Errorf("%s is %x, want %s", what, row.got[0], row.want)
		}
	}
}

// TestLife is the way every channel should go, and what each step costs.
func TestLife(t *testing.T) {
	onEach(t, Config{}, func(t *testing.T, c *Chain) {
		p := ledgertest.NewParty(t, c.Params(), 1)
		relay := ledgertest.Key(t, "relay")
		c.Fund(relay.Address(), p.Payer.Address())
		c.Mint(p.Payer.Address(), 5_000_000)
		do := func(from *channel.Key, op ledger.Op) {
			t.Helper()
			r := c.Send(from, CallOf(t, op))
			if r.Status != types.ReceiptStatusSuccessful {
				t.Fatalf("%T was reverted", op)
			}
			t.Logf("%T: %d gas", op, r.GasUsed)
		}
		do(relay, p.DepositOp(t, 2_000_000))
		do(relay, p.ClaimOp(t, 1_200_000, 1_000_000))
		do(relay, p.Settle())
		do(relay, p.RefundOp(t, 100_000, 0))
		do(relay, p.RefundOp(t, 100_000, 1, p.Row(1_200_000, 1_100_000)))
		do(p.Payer, p.WithdrawOp(t, x402.WithdrawInitiate, 500_000, 0))
		finalize := CallOf(t, p.WithdrawOp(t, x402.WithdrawFinalize, 0, 0))
		c.Advance((ledgertest.Delay - 10) * time.Second)
		if r := c.Send(p.Payer, finalize); r.Status != types.ReceiptStatusFailed {
			t.Error("a withdrawal was finalized before its time")
		}
		c.Advance(10 * time.Second)
		do(p.Payer, p.WithdrawOp(t, x402.WithdrawFinalize, 0, 0))
		do(relay, p.Settle())
		do(relay, ledger.TransferOf(p.Transfer(100)))

		want := ledger.Channel{Balance: 1_300_000, Claimed: 1_100_000, RefundNonce: 2}
		if got := c.Channel(p.ID); got != want {
			t.Errorf("channel is %+v, want %+v", got, want)
		}
		if got := c.Receiver(p.Config.Receiver); got != (ledger.Receiver{Claimed: 1_100_000, Settled: 1_100_000}) {
			t.Errorf("receiver is %+v", got)
		}
		for who, row := range map[channel.Address]channel.Amount{
			p.Config.Payer: 3_699_900, p.Config.Receiver: 1_100_100, channel.SettlementContract(): 200_000, channel.ERC3009Collector(): 0,
		} {
			if got := c.Balance(who); got != row {
				t.Errorf("%s has %s, want %s", who, got, row)
			}
		}
	})
}

// TestChain: what a test may do to a chain.
func TestChain(t *testing.T) {
	onEach(t, Config{ID: 31337}, func(t *testing.T, c *Chain) {
		if id, err := c.Client.ChainID(t.Context()); err != nil || id.Uint64() != 31337 {
			t.Fatalf("chain id is %d, %v", id, err)
		}
		who := ledgertest.Key(t, "who").Address()
		before := c.Time()
		c.Advance(time.Hour)
		if got := c.Time(); got != before+3600 {
			t.Errorf("after an hour it is %d s later", got-before)
		}
		c.Mint(who, 5)
		c.Mint(who, 6)
		c.Reorg(1)
		if got := c.Balance(who); got != 5 {
			t.Errorf("after a reorganisation the balance is %s, want 5", got)
		}
		c.Mint(who, 7)
		if got := c.Balance(who); got != 12 {
			t.Errorf("balance is %s, want 12", got)
		}

		c.StopMining()
		hash := c.start(c.faucet, Token(), pack(t, "TestToken", "mint", common.Address(who), big.NewInt(1)), nil)
		if _, err := c.Client.TransactionReceipt(t.Context(), hash); err == nil || c.Balance(who) != 12 {
			t.Error("a transaction was mined while mining was stopped")
		}
		c.Mine()
		if c.receipt(hash); c.Balance(who) != 13 {
			t.Error("a transaction in the pool was not mined")
		}
		hash = c.start(c.faucet, Token(), pack(t, "TestToken", "mint", common.Address(who), big.NewInt(1)), nil)
		c.StartMining()
		if c.receipt(hash); c.Balance(who) != 14 {
			t.Error("a transaction in the pool was not mined")
		}
		c.Mint(who, 1)
	})
}
