// Package evmtest gives a test an EVM chain of its own, with a double of the
// x402 settlement contract, its deposit collector, a test token and Multicall3
// where clients expect them:
//
//	chain := evmtest.Simulated(t, evmtest.Config{}) // or evmtest.Anvil
//	chain.Fund(payer.Address())                     // gas
//	chain.Mint(payer.Address(), 5_000_000)          // the token
//	home := open(chain.URL)                         // JSON-RPC over HTTP on loopback
//	chain.Advance(24 * time.Hour)
//
// Both chains do the same for the same calls. Simulated is go-ethereum inside
// the test's process; Anvil is another maker's node, a program from npm.
//
// The contracts are our own, written from the standard's text and the published
// ABI, and only for tests: anyone may mint the token. Their runtime code is in
// contracts.json, which go generate makes from contracts/.
package evmtest

import (
	"context"
	"encoding/binary"
	"math/big"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/core/vm"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/ethclient"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
)

// ChainID is that of Base Sepolia, whose USDC the clients of others know.
const ChainID = 84532

// Token returns where the test token stands: the address of USDC on Base Sepolia.
func Token() channel.Address {
	return channel.Address(common.HexToAddress("0x036CbD53842c5426634e7929541eC2318f3dCF7e"))
}

// Multicall3 returns where Multicall3 stands, on every chain.
func Multicall3() channel.Address {
	return channel.Address(common.HexToAddress("0xcA11bde05977b3631167028862bE2a173976CA11"))
}

// A Config says how a chain begins.
type Config struct {
	ID    uint64     // chain id; 0: ChainID
	Place []Contract // besides the usual ones
}

// A Contract is code at an address from the first block on.
type Contract struct {
	Address channel.Address
	Name    string                        // of one of the contracts in contracts/; empty: Code is its
	Storage map[channel.Hash]channel.Hash // slots that are not zero
	Code    []byte
}

// runtime is what stands on the chain.
func (c Contract) runtime(t testing.TB) []byte {
	t.Helper()
	if c.Name == "" {
		return c.Code
	}
	a, err := Compiled(c.Name)
	if err != nil {
		t.Fatal(err)
	}
	return a.Runtime
}

// GasPriceOracle returns that of a rollup of the OP stack, which takes so much for
// each byte of a transaction (docs.optimism.io, predeploys): a stub of getL1Fee, and
// of nothing else. The chain itself charges nothing.
func GasPriceOracle(weiPerByte uint64) Contract {
	var slot channel.Hash
	binary.BigEndian.PutUint64(slot[24:], weiPerByte)
	return Contract{
		Address: channel.Address(common.HexToAddress("0x420000000000000000000000000000000000000F")),
		// The call is a selector, 32 bytes of an offset, and at 36 the length, which
		// times slot 0 is the answer.
		Code: []byte{
			byte(vm.PUSH1), 36, byte(vm.CALLDATALOAD), byte(vm.PUSH1), 0, byte(vm.SLOAD), byte(vm.MUL),
			byte(vm.PUSH1), 0, byte(vm.MSTORE), byte(vm.PUSH1), 32, byte(vm.PUSH1), 0, byte(vm.RETURN),
		},
		Storage: map[channel.Hash]channel.Hash{{}: slot},
	}
}

// TokenAt returns a token contract ("TestToken" or "FeeToken") at an address,
// with its EIP-712 domain; name and version have at most 31 bytes.
func TokenAt(a channel.Address, contract, name, version string) Contract {
	return Contract{Address: a, Name: contract, Storage: map[channel.Hash]channel.Hash{{}: shortString(name), {31: 1}: shortString(version)}}
}

// WalletAt returns an EIP-1271 wallet of owner at an address.
func WalletAt(a, owner channel.Address) Contract {
	var slot channel.Hash
	copy(slot[12:], owner[:])
	return Contract{Address: a, Name: "Wallet", Storage: map[channel.Hash]channel.Hash{{}: slot}}
}

// shortString is how Solidity stores a string of at most 31 bytes.
func shortString(s string) (slot channel.Hash) {
	if len(s) > 31 {
		panic("evmtest: string does not fit a slot: " + s)
	}
	copy(slot[:], s)
	slot[31] = byte(2 * len(s))
	return slot
}

func (c Config) fill() Config {
	if c.ID == 0 {
		c.ID = ChainID
	}
	c.Place = append([]Contract{
		{Address: channel.SettlementContract(), Name: "X402BatchSettlement"},
		{Address: channel.ERC3009Collector(), Name: "ERC3009DepositCollector"},
		{Address: Multicall3(), Name: "Multicall3"},
		TokenAt(Token(), "TestToken", "USDC", "2"),
	}, c.Place...)
	return c
}

// A Chain is a chain of one test. Its methods end the test when they fail, so
// they are for the test's own goroutine; URL and Client are for everyone.
type Chain struct {
	URL    string // JSON-RPC over HTTP, on loopback
	ID     uint64
	Client *ethclient.Client // of URL

	t      testing.TB
	node   node
	faucet *channel.Key
}

// A node is what the two kinds of chain do differently.
type node interface {
	automine(context.Context, bool) error
	mine(context.Context) error
	advance(context.Context, time.Duration) error
	reorg(ctx context.Context, depth int) error
}

// faucetEther is what the faucet has, in ether; funded accounts get fundEther.
const (
	faucetEther = 1_000_000
	fundEther   = 10
)

func ether(n int64) *big.Int { return new(big.Int).Mul(big.NewInt(n), big.NewInt(1e18)) }

func newChain(t testing.TB, id uint64, url string, n node) *Chain {
	t.Helper()
	client, err := ethclient.DialContext(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &Chain{URL: url, ID: id, Client: client, t: t, node: n, faucet: faucet(t)}
}

func faucet(t testing.TB) *channel.Key { return ledgertest.Key(t, "evmtest faucet") }

// Params returns what a ledger has that settles on this chain in the test token.
func (c *Chain) Params() ledger.Params {
	return ledger.Params{ChainID: c.ID, Token: Token(), Name: "USDC", Version: "2"}
}

// Fund gives accounts 10 ether each, for gas.
func (c *Chain) Fund(accounts ...channel.Address) {
	c.t.Helper()
	for _, a := range accounts {
		c.mustSend(c.faucet, a, nil, ether(fundEther))
	}
}

// Mint gives an account units of the test token.
func (c *Chain) Mint(to channel.Address, amount channel.Amount) {
	c.t.Helper()
	c.MintOf(Token(), to, amount)
}

// MintOf gives an account units of another token; see TokenAt.
func (c *Chain) MintOf(token, to channel.Address, amount channel.Amount) {
	c.t.Helper()
	c.mustSend(c.faucet, token, pack(c.t, "TestToken", "mint", common.Address(to), units(amount)), nil)
}

// StopMining leaves transactions in the pool until Mine or StartMining.
func (c *Chain) StopMining() { c.t.Helper(); c.check(c.node.automine(c.t.Context(), false)) }

// StartMining mines what is in the pool, and from then on each transaction as it
// comes, which is what a chain does at first.
func (c *Chain) StartMining() { c.t.Helper(); c.check(c.node.automine(c.t.Context(), true)); c.Mine() }

// Mine makes one block of what is in the pool.
func (c *Chain) Mine() { c.t.Helper(); c.check(c.node.mine(c.t.Context())) }

// Advance makes one empty block that comes d after the newest, to the second.
// The pool must be empty.
func (c *Chain) Advance(d time.Duration) { c.t.Helper(); c.check(c.node.advance(c.t.Context(), d)) }

// Reorg replaces the newest blocks, as many as depth says, by empty ones. Their
// transactions are gone, and may be sent again. The pool must be empty.
func (c *Chain) Reorg(depth int) { c.t.Helper(); c.check(c.node.reorg(c.t.Context(), depth)) }

// Time returns the newest block's time in Unix seconds.
func (c *Chain) Time() uint64 {
	c.t.Helper()
	head, err := c.Client.HeaderByNumber(c.t.Context(), nil)
	c.check(err)
	return head.Time
}

// Send sends a call from an account that has gas, waits until it is mined, and
// returns the receipt, whose Status says whether it was reverted.
func (c *Chain) Send(from *channel.Key, call Call) *types.Receipt {
	c.t.Helper()
	return c.send(from, call.To, call.Data, nil)
}

func (c *Chain) mustSend(from *channel.Key, to channel.Address, data []byte, value *big.Int) {
	c.t.Helper()
	if r := c.send(from, to, data, value); r.Status != types.ReceiptStatusSuccessful {
		c.t.Fatalf("transaction to %s was reverted", to)
	}
}

// gasLimit is that of every transaction, so that a call that must fail is mined
// all the same: deposits on 100 channels fit, and no chain mines more than 2^24 (EIP-7825).
const gasLimit = 16_000_000

func (c *Chain) send(from *channel.Key, to channel.Address, data []byte, value *big.Int) *types.Receipt {
	c.t.Helper()
	return c.receipt(c.start(from, to, data, value))
}

func (c *Chain) start(from *channel.Key, to channel.Address, data []byte, value *big.Int) common.Hash {
	c.t.Helper()
	ctx := c.t.Context()
	nonce, err := c.Client.PendingNonceAt(ctx, common.Address(from.Address()))
	c.check(err)
	head, err := c.Client.HeaderByNumber(ctx, nil)
	c.check(err)
	secret, err := crypto.ToECDSA(from.Bytes())
	c.check(err)
	id, tip, target := new(big.Int).SetUint64(c.ID), big.NewInt(1e9), common.Address(to)
	tx, err := types.SignNewTx(secret, types.LatestSignerForChainID(id), &types.DynamicFeeTx{
		ChainID: id, Nonce: nonce, GasTipCap: tip, GasFeeCap: new(big.Int).Add(tip, new(big.Int).Lsh(head.BaseFee, 1)),
		Gas: gasLimit, To: &target, Value: value, Data: data,
	})
	c.check(err)
	c.check(c.Client.SendTransaction(ctx, tx))
	return tx.Hash()
}

// receipt waits for a transaction to be mined; Anvil answers before it is.
func (c *Chain) receipt(tx common.Hash) *types.Receipt {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for {
		r, err := c.Client.TransactionReceipt(ctx, tx)
		if err == nil {
			return r
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			c.t.Fatalf("transaction %s was not mined: %v", tx, err)
		}
	}
}

func (c *Chain) check(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}
