package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// settings are those of an Ed25519 key in the form that all of Debian's tools
// since 2017 read, and of signatures that are the same each time they are made.
func settings(when time.Time) *packet.Config {
	same := false
	return &packet.Config{
		Algorithm: packet.PubKeyAlgoEdDSA, Curve: packet.Curve25519,
		Time:                                  func() time.Time { return when },
		NonDeterministicSignaturesViaNotation: &same,
	}
}

// makeKeys makes a key that has no passphrase and does not expire: it belongs
// on the machine that releases and nowhere else.
func makeKeys(o options, names []string) error {
	for _, name := range names {
		e, err := openpgp.NewEntity("X402 releases", "", "", settings(o.when))
		if err != nil {
			return err
		}
		var private, public bytes.Buffer
		w, err := armor.Encode(&private, openpgp.PrivateKeyType, nil)
		if err != nil {
			return err
		}
		if err := errors.Join(e.SerializePrivate(w, settings(o.when)), w.Close(), e.Serialize(&public)); err != nil {
			return err
		}
		f, err := os.OpenFile(name+".key", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(append(private.Bytes(), '\n'))
		if err := errors.Join(err, f.Sync(), f.Close(), os.WriteFile(name+".pgp", public.Bytes(), 0o644)); err != nil {
			return err
		}
		fmt.Fprintf(o.out, "%s.key signs: keep it secret. %s.pgp is for everybody; fingerprint %X\n", name, name, e.PrimaryKey.Fingerprint)
	}
	return nil
}

// readKey reads the first key of an armored file.
func readKey(path string) (*openpgp.Entity, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	keys, err := openpgp.ReadArmoredKeyRing(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(keys) == 0 || keys[0].PrivateKey == nil || keys[0].PrivateKey.Encrypted {
		return nil, fmt.Errorf("%s: no signing key without a passphrase: make one with `release key`", path)
	}
	return keys[0], nil
}

// sign writes a signature beside each file.
func sign(o options, paths []string) error {
	key, err := readKey(o.key)
	if err != nil {
		return err
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var signature bytes.Buffer
		if err := openpgp.ArmoredDetachSign(&signature, key, bytes.NewReader(b), settings(o.when)); err != nil {
			return err
		}
		if err := os.WriteFile(path+".asc", append(signature.Bytes(), '\n'), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// clearsigned is text with a signature around it.
func clearsigned(text []byte, key *openpgp.Entity, when time.Time) ([]byte, error) {
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, key.PrivateKey, settings(when))
	if err == nil {
		_, err = w.Write(text)
		err = errors.Join(err, w.Close())
	}
	return append(b.Bytes(), '\n'), err
}

// verify checks what sign wrote, and of a SHA256SUMS also what it lists.
func verify(o options, paths []string) error {
	f, err := os.Open(o.keyring)
	if err != nil {
		return err
	}
	defer f.Close()
	keys, err := openpgp.ReadKeyRing(f)
	if err != nil {
		return fmt.Errorf("%s: %w", o.keyring, err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		signature, err := os.ReadFile(path + ".asc")
		if err != nil {
			return err
		}
		if _, err := openpgp.CheckArmoredDetachedSignature(keys, bytes.NewReader(b), bytes.NewReader(signature), nil); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if filepath.Base(path) == sumsName {
			if err := checkSums(filepath.Dir(path), b); err != nil {
				return err
			}
		}
		fmt.Fprintln(o.out, path+": ok")
	}
	return nil
}
