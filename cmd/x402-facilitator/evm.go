package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger/evm"
)

// evmFlags are those of run that only --ledger evm takes.
type evmFlags struct {
	rpc, network, key, passphrase, signer, signerAccount string
	asset, assetName, assetVersion, contract, collector  string
	maxGasPrice, gasShare, nativePrice                   string
	confirmations                                        uint64
	poll                                                 time.Duration
	allowCustom, takeOver                                bool
}

func (f *evmFlags) register(fs *flag.FlagSet) {
	for name, v := range map[string]*string{
		"rpc": &f.rpc, "network": &f.network, "key": &f.key, "passphrase-file": &f.passphrase,
		"signer": &f.signer, "signer-account": &f.signerAccount,
		"asset": &f.asset, "asset-name": &f.assetName, "asset-version": &f.assetVersion,
		"contract": &f.contract, "collector": &f.collector,
	} {
		fs.StringVar(v, name, "", "")
	}
	fs.StringVar(&f.maxGasPrice, "max-gas-price", "100", "")
	fs.StringVar(&f.gasShare, "gas-share", "1", "")
	fs.StringVar(&f.nativePrice, "native-price", "3000", "")
	fs.Uint64Var(&f.confirmations, "confirmations", 0, "")
	fs.DurationVar(&f.poll, "poll", time.Second, "")
	fs.BoolVar(&f.allowCustom, "allow-custom-contract", false, "")
	fs.BoolVar(&f.takeOver, "take-over", false, "")
}

// evmNames are the flags that register defines.
func evmNames() []string {
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	new(evmFlags).register(fs)
	var names []string
	fs.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
	return names
}

// unused refuses those that were given with another ledger.
func (f evmFlags) unused(fs *flags) error {
	var given []string
	fs.Visit(func(g *flag.Flag) {
		if slices.Contains(evmNames(), g.Name) {
			given = append(given, "--"+g.Name)
		}
	})
	if len(given) > 0 {
		return usage("run: %s: only with --ledger evm", strings.Join(given, ", "))
	}
	return nil
}

// config parses the flags; what is left to do reads files and asks the node.
func (f evmFlags) config(dir string, dev bool) (evm.Config, error) {
	c := evm.Config{Dir: dir, AllowCustom: f.allowCustom, TakeOver: f.takeOver, Confirmations: f.confirmations, Poll: f.poll}
	var err error
	if f.poll < 10*time.Millisecond || f.poll > time.Minute {
		return c, errors.New("--poll: want 10ms to 1m")
	}
	if f.rpc == "" || f.network == "" || (f.key == "") == (f.signer == "") {
		return c, errors.New("--ledger evm needs --rpc, --network, and either --key or --signer")
	}
	if c.ChainID, err = channel.ParseNetwork(f.network); err != nil {
		return c, fmt.Errorf("--network: %w", err)
	}
	if dev && !evm.Local(c.ChainID) {
		return c, fmt.Errorf("--dev: %s is a public chain; --dev is for local ones", f.network)
	}
	if err := f.assetOf(&c); err != nil {
		return c, err
	}
	for name, to := range map[string]*channel.Address{"contract": &c.Contract, "collector": &c.Collector} {
		if text := map[string]string{"contract": f.contract, "collector": f.collector}[name]; text != "" {
			if *to, err = channel.ParseAddress(text); err != nil {
				return c, fmt.Errorf("--%s: %w", name, err)
			}
		}
	}
	return c, f.limits(&c)
}

// assetOf says which token is paid in: the one named, or the chain's own USDC.
func (f evmFlags) assetOf(c *evm.Config) (err error) {
	known, ok := evm.Known(c.ChainID)
	c.Token, c.Name, c.Version = known.Token, known.Name, known.Version
	if c.Confirmations == 0 {
		c.Confirmations = known.Confirmations
	}
	if f.asset != "" {
		if c.Token, err = channel.ParseAddress(f.asset); err != nil {
			return fmt.Errorf("--asset: %w", err)
		}
		ok = f.assetName != "" && f.assetVersion != ""
	}
	if !ok {
		return fmt.Errorf("--asset, --asset-name and --asset-version are required on %s", f.network)
	}
	if f.assetName != "" {
		c.Name = f.assetName
	}
	if f.assetVersion != "" {
		c.Version = f.assetVersion
	}
	return nil
}

// limits parses prices: decimal numbers with at most six decimals.
func (f evmFlags) limits(c *evm.Config) error {
	gwei, err := channel.ParseUSD(f.maxGasPrice)
	if err != nil || gwei == 0 || gwei > 1e12 {
		return errors.New("--max-gas-price: want gwei between 0.000001 and 1000000")
	}
	c.MaxGasPrice = uint64(gwei) * 1000
	percent, err := channel.ParseUSD(f.gasShare)
	if err != nil || percent < 10_000 || percent > 100_000_000 {
		return errors.New("--gas-share: want percent between 0.01 and 100")
	}
	c.GasShare = uint64(percent) / 10_000
	if c.NativePrice, err = channel.ParseUSD(f.nativePrice); err != nil || c.NativePrice == 0 {
		return errors.New("--native-price: want USD above 0")
	}
	return nil
}

// open opens the home on the chain.
func (f evmFlags) open(ctx context.Context, c evm.Config, log *slog.Logger) (*evm.Home, error) {
	var err error
	c.RPC, c.Logger = f.rpc, log
	if path, ok := strings.CutPrefix(f.rpc, "@"); ok {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("--rpc: %w", err)
		}
		c.RPC = strings.TrimSpace(string(text))
	}
	if f.signer != "" {
		var account channel.Address
		if account, err = channel.ParseAddress(f.signerAccount); err != nil {
			return nil, usage("run: --signer-account: %w", err)
		}
		c.Signer, err = evm.External(ctx, f.signer, account)
	} else {
		c.Signer, err = evm.LoadKey(evm.KeyFile{Path: f.key, Passphrase: f.passphrase, Plain: evm.Local(c.ChainID)})
	}
	if err != nil {
		return nil, err
	}
	return evm.Open(ctx, c)
}

// onlyKind refuses a folder that has the file of another kind of ledger: the two
// would share its socket.
func onlyKind(dir, file string) error {
	if _, err := os.Stat(filepath.Join(dir, file)); err == nil {
		return fmt.Errorf("%s is the folder of another kind of ledger (%s)", dir, file)
	}
	return nil
}
