package main

import (
	"crypto/rand"
	"encoding"
	"errors"
	"fmt"
	"os"

	"github.com/depinsim/x402/packaging/apk"
	"github.com/depinsim/x402/packaging/ipk"
)

// makeKeys makes the keys of both package managers, without passphrases: they
// belong on the machine that releases and nowhere else. The public halves are
// written beside the feeds that they sign.
func makeKeys(name string) error {
	var seed [32]byte
	var id [8]byte
	rand.Read(seed[:]) // these two never fail
	rand.Read(id[:])
	u, err := ipk.NewKey(seed[:], id)
	if err != nil {
		return err
	}
	a, err := apk.GenerateKey()
	if err != nil {
		return err
	}
	for file, key := range map[string]encoding.TextMarshaler{name + ".usign": u, name + ".pem": a} {
		text, err := key.MarshalText()
		if err != nil {
			return err
		}
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(text)
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
			return err
		}
		fmt.Println(file + " signs: keep it secret")
	}
	return nil
}

func (j *job) readKeys(usign, apkKey string) error {
	var err, aerr error
	j.usign, err = readKey(usign, ipk.ParseKey)
	j.apk, aerr = readKey(apkKey, apk.ParseKey)
	return errors.Join(err, aerr)
}

// readKey reads a key from a file; without one there is none.
func readKey[K any](file string, parse func([]byte) (K, error)) (*K, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	k, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return &k, nil
}
