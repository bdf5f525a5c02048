package plan

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDevice reads the one interface that is everywhere.
func TestDevice(t *testing.T) {
	d, err := NewDevice("lo")
	if err != nil {
		t.Fatal(err)
	}
	in, err := d.Sample()
	if err != nil || in.Link == nil || in.Up <= 0 || in.Boot == [16]byte{} || in.Link.Index == 0 || in.Link.Framed {
		t.Errorf("%+v, %v, %v", in, err, d.Err())
	}
	again, err := d.Sample()
	if err != nil || again.Up < in.Up || again.Boot != in.Boot || again.Link.RxBytes < in.Link.RxBytes {
		t.Errorf("%+v after %+v, %v", again, in, err)
	}
	if d, err = NewDevice("x402none0"); err != nil {
		t.Fatal(err)
	}
	if in, err := d.Sample(); err != nil || in.Link != nil || d.Err() == nil || d.Err().Error() != "there is no network interface x402none0" {
		t.Errorf("%+v, %v, %v", in, err, d.Err())
	}
	for _, name := range []string{"", ".", "..", "a/b", strings.Repeat("x", 16)} {
		if _, err := NewDevice(name); err == nil {
			t.Errorf("%q is taken", name)
		}
	}
}

// TestDeviceFiles has sysfs say what it must not.
func TestDeviceFiles(t *testing.T) {
	d, err := NewDevice("lo")
	if err != nil {
		t.Fatal(err)
	}
	d.dir = t.TempDir()
	if err := os.Mkdir(filepath.Join(d.dir, "statistics"), 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(d.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"ifindex": "7\n", "type": "1\n", "statistics/rx_bytes": "4294967295\n", "statistics/tx_bytes": "18446744073709551615\n",
		"statistics/rx_packets": "2\n", "statistics/tx_packets": "3\n",
	} {
		write(name, text)
	}
	in, err := d.Sample()
	if want := (Link{7, true, 1<<32 - 1, 1<<64 - 1, 2, 3}); err != nil || in.Link == nil || *in.Link != want {
		t.Errorf("%+v, %v, %v", in.Link, err, d.Err())
	}
	for _, bad := range []string{"", "x", "-1\n", "1 2\n", "99999999999999999999999999999999999\n"} {
		write("statistics/rx_bytes", bad)
		if in, err := d.Sample(); err != nil || in.Link != nil || d.Err() == nil {
			t.Errorf("%q: %+v, %v, %v", bad, in.Link, err, d.Err())
		}
	}
}
