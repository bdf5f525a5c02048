package buyer

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/depinsim/x402/channel"
)

// The test vectors of the Web3 Secret Storage Definition, version 3.
const (
	vectorPassphrase = "testpassword"
	vectorSecret     = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d"

	vectorScrypt = `{
    "crypto" : {
        "cipher" : "aes-128-ctr",
        "cipherparams" : {"iv" : "83dbcc02d8ccb40e466191a123791e0e"},
        "ciphertext" : "d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c",
        "kdf" : "scrypt",
        "kdfparams" : {
            "dklen" : 32, "n" : 262144, "r" : 1, "p" : 8,
            "salt" : "ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19"
        },
        "mac" : "2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097"
    },
    "id" : "3198bc9c-6672-5ab3-d995-4942343ae5b6",
    "version" : 3
}`
	vectorPBKDF2 = `{
    "crypto" : {
        "cipher" : "aes-128-ctr",
        "cipherparams" : {"iv" : "6087dab2f9fdbbfaddc31a909735c1e6"},
        "ciphertext" : "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
        "kdf" : "pbkdf2",
        "kdfparams" : {
            "c" : 262144, "dklen" : 32, "prf" : "hmac-sha256",
            "salt" : "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd"
        },
        "mac" : "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2"
    },
    "id" : "3198bc9c-6672-5ab3-d995-4942343ae5b6",
    "version" : 3
}`
)

// cheap is for tests that are not about scrypt's cost.
var cheap = cost{n: 2, r: 1, p: 1}

func TestKeystoreVectors(t *testing.T) {
	for name, text := range map[string]string{"scrypt": vectorScrypt, "pbkdf2": vectorPBKDF2} {
		k, err := parseKeystore([]byte(text))
		if err != nil {
			t.Fatal(name, err)
		}
		key, err := k.open(vectorPassphrase)
		if err != nil {
			t.Fatal(name, err)
		}
		if got := hex.EncodeToString(key.Bytes()); got != vectorSecret {
			t.Errorf("%s: got another key", name)
		}
		if _, err := k.open("testpassworD"); !errors.Is(err, ErrWrongPassphrase) {
			t.Errorf("%s: wrong passphrase: %v", name, err)
		}
	}
}

func TestCreateWallet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "wallet.json")
	w, err := CreateWallet(path, "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file: %v, %v", info.Mode(), err)
	}
	again, err := LoadWallet(path)
	if err != nil || again.Address() != w.Address() || w.Address().IsZero() {
		t.Fatalf("got %v, %v; want %v", again, err, w.Address())
	}
	key, err := again.Open("correct horse")
	if err != nil || key.Address() != w.Address() {
		t.Errorf("got %v, %v", key, err)
	}
	if _, err := again.Open("wrong"); !errors.Is(err, ErrWrongPassphrase) || !strings.Contains(err.Error(), path) {
		t.Errorf("wrong passphrase: %v", err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CreateWallet(path, "x"); !errors.Is(err, ErrWalletExists) {
		t.Errorf("created over a wallet: %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the wallet changed: %v", err)
	}
	expectFiles(t, filepath.Dir(path), "wallet.json")

	var fields map[string]any // as other programs name them
	if err := json.Unmarshal(before, &fields); err != nil {
		t.Fatal(err)
	}
	address := strings.ToLower(w.Address().String()[2:])
	if crypto, ok := fields["crypto"].(map[string]any); !ok || crypto["kdf"] != "scrypt" || crypto["ciphertext"] == nil ||
		fields["version"] != 3.0 || fields["address"] != address || len(fields["id"].(string)) != 36 {
		t.Errorf("got %s", before)
	}
}

func expectFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("files %q, want %q", got, want)
	}
}

func TestImportWallet(t *testing.T) {
	secret, err := hex.DecodeString(vectorSecret)
	if err != nil {
		t.Fatal(err)
	}
	want, err := channel.ParseKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	for name, source := range map[string]string{
		"keystore":       "\n" + vectorPBKDF2,
		"digits":         vectorSecret + "\n",
		"digits with 0x": "0x" + strings.ToUpper(vectorSecret),
	} {
		key, err := importKey([]byte(source), vectorPassphrase)
		if err != nil || key.Address() != want.Address() {
			t.Errorf("%s: %v", name, err)
		}
	}
	path := filepath.Join(t.TempDir(), "wallet.json")
	w, err := ImportWallet(path, []byte(vectorPBKDF2), vectorPassphrase)
	if err != nil || w.Address() != want.Address() {
		t.Fatalf("got %v, %v", w, err)
	}
	if key, err := w.Open(vectorPassphrase); err != nil || key.Address() != want.Address() {
		t.Errorf("open: %v", err)
	}
	if _, err := ImportWallet(path+"2", []byte(vectorPBKDF2), "no"); !errors.Is(err, ErrWrongPassphrase) {
		t.Errorf("wrong passphrase: %v", err)
	}
	for name, source := range map[string]string{
		"empty": "", "short": vectorSecret[2:], "long": vectorSecret + "00", "letters": strings.Repeat("xy", 32),
		"zero": strings.Repeat("00", 32), "beyond the order": strings.Repeat("ff", 32), "words": "correct horse battery staple",
	} {
		_, err := ImportWallet(path+"2", []byte(source), "x")
		if err == nil || source != "" && strings.Contains(err.Error(), source) {
			t.Errorf("%s: %v", name, err)
		}
	}
	expectFiles(t, filepath.Dir(path), "wallet.json")
}

func TestWalletBackup(t *testing.T) {
	dir := t.TempDir()
	key, err := channel.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWallet(filepath.Join(dir, "wallet.json"), key, "pass", cheap)
	if err != nil {
		t.Fatal(err)
	}
	copyPath := filepath.Join(dir, "backup", "copy.json")
	if err := w.Backup(copyPath); err != nil {
		t.Fatal(err)
	}
	if err := w.Backup(copyPath); !errors.Is(err, ErrWalletExists) {
		t.Errorf("overwrote a backup: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "wallet.json")); err != nil {
		t.Fatal(err)
	}
	back, err := LoadWallet(copyPath)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := back.Open("pass"); err != nil || got.Address() != key.Address() {
		t.Errorf("the backup does not open: %v", err)
	}
	if _, err := LoadWallet(filepath.Join(dir, "wallet.json")); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "x402 wallet new") {
		t.Errorf("no wallet: %v", err)
	}
}

func TestWalletCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := CreateWallet(filepath.Join(dir, "file", "wallet.json"), "x"); err == nil {
		t.Error("created below a file")
	}
	if _, err := CreateWallet(filepath.Join(dir, "wallet.json"), ""); err == nil {
		t.Error("created without a passphrase")
	}
	expectFiles(t, dir, "file")
}

// edited returns a cheap keystore that opens with "pass", after edit.
func edited(t testing.TB, edit func(*keystore)) []byte {
	t.Helper()
	key, err := channel.ParseKey(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	k, err := sealKey(key, "pass", cheap)
	if err != nil {
		t.Fatal(err)
	}
	edit(&k)
	text, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestKeystoreRefuses(t *testing.T) {
	scrypt := func(n, r, p int) func(*keystore) {
		return func(k *keystore) { k.Crypto.KDFParams.N, k.Crypto.KDFParams.R, k.Crypto.KDFParams.P = n, r, p }
	}
	const maxInt = int(^uint(0) >> 1)
	for name, edit := range map[string]func(*keystore){
		"version":    func(k *keystore) { k.Version = 1 },
		"cipher":     func(k *keystore) { k.Crypto.Cipher = "aes-256-gcm" },
		"iv":         func(k *keystore) { k.Crypto.CipherParams.IV = nil },
		"ciphertext": func(k *keystore) { k.Crypto.Ciphertext = k.Crypto.Ciphertext[1:] },
		"mac":        func(k *keystore) { k.Crypto.MAC = nil },
		"kdf":        func(k *keystore) { k.Crypto.KDF = "argon2id" },
		"dklen":      func(k *keystore) { k.Crypto.KDFParams.DKLen = 16 },
		"dklen huge": func(k *keystore) { k.Crypto.KDFParams.DKLen = 1 << 30 },
		"salt":       func(k *keystore) { k.Crypto.KDFParams.Salt = make([]byte, maxSalt+1) },
		"prf":        func(k *keystore) { k.Crypto.KDF = "pbkdf2"; k.Crypto.KDFParams.C = 1 },
		"c zero":     func(k *keystore) { k.Crypto.KDF, k.Crypto.KDFParams.PRF = "pbkdf2", "hmac-sha256" },
		"c huge": func(k *keystore) {
			k.Crypto.KDF, k.Crypto.KDFParams.PRF, k.Crypto.KDFParams.C = "pbkdf2", "hmac-sha256", maxInt
		},
		"n zero":           scrypt(0, 8, 1),
		"n one":            scrypt(1, 8, 1),
		"n negative":       scrypt(-2, 8, 1),
		"n odd":            scrypt(1000, 8, 1),
		"r zero":           scrypt(2, 0, 1),
		"p zero":           scrypt(2, 1, 0),
		"a gigabyte":       scrypt(1<<20, 8, 1),
		"a gigabyte by r":  scrypt(2, 1<<22, 1),
		"an hour":          scrypt(1<<18, 8, 1<<12),
		"an hour by p":     scrypt(2, 1, 1<<30),
		"n overflows":      scrypt(maxInt/2+1, 8, 1),
		"r overflows":      scrypt(1<<18, maxInt, 1),
		"p overflows":      scrypt(1<<18, 8, maxInt),
		"r and p overflow": scrypt(1<<18, maxInt, maxInt),
	} {
		if _, err := parseKeystore(edited(t, edit)); err == nil || !strings.HasPrefix(err.Error(), "keystore: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, c := range []cost{usualCost, {1 << 18, 8, 1}, {1 << 18, 1, 8}, {1 << 12, 8, 6}, {1 << 14, 8, 16}} { // in use by wallets
		if _, err := parseKeystore(edited(t, scrypt(c.n, c.r, c.p))); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
	for _, text := range []string{"", "{", "null", "[]", `{"version":"3"}`, strings.Repeat(" ", maxWallet) + "{}"} {
		if _, err := parseKeystore([]byte(text)); err == nil {
			t.Errorf("%.20q: no error", text)
		}
	}
}

// A file whose address was changed could have a deposit sent to somebody else.
func TestKeystoreAddress(t *testing.T) {
	other := edited(t, func(k *keystore) { k.Address = strings.Repeat("12", 20) })
	k, err := parseKeystore(other)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.open("pass"); err == nil || errors.Is(err, ErrWrongPassphrase) {
		t.Errorf("changed address: %v", err)
	}
	path := filepath.Join(t.TempDir(), "wallet.json")
	for name, address := range map[string]string{"none": "", "short": "1234", "letters": strings.Repeat("xy", 20)} {
		if err := os.WriteFile(path, edited(t, func(k *keystore) { k.Address = address }), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadWallet(path); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzKeystore(f *testing.F) {
	f.Add([]byte(vectorScrypt))
	f.Add([]byte(vectorPBKDF2))
	f.Add(edited(f, func(*keystore) {}))
	f.Add([]byte(`{"version":3,"Crypto":{"kdf":"scrypt","kdfparams":{"n":2,"r":1,"p":1,"dklen":32}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := parseKeystore(text)
		if err != nil {
			return
		}
		k.address() // must not panic; its answer is checked by open
		p := k.Crypto.KDFParams
		if 128*uint64(p.N)*uint64(p.R) > maxScryptBytes && k.Crypto.KDF == "scrypt" {
			t.Fatalf("%+v passed", p)
		}
		if k.Crypto.KDF == "pbkdf2" && p.C > 1000 || k.Crypto.KDF == "scrypt" && p.N*p.R*p.P > 1000 {
			return // takes too long here
		}
		key, err := k.open("pass")
		if err == nil && k.Address != "" {
			if named, err := k.address(); err != nil || named != key.Address() {
				t.Fatalf("opened a key of %v, the file names %v, %v", key.Address(), named, err)
			}
		}
	})
}
