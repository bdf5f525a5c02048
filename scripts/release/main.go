// Command release makes what stands around the programs of a release: a Debian
// repository, the list of what is in the programs, checksums, signatures. See
// docs/release.md; `make release` calls it.
//
//	release key NAME              make a signing key: NAME.key and NAME.pgp
//	release sign [-key K] FILE…   write FILE.asc beside each
//	release verify -keyring R F…  check FILE.asc, and all files of a SHA256SUMS
//	release apt -root DIR [-key K] [-phase PERCENT] DEB…
//	release sbom -name N -version V FILE…     programs and packages in CycloneDX, on the standard output
//	release notice BINARY…        the licences of what is linked in
//	release sums DIR              write DIR/SHA256SUMS
//
// SOURCE_DATE_EPOCH is the time of all that has one, so that the same commit
// gives the same bytes (reproducible-builds.org/specs/source-date-epoch).
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// options are the flags of all subcommands.
type options struct {
	root, key, keyring, name, version string
	phase                             int
	when                              time.Time
	out                               io.Writer
}

func run(args []string) error {
	subcommands := map[string]func(options, []string) error{
		"key": makeKeys, "sign": sign, "verify": verify, "apt": apt, "sbom": sbom, "notice": notice, "sums": sums,
	}
	if len(args) == 0 || subcommands[args[0]] == nil {
		return errors.New("which of key, sign, verify, apt, sbom, notice and sums?")
	}
	o := options{out: os.Stdout}
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	f.StringVar(&o.root, "root", "", "folder of the repository")
	f.StringVar(&o.key, "key", "", "file with the signing key")
	f.StringVar(&o.keyring, "keyring", "", "file with the public key")
	f.StringVar(&o.name, "name", "x402", "what is described")
	f.StringVar(&o.version, "version", "unknown", "its version")
	f.IntVar(&o.phase, "phase", 100, "percent of the machines that are offered these packages")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	if f.NArg() == 0 {
		return fmt.Errorf("%s: of what?", args[0])
	}
	var err error
	if o.when, err = sourceDate(os.Getenv("SOURCE_DATE_EPOCH")); err != nil {
		return err
	}
	return subcommands[args[0]](o, f.Args())
}

// sourceDate is the time that everything is said to be made at.
func sourceDate(epoch string) (time.Time, error) {
	if epoch == "" {
		return time.Now().UTC().Truncate(time.Second), nil
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil || seconds < 0 {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH: %q is not a number of seconds", epoch)
	}
	return time.Unix(seconds, 0).UTC(), nil
}
