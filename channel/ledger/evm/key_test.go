package evm

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/accounts/keystore"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger/evm/evmtest"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
)

func write(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadKey(t *testing.T) {
	key := ledgertest.Key(t, "facilitator")
	secret := hex.EncodeToString(key.Bytes())
	private, err := crypto.ToECDSA(key.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := keystore.EncryptKey(&keystore.Key{Address: common.Address(key.Address()), PrivateKey: private}, "pass", keystore.LightScryptN, keystore.LightScryptP)
	if err != nil {
		t.Fatal(err)
	}
	store := write(t, "store", string(sealed), 0o600)
	plain := write(t, "plain", secret+"\n", 0o600)
	pass := write(t, "pass", "pass\n", 0o600)
	for name, tt := range map[string]struct {
		file KeyFile
		want string // of the error; "" wants the key
	}{
		"keystore":                {KeyFile{Path: store, Passphrase: pass}, ""},
		"plain":                   {KeyFile{Path: plain, Plain: true}, ""},
		"plain with 0x":           {KeyFile{Path: write(t, "p", "0x"+secret, 0o600), Plain: true}, ""},
		"plain on a real chain":   {KeyFile{Path: plain}, "is not encrypted"},
		"no passphrase":           {KeyFile{Path: store}, "--passphrase-file is required"},
		"wrong passphrase":        {KeyFile{Path: store, Passphrase: write(t, "w", "other", 0o600)}, "could not decrypt"},
		"others may read it":      {KeyFile{Path: write(t, "o", secret, 0o644), Plain: true}, "chmod 600"},
		"passphrase for others":   {KeyFile{Path: store, Passphrase: write(t, "q", "pass", 0o640)}, "chmod 600"},
		"missing":                 {KeyFile{Path: "nowhere", Plain: true}, "no such file"},
		"not hexadecimal":         {KeyFile{Path: write(t, "n", strings.Repeat("x", 64), 0o600), Plain: true}, "neither a keystore nor hexadecimal"},
		"too short":               {KeyFile{Path: write(t, "s", secret[:62], 0o600), Plain: true}, "31 bytes"},
		"a folder":                {KeyFile{Path: t.TempDir(), Plain: true}, "not a file"},
		"keystore that is broken": {KeyFile{Path: write(t, "b", "{}", 0o600), Passphrase: pass}, "version"},
	} {
		s, err := LoadKey(tt.file)
		switch {
		case tt.want == "" && (err != nil || s.Account() != key.Address()):
			t.Errorf("%s: %v", name, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		case err != nil && strings.Contains(err.Error(), secret[:16]):
			t.Errorf("%s: the key is told: %v", name, err)
		case s != nil && strings.Contains(fmt.Sprintf("%v %+v %#v", s, s, *s), secret[:16]):
			t.Errorf("%s: the key is printed", name)
		}
	}
}

// clef signs as the program of that name does. bend may alter what it was asked
// to sign.
func clef(t *testing.T, key *channel.Key, bend func(*types.DynamicFeeTx)) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var m struct {
			ID     json.RawMessage `json:"id"`
			Method string          `json:"method"`
			Params []struct {
				From, To             common.Address
				Gas, Nonce           hexutil.Uint64
				MaxFeePerGas         *hexutil.Big
				MaxPriorityFeePerGas *hexutil.Big
				Value, ChainID       *hexutil.Big
				Input                hexutil.Bytes
			} `json:"params"`
		}
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil || m.Method != "account_signTransaction" || len(m.Params) != 1 {
			t.Errorf("%+v, %v", m, err)
			return
		}
		p := m.Params[0]
		data := &types.DynamicFeeTx{
			ChainID: (*big.Int)(p.ChainID), Nonce: uint64(p.Nonce), To: &p.To, Gas: uint64(p.Gas), Data: p.Input,
			GasFeeCap: (*big.Int)(p.MaxFeePerGas), GasTipCap: (*big.Int)(p.MaxPriorityFeePerGas), Value: (*big.Int)(p.Value),
		}
		if bend != nil {
			bend(data)
		}
		tx, err := withKey(key).sign(t.Context(), types.NewTx(data), types.LatestSignerForChainID(data.ChainID))
		if err != nil {
			t.Error(err)
			return
		}
		raw, err := tx.MarshalBinary()
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"raw":"0x%x","tx":{}}}`, m.ID, raw)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// TestExternal: another program signs, and nothing else than it was asked to.
func TestExternal(t *testing.T) {
	key := ledgertest.Key(t, "facilitator")
	if _, err := External(t.Context(), clef(t, key, nil), channel.Address{}); err == nil {
		t.Error("an account of nobody")
	}
	s, err := External(t.Context(), clef(t, key, nil), key.Address())
	if err != nil {
		t.Fatal(err)
	}
	w, _, p := funded(t, func(c *Config) { c.Signer = s })
	w.submit(t, p.DepositOp(t, 1000))
	if w.balance(t, p) != 1000 {
		t.Error("no deposit")
	}
	to := common.Address{1}
	tx := types.NewTx(&types.DynamicFeeTx{ChainID: big.NewInt(5), GasFeeCap: big.NewInt(1), GasTipCap: big.NewInt(1), To: &to})
	for name, url := range map[string]string{
		"another key":         clef(t, ledgertest.Key(t, "thief"), nil),
		"another transaction": clef(t, key, func(d *types.DynamicFeeTx) { d.Value = big.NewInt(1) }),
	} {
		s, err := External(t.Context(), url, key.Address())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.sign(t.Context(), tx, types.LatestSignerForChainID(big.NewInt(5))); err == nil || !strings.Contains(err.Error(), "another transaction") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOpen: nothing is opened on another chain, contract or token than was said,
// and no contract of others on a public chain.
func TestOpen(t *testing.T) {
	other := channel.Address{7, 7}
	chain := evmtest.Simulated(t, evmtest.Config{Place: []evmtest.Contract{{Address: other, Name: "X402BatchSettlement"}}})
	p := chain.Params()
	good := Config{
		RPC: chain.URL, ChainID: p.ChainID, Token: p.Token, Name: p.Name, Version: p.Version,
		Signer: withKey(ledgertest.Key(t, "facilitator")),
	}
	for name, tt := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"as it is":           {func(*Config) {}, ""},
		"canonical by name":  {func(c *Config) { c.Contract, c.Collector = channel.SettlementContract(), channel.ERC3009Collector() }, ""},
		"another chain":      {func(c *Config) { c.ChainID = 8453 }, "the node is of chain eip155:84532, wanted is eip155:8453"},
		"no such token":      {func(c *Config) { c.Token = channel.Address{9} }, "no contract at"},
		"another name":       {func(c *Config) { c.Name = "USD Coin" }, `does not sign as "USD Coin" version "2"`},
		"another contract":   {func(c *Config) { c.Contract = other }, "--allow-custom-contract"},
		"it is allowed":      {func(c *Config) { c.Contract, c.AllowCustom = other, true }, ""},
		"another collector":  {func(c *Config) { c.Collector = other }, "--allow-custom-contract"},
		"no contract at all": {func(c *Config) { c.Contract, c.AllowCustom = p.Token, true }, "the chain's node: eth_call"},
		"no node":            {func(c *Config) { c.RPC = "http://127.0.0.1:1/key" }, "connection refused"},
		"no URL":             {func(c *Config) { c.RPC = "127.0.0.1:1" }, "want http://"},
		"no signer":          {func(c *Config) { c.Signer = nil }, "Signer is nil"},
		"no token":           {func(c *Config) { c.Token = channel.Address{} }, "Token is zero"},
		"no chain":           {func(c *Config) { c.ChainID = 0 }, "ChainID is zero"},
	} {
		c := good
		c.Dir = t.TempDir()
		tt.change(&c)
		h, err := Open(t.Context(), c)
		if tt.want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if err := h.Close(); err != nil {
				t.Error(err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "127.0.0.1") {
			t.Errorf("%s: got %v, want %q, and not where the node is", name, err, tt.want)
		}
	}
}

// TestFolder: a journal has one process, and one chain and account for ever.
func TestFolder(t *testing.T) {
	w, _, _ := funded(t, nil)
	if _, err := Open(t.Context(), w.config); err == nil || !strings.Contains(err.Error(), ErrInUse.Error()) {
		t.Errorf("got %v, want ErrInUse", err)
	}
	w.stop()
	c := w.config
	c.Signer = withKey(ledgertest.Key(t, "another"))
	if _, err := Open(context.Background(), c); err == nil || !strings.Contains(err.Error(), "not of what the flags") {
		t.Errorf("another account: %v", err)
	}
}

func TestNetworks(t *testing.T) {
	for id, want := range map[uint64]bool{31337: true, 1337: true, channel.FirstPrivate: true, 1: false, 8453: false, 84532: false} {
		if Local(id) != want {
			t.Errorf("%d local: %t", id, !want)
		}
	}
	base, ok := Known(8453)
	if !ok || base.Token.String() != "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913" || base.Name != "USD Coin" {
		t.Errorf("%+v", base)
	}
	sepolia, ok := Known(84532)
	if !ok || sepolia.Token != evmtest.Token() || sepolia.Name != "USDC" {
		t.Errorf("%+v", sepolia)
	}
	if _, ok := Known(1); ok {
		t.Error("mainnet is known")
	}
}
