package evm

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"os"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum/accounts/keystore"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/rpc"

	"github.com/depinsim/x402/channel"
)

const (
	maxKeyFile = 64 << 10
	signTime   = 30 * time.Second // for an external signer, whose owner may have to agree
)

// A Signer signs the account's transactions: with a key of its own, or by asking
// who has it.
type Signer struct {
	account channel.Address
	sign    func(context.Context, *types.Transaction, types.Signer) (*types.Transaction, error)
}

// Account is the address whose transactions are signed, and who pays their gas.
func (s *Signer) Account() channel.Address { return s.account }

// KeyFile says where a key is and how it may be kept.
type KeyFile struct {
	Path       string // a geth keystore, or 64 hexadecimal digits
	Passphrase string // file with the keystore's, which may end in a newline
	Plain      bool   // a key that is not encrypted will do
}

// LoadKey reads a key. Its file must be the owner's alone.
func LoadKey(f KeyFile) (*Signer, error) {
	text, err := readPrivate(f.Path)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	secret, err := f.decode(bytes.TrimSpace(text))
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", f.Path, err)
	}
	key, err := channel.ParseKey(secret)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", f.Path, err)
	}
	return withKey(key), nil
}

func (f KeyFile) decode(text []byte) ([]byte, error) {
	if !bytes.HasPrefix(text, []byte("{")) {
		if !f.Plain {
			return nil, errors.New("is not encrypted, which is for test chains: make a keystore, with geth account import, and give --passphrase-file")
		}
		secret, err := hex.DecodeString(strings.TrimPrefix(string(text), "0x"))
		if err != nil {
			return nil, errors.New("neither a keystore nor hexadecimal") // without the digits that the error would repeat
		}
		return secret, nil
	}
	if f.Passphrase == "" {
		return nil, errors.New("is a keystore: --passphrase-file is required")
	}
	pass, err := readPrivate(f.Passphrase)
	if err != nil {
		return nil, fmt.Errorf("passphrase: %w", err)
	}
	k, err := keystore.DecryptKey(text, strings.TrimRight(string(pass), "\r\n"))
	if err != nil {
		return nil, err
	}
	return crypto.FromECDSA(k.PrivateKey), nil
}

// readPrivate reads a file that nobody else may read.
func readPrivate(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular() || info.Size() > maxKeyFile:
		return nil, fmt.Errorf("%s: not a file of at most %d bytes", path, maxKeyFile)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%s: others may read it (mode %04o): chmod 600 it", path, info.Mode().Perm())
	}
	return os.ReadFile(path)
}

func withKey(k *channel.Key) *Signer {
	return &Signer{k.Address(), func(_ context.Context, tx *types.Transaction, s types.Signer) (*types.Transaction, error) {
		sig := k.Sign(channel.Hash(s.Hash(tx)))
		sig[64] -= 27 // go-ethereum counts the parity from 0
		return tx.WithSignature(s, sig[:])
	}}
}

// External returns a signer that asks account_signTransaction of the program at
// url, such as clef, for every transaction of account.
func External(ctx context.Context, url string, account channel.Address) (*Signer, error) {
	if account.IsZero() {
		return nil, errors.New("external signer: whose? --signer-account is required")
	}
	n, err := rpc.DialContext(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("external signer: %w", err)
	}
	return &Signer{account, func(ctx context.Context, tx *types.Transaction, s types.Signer) (*types.Transaction, error) {
		ctx, cancel := context.WithTimeout(ctx, signTime)
		defer cancel()
		var out struct {
			Raw hexutil.Bytes `json:"raw"`
		}
		if err := n.CallContext(ctx, &out, "account_signTransaction", signArgs(account, tx)); err != nil {
			return nil, fmt.Errorf("external signer: %w", err)
		}
		signed := new(types.Transaction)
		if err := signed.UnmarshalBinary(out.Raw); err != nil {
			return nil, fmt.Errorf("external signer: %w", err)
		}
		if from, err := types.Sender(s, signed); err != nil || from != common.Address(account) || s.Hash(signed) != s.Hash(tx) {
			return nil, fmt.Errorf("external signer: answered with another transaction than %s was to sign", account)
		}
		return signed, nil
	}}, nil
}

// signArgs is a transaction as clef reads it.
func signArgs(account channel.Address, tx *types.Transaction) map[string]any {
	return map[string]any{
		"from": common.Address(account), "to": tx.To(), "gas": hexutil.Uint64(tx.Gas()), "nonce": hexutil.Uint64(tx.Nonce()),
		"maxFeePerGas": (*hexutil.Big)(tx.GasFeeCap()), "maxPriorityFeePerGas": (*hexutil.Big)(tx.GasTipCap()),
		"value": (*hexutil.Big)(new(big.Int)), "input": hexutil.Bytes(tx.Data()), "chainId": (*hexutil.Big)(tx.ChainId()),
	}
}
