package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const sumsName = "SHA256SUMS"

// sums lists the files below each folder as sha256sum does, sorted by name.
// Signatures are not listed: they are made afterwards.
func sums(_ options, folders []string) error {
	for _, folder := range folders {
		var list bytes.Buffer
		err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || d.Name() == sumsName || filepath.Ext(path) == ".asc" {
				return err
			}
			sum, err := sumOf(path)
			name, _ := filepath.Rel(folder, path) // path is below folder
			fmt.Fprintf(&list, "%s  %s\n", sum, filepath.ToSlash(name))
			return err
		})
		if err == nil {
			err = os.WriteFile(filepath.Join(folder, sumsName), list.Bytes(), 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkSums compares the files in a folder with a list of them.
func checkSums(folder string, list []byte) error {
	for line := range strings.Lines(string(list)) {
		want, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if !ok || !filepath.IsLocal(name) {
			return fmt.Errorf("%s: %.80q is not a line of it", sumsName, line)
		}
		sum, err := sumOf(filepath.Join(folder, name))
		if err != nil {
			return err
		}
		if sum != want {
			return fmt.Errorf("%s is not what was released", name)
		}
	}
	return nil
}

func sumOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}
