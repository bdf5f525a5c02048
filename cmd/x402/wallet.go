package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/depinsim/x402/agent/buyer"
)

func wallet(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	return prefix("wallet", dispatch(ctx, []command{
		{"new", walletNew},
		{"import", walletImport},
		{"backup", walletBackup},
		{"show", walletShow},
		{"fund", walletFund},
		{"refund", walletRefund},
		{"withdraw", walletWithdraw},
	}, walletHelp, args, stdout, stderr))
}

func walletNew(_ context.Context, args []string, stdout, _ io.Writer) error {
	var p places
	fs := newFlags("wallet new")
	p.walletFlags(fs)
	if done, err := parse(fs, newHelp, args, stdout); done {
		return err
	}
	if err := p.vacant(); err != nil {
		return err
	}
	passphrase, err := p.passphrases().GetNew()
	if err != nil {
		return err
	}
	w, err := buyer.CreateWallet(p.wallet, passphrase)
	if err != nil {
		return err
	}
	return p.made(stdout, w)
}

func walletImport(_ context.Context, args []string, stdout, _ io.Writer) error {
	var p places
	fs := newFlags("wallet import")
	p.walletFlags(fs)
	keystore := fs.String("keystore", "", "")
	hexFile := fs.String("hex-file", "", "")
	if done, err := parse(fs, importHelp, args, stdout); done {
		return err
	}
	if (*keystore == "") == (*hexFile == "") {
		return usage("--keystore FILE or --hex-file FILE: name one of them")
	}
	if err := p.vacant(); err != nil {
		return err
	}
	source, err := os.ReadFile(*keystore + *hexFile) // one of them is empty
	if err != nil {
		return err
	}
	ask := p.passphrases().Get
	if *hexFile != "" {
		ask = p.passphrases().GetNew
	}
	passphrase, err := ask()
	if err != nil {
		return err
	}
	w, err := buyer.ImportWallet(p.wallet, source, passphrase)
	if err != nil {
		return err
	}
	return p.made(stdout, w)
}

// vacant resolves the places, and says before a question is asked that there
// is a wallet already.
func (p *places) vacant() error {
	if err := p.resolve(); err != nil {
		return err
	}
	if _, err := os.Lstat(p.wallet); err == nil {
		return fmt.Errorf("wallet %s: %w", p.wallet, buyer.ErrWalletExists)
	}
	return nil
}

func (p *places) made(stdout io.Writer, w *buyer.Wallet) error {
	return printRows(stdout, [][2]string{
		{"address", w.Address().String()},
		{"file", p.wallet},
		{"next", p.given.echo("x402 wallet backup FILE, on another device; then x402 wallet fund")},
	})
}

func walletBackup(_ context.Context, args []string, stdout, _ io.Writer) error {
	var p places
	fs := newFlags("wallet backup")
	p.walletFlags(fs)
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		_, err := io.WriteString(stdout, backupHelp)
		return err
	}
	if err != nil {
		return flagError(err)
	}
	if fs.NArg() != 1 {
		return usage("want one FILE to write the backup to, have %d", fs.NArg())
	}
	if err := p.resolve(); err != nil {
		return err
	}
	w, err := buyer.LoadWallet(p.wallet)
	if err != nil {
		return err
	}
	if err := w.Backup(fs.Arg(0)); err != nil {
		return err
	}
	return printRows(stdout, [][2]string{
		{"address", w.Address().String()},
		{"backup", fs.Arg(0) + ", which the wallet's passphrase opens"},
	})
}
