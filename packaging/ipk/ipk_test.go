package ipk

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/depinsim/x402/packaging"
)

func sample() Package {
	return Package{
		Name: "sample-agent", Version: "1.0.0~rc1-r1", Arch: "mipsel_24kc", Depends: []string{"ca-bundle", "libc (>= 1)"},
		Section: "net", License: "Apache-2.0", Maintainer: "Some Body <some@body.example>", URL: "https://example.org",
		RequireUser: "sample:sample:dialout", Description: "sells air",
		ConfFiles: []string{"/etc/config/sample"},
		Scripts:   map[string]string{"postinst": "#!/bin/sh\nexit 0\n", "prerm": "#!/bin/sh\nexit 1\n"},
		Time:      time.Unix(1_790_000_000, 0),
		Files: packaging.Tree{
			{Path: "etc/config/sample", Mode: 0o600, Data: []byte("config sample\n")},
			{Path: "usr/bin/empty", Mode: 0o755, Data: []byte{}},
			{Path: "usr/bin/sample", Mode: 0o755, Data: bytes.Repeat([]byte("\x7fELF"), 9000)},
		},
	}
}

func write(t testing.TB, p Package) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRoundTrip(t *testing.T) {
	b := write(t, sample())
	got, err := Read(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample(), got, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
	if again := write(t, sample()); !bytes.Equal(b, again) {
		t.Error("the same package was written differently")
	}
	if name := got.Filename(); name != "sample-agent_1.0.0~rc1-r1_mipsel_24kc.ipk" {
		t.Error(name)
	}
}

// TestLayout looks at a package with nothing but the standard library: what opkg
// unpacks.
func TestLayout(t *testing.T) {
	outer := untar(t, write(t, sample()))
	var names []string
	for _, e := range outer {
		names = append(names, e.name)
	}
	if diff := cmp.Diff([]string{"./debian-binary", "./control.tar.gz", "./data.tar.gz"}, names); diff != "" {
		t.Fatal(diff)
	}
	if outer[0].data != "2.0\n" {
		t.Errorf("debian-binary is %q", outer[0].data)
	}
	control := untar(t, []byte(outer[1].data))
	want := `Package: sample-agent
Version: 1.0.0~rc1-r1
Depends: ca-bundle, libc (>= 1)
License: Apache-2.0
Section: net
Require-User: sample:sample:dialout
URL: https://example.org
Maintainer: Some Body <some@body.example>
Architecture: mipsel_24kc
Installed-Size: 36014
Description: sells air
`
	wantControl := []entry{
		{"./", 0o755, ""}, {"./conffiles", 0o644, "/etc/config/sample\n"}, {"./control", 0o644, want},
		{"./postinst", 0o755, "#!/bin/sh\nexit 0\n"}, {"./prerm", 0o755, "#!/bin/sh\nexit 1\n"},
	}
	if diff := cmp.Diff(wantControl, control, cmp.AllowUnexported(entry{})); diff != "" {
		t.Error(diff)
	}
	names = nil
	for _, e := range untar(t, []byte(outer[2].data)) {
		names = append(names, e.name)
	}
	if diff := cmp.Diff([]string{"./", "./etc/", "./etc/config/", "./usr/", "./usr/bin/", "./etc/config/sample", "./usr/bin/empty", "./usr/bin/sample"}, names); diff != "" {
		t.Error(diff)
	}
}

type entry struct {
	name string
	mode int64
	data string
}

func untar(t *testing.T, b []byte) (entries []entry) {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, entry{h.Name, h.Mode, string(data)})
	}
}

func TestWriteRefuses(t *testing.T) {
	for want, change := range map[string]func(*Package){
		`name "a b"`:       func(p *Package) { p.Name = "a b" },
		"version":          func(p *Package) { p.Version = "v1" },
		"architecture":     func(p *Package) { p.Arch = "" },
		"several lines":    func(p *Package) { p.Description = "a\nEssential: yes" },
		"several":          func(p *Package) { p.Depends = []string{"a\nb"} },
		"among the files":  func(p *Package) { p.ConfFiles = []string{"/etc/other"} },
		"is not among":     func(p *Package) { p.ConfFiles = []string{"etc/config/sample"} },
		`script "install"`: func(p *Package) { p.Scripts["install"] = "#!/bin/sh\n" },
		"not for /bin/sh":  func(p *Package) { p.Scripts["postinst"] = "#!/bin/bash\n" },
		"not a path":       func(p *Package) { p.Files[0].Path = "../a"; p.ConfFiles = nil },
	} {
		p := sample()
		change(&p)
		if err := p.Write(io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// repack writes the members of a package again after change.
func repack(t *testing.T, change func(map[string][]entry)) []byte {
	t.Helper()
	outer := untar(t, write(t, sample()))
	parts := map[string][]entry{"control": untar(t, []byte(outer[1].data)), "data": untar(t, []byte(outer[2].data))}
	change(parts)
	outer[1].data, outer[2].data = string(retar(t, parts["control"])), string(retar(t, parts["data"]))
	if more := parts["outer"]; more != nil {
		outer = append(outer, more...)
	}
	return retar(t, outer)
}

func retar(t *testing.T, entries []entry) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, e := range entries {
		h := tar.Header{Typeflag: tar.TypeReg, Name: e.name, Mode: e.mode, Size: int64(len(e.data)), Uname: "root", Gname: "root", ModTime: sample().Time}
		switch {
		case strings.HasSuffix(e.name, "/"):
			h.Typeflag = tar.TypeDir
		case strings.HasPrefix(e.data, "-> "):
			h.Typeflag, h.Size, h.Linkname, e.data = tar.TypeSymlink, 0, e.data[3:], ""
		case e.data == "nobody's":
			h.Uid = 65534
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestReadRefuses(t *testing.T) {
	control := func(old, new string) func(map[string][]entry) {
		return func(parts map[string][]entry) {
			for i, e := range parts["control"] {
				parts["control"][i].data = strings.ReplaceAll(e.data, old, new)
			}
		}
	}
	add := func(part string, e entry) func(map[string][]entry) {
		return func(parts map[string][]entry) { parts[part] = append(parts[part], e) }
	}
	for want, change := range map[string]func(map[string][]entry){
		"Installed-Size is \"35\"":    control("Size: 36014", "Size: 35"),
		"unknown field \"Essential\"": control("Section: net", "Essential: yes"),
		"field \"Section net\\n\"":    control("Section: net", "Section net"),
		"version":                     control("1.0.0", "x"),
		"is not among":                control("/etc/config/sample", "/etc/config/other"),
		"unknown file":                add("control", entry{"./triggers", 0o644, ""}),
		"or one that is no program":   add("control", entry{"./zpostrm", 0o755, "#!/bin/sh\n"}),
		"type '2'":                    add("data", entry{"./etc/shadow", 0o644, "-> /etc/passwd"}),
		"belongs to 65534":            add("data", entry{"./etc/z", 0o644, "nobody's"}),
		"mode 4755":                   add("data", entry{"./etc/z", 0o4755, ""}),
		"does not come before":        add("data", entry{"./var/a", 0o644, ""}),
		"does not begin with ./":      add("data", entry{"etc/z", 0o644, ""}),
		"not a path below the root": func(p map[string][]entry) {
			p["data"] = append(p["data"], entry{"./etc/../", 0o755, ""}, entry{"./etc/../z", 0o644, ""})
		},
		"follows the members": add("outer", entry{"./more", 0o644, ""}),
	} {
		_, err := Read(bytes.NewReader(repack(t, change)))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := Read(bytes.NewReader(repack(t, func(map[string][]entry) {}))); err != nil {
		t.Errorf("unchanged: %v", err)
	}
	whole := write(t, sample())
	for n := 0; n < len(whole); n += 7 {
		if _, err := Read(bytes.NewReader(whole[:n])); err == nil {
			t.Errorf("the first %d bytes of %d passed", n, len(whole))
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(write(f, sample()))
	small := sample()
	small.Files, small.ConfFiles, small.Scripts = packaging.Tree{{Path: "a", Mode: 0o644, Data: []byte("b")}}, nil, nil
	f.Add(write(f, small))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Read(bytes.NewReader(b))
		if err != nil {
			return
		}
		again, err := Read(bytes.NewReader(write(t, p)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(p, again, cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
	})
}
