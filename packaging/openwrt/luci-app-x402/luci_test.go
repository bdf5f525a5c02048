package luci_test

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	luci "github.com/depinsim/x402/packaging/openwrt/luci-app-x402"
)

var update = flag.Bool("update", false, "write po/templates/x402.pot anew, and new texts into the catalogs")

// languages are the folders of po.
var languages = []string{"de", "es", "zh_Hans"}

// catalogOf is LuCI's name for the language of a folder.
func catalogOf(folder string) string { return strings.Replace(folder, "zh_Hans", "zh-cn", 1) }

func mustParse(path string) []luci.Message {
	b, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	all, err := luci.ParsePO(b)
	if err != nil {
		panic(err)
	}
	return all
}

// rights are the command lines that the ACL allows.
func rights(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile("root/usr/share/rpcd/acl.d/luci-app-x402.json")
	if err != nil {
		t.Fatal(err)
	}
	var acl map[string]struct {
		Read, Write struct{ File map[string][]string }
	}
	if err := json.Unmarshal(b, &acl); err != nil {
		t.Fatal(err)
	}
	a := acl["luci-app-x402"]
	return slices.Concat(slices.Collect(maps.Keys(a.Read.File)), slices.Collect(maps.Keys(a.Write.File)))
}

// TestRights holds the ACL to what the pages may do: nothing that takes another
// file, socket or command, or an option.
func TestRights(t *testing.T) {
	all := rights(t)
	for line, want := range map[string]bool{
		"/usr/bin/x402-agent status --json":                            true,
		"/usr/bin/x402-agent rotate --json --sim two":                  true,
		"/usr/bin/x402-agent plan set-used --json 12300000000B":        true,
		"/usr/bin/x402-agent plan set-used --json --sim two 1B":        true,
		"/usr/bin/x402-agent sim accept --json --sim two":              true,
		"/usr/libexec/x402-lookup offers relay.example:4433#00":        true,
		"/usr/libexec/x402-lookup offers [2001:db8::1]:4433#00":        true,
		"/usr/libexec/x402-lookup supported https://f.example":         true,
		"/usr/bin/x402-agent":                                          false,
		"/usr/bin/x402-agent status":                                   false,
		"/usr/bin/x402-agent status --json --control /tmp/x":           false,
		"/usr/bin/x402-agent run --config /tmp/x":                      false,
		"/usr/bin/x402-agent purge":                                    false,
		"/usr/bin/x402-agent purge --lose-unclaimed":                   false,
		"/usr/bin/x402-agent rotate --json --sim --control /tmp/x":     false,
		"/usr/bin/x402-agent plan set-used --json --control /tmp/x 1B": false,
		"/usr/libexec/x402-lookup supported -O/etc/passwd":             false,
		"/usr/libexec/x402-lookup offers -x":                           false,
		"/sbin/logread":                                                false,
		"/sbin/logread -e x402-agent -F /tmp/x":                        false,
		"/bin/sh -c id":                                                false,
	} {
		if got := slices.ContainsFunc(all, func(right string) bool { return fnmatch(right, line) }); got != want {
			t.Errorf("%s: allowed %v, want %v", line, got, want)
		}
	}
}

// readLMO reads a compiled catalog: texts by the hashes of what they translate.
func readLMO(b []byte) map[uint32]string {
	all := map[uint32]string{}
	word := func(at uint32) uint32 { return binary.BigEndian.Uint32(b[at:]) }
	end := uint32(len(b)) - 4
	for at := word(end); at < end; at += 16 {
		from := word(at + 8)
		all[word(at)] = string(b[from : from+word(at+12)])
	}
	return all
}

// TestCompile compiles a catalog. The hashes are those of the function that LuCI's
// pages look texts up with.
func TestCompile(t *testing.T) {
	b := luci.Compile([]luci.Message{
		{ID: "", Text: "Language: de\nPlural-Forms: nplurals=2; plural=(n != 1);\n"},
		{ID: "Status", Text: "Zustand"}, {ID: "a", Text: "1"}, {ID: "ab", Text: "2"}, {ID: "abc", Text: "3"}, {ID: "aé", Text: "4"}, {ID: "First sale: you are paid", Text: "5"}, {ID: "Übersicht", Text: "Aperçu"}, {ID: "same", Text: "same"}, {ID: "open", Text: ""},
	})
	want := map[uint32]string{0: "nplurals=2; plural=(n != 1);", 0x663359c9: "Zustand", 0x9d7a3e81: "Aperçu",
		0x115ea782: "1", 0x516b8b44: "2", 0xd2be198a: "3", 0xe3d9c55b: "4", 0x0e99795c: "5"}
	if got := readLMO(b); len(b)%4 != 0 || !maps.Equal(got, want) {
		t.Fatalf("%d bytes with %v, want %v", len(b), got, want)
	}
	var keys []uint32
	for at := binary.BigEndian.Uint32(b[len(b)-4:]); int(at) < len(b)-4; at += 16 {
		keys = append(keys, binary.BigEndian.Uint32(b[at:]))
	}
	if !slices.IsSorted(keys) {
		t.Errorf("the keys %x are not in order, and LuCI searches them by halves", keys)
	}
}

func TestParsePOFaults(t *testing.T) {
	for text, want := range map[string]string{
		"msgid a":                             "line 1: \"msgid a\": want a text in quotes",
		"\n\"a\"":                             "line 2: \"\\\"a\\\"\": want a text in quotes",
		"msgctxt \"a\"":                       "line 1: \"msgctxt \\\"a\\\"\": want msgid or msgstr",
		"msgstr \"a\"":                        "line 1: \"msgstr \\\"a\\\"\": want msgid or msgstr",
		"msgid \"a\"\nmsgstr \"b\"\nnonsense": "line 3: \"nonsense\": want msgid or msgstr",
	} {
		if _, err := luci.ParsePO([]byte(text)); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// FuzzParsePO parses anything, and compiles what it is.
func FuzzParsePO(f *testing.F) {
	f.Add([]byte("msgid \"a\"\nmsgstr \"b\"\n"))
	f.Add([]byte("# x\nmsgid \"\"\n\"a\"\nmsgstr \"Plural-Forms: x\\n\""))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := luci.ParsePO(b)
		if err != nil {
			return
		}
		texts := map[string]bool{}
		for _, m := range all {
			texts[m.Text] = true
		}
		for key, text := range readLMO(luci.Compile(all)) {
			if key != 0 && !texts[text] {
				t.Errorf("%q is no text of %q", text, all)
			}
		}
	})
}

var translated = regexp.MustCompile(`_\('((?:[^'\\]|\\.)*)'\)`)

// texts are what is translated of the pages, the menu and the rights, each with
// the file that it is first in.
func texts(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir("htdocs", func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".js" {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range translated.FindAllStringSubmatch(string(b), -1) {
			all[m[1]] = cmp.Or(all[m[1]], strings.TrimPrefix(path, "htdocs/luci-static/resources/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile(`"(?:title|description)": "([^"]*)"`)
	for _, path := range []string{"root/usr/share/luci/menu.d/luci-app-x402.json", "root/usr/share/rpcd/acl.d/luci-app-x402.json"} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range named.FindAllStringSubmatch(string(b), -1) {
			all[m[1]] = cmp.Or(all[m[1]], filepath.Base(path))
		}
	}
	return all
}

// catalog writes texts in gettext's format, in order.
func catalog(head string, all map[string]string, translation map[string]string) string {
	var b strings.Builder
	b.WriteString("msgid \"\"\nmsgstr " + head + "\n")
	for _, id := range slices.SortedFunc(maps.Keys(all), func(a, b string) int { return cmp.Or(cmp.Compare(all[a], all[b]), cmp.Compare(a, b)) }) {
		fmt.Fprintf(&b, "\n#: %s\nmsgid %s\nmsgstr %s\n", all[id], quote(id), quote(translation[id]))
	}
	return b.String()
}

func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// TestTemplate holds the template to the pages.
func TestTemplate(t *testing.T) {
	const path = "po/templates/x402.pot"
	want := catalog(`"Content-Type: text/plain; charset=UTF-8\n"`, texts(t), nil)
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s is not what the pages say (%v): go test -run Template -update", path, err)
	}
}

// verbs are the places in a text that are filled in.
var verbs = regexp.MustCompile(`%[sd%]`)

// TestTranslations holds the catalogs to the template: each text is there, once,
// translated, with the same places to fill in, and nothing else.
func TestTranslations(t *testing.T) {
	all := texts(t)
	for _, language := range languages {
		path := "po/" + language + "/x402.po"
		got := map[string]string{}
		var head string
		for _, m := range mustParse(path) {
			if m.ID == "" {
				head = m.Text
			} else if _, twice := got[m.ID]; twice {
				t.Errorf("%s: %q is twice", path, m.ID)
			}
			got[m.ID] = m.Text
		}
		delete(got, "")
		for _, id := range slices.Sorted(maps.Keys(all)) {
			if got[id] == "" {
				t.Errorf("%s: %q is not translated", path, id)
			}
			a, b := verbs.FindAllString(id, -1), verbs.FindAllString(got[id], -1)
			if !slices.Equal(a, b) {
				t.Errorf("%s: %q has %v, its translation %v", path, id, a, b)
			}
		}
		for id := range got {
			if _, known := all[id]; !known {
				t.Errorf("%s: %q is in no page any more", path, id)
			}
		}
		if want := "Language: " + language + "\n"; !strings.Contains(head, want) {
			t.Errorf("%s: no %q in its header", path, want)
		}
		if *update {
			lines := strings.SplitAfter(head, "\n")
			for i := range lines {
				lines[i] = strings.ReplaceAll(quote(lines[i]), "\n", `\n`)
			}
			text := catalog(strings.Join(lines[:len(lines)-1], "\n"), all, got)
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestFiles looks at what is installed.
func TestFiles(t *testing.T) {
	files, err := luci.Files()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"www/luci-static/resources/view/x402/status.js", "usr/share/luci/menu.d/luci-app-x402.json",
		"usr/share/rpcd/acl.d/luci-app-x402.json", "usr/libexec/x402-lookup", "usr/lib/lua/luci/i18n/x402.zh-cn.lmo"} {
		if len(files[name]) == 0 {
			t.Errorf("no %s", name)
		}
		if want := name == "usr/libexec/x402-lookup"; luci.Executable(name) != want {
			t.Errorf("%s: executable %v, want %v", name, !want, want)
		}
	}
	elements := regexp.MustCompile(`[^\w.]E\(|innerHTML|insertAdjacentHTML|outerHTML|document\.write`)
	for name, b := range files {
		if !fs.ValidPath(name) {
			t.Errorf("%q is no path below the root", name)
		}
		if strings.HasSuffix(name, ".js") && !strings.HasSuffix(name, "x402/node.js") && elements.Match(b) {
			t.Errorf("%s makes elements past x402/node.js: %q", name, elements.Find(b))
		}
		if strings.HasSuffix(name, ".json") && !json.Valid(b) {
			t.Errorf("%s is no JSON", name)
		}
	}
}

// TestOptions holds the settings that the pages write to those of agent.toml, and
// to those that the service takes.
func TestOptions(t *testing.T) {
	b, err := os.ReadFile("../../agent.toml")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{"agent.enabled": true, "agent.consent": true} // the service's own
	table := "agent"
	line := regexp.MustCompile(`^#?(?:\[(\w+)\]|(\w+) = )`)
	for text := range strings.Lines(string(b)) {
		m := line.FindStringSubmatch(text)
		switch {
		case strings.HasPrefix(text, "# Several SIMs"):
			table = ""
		case m != nil && m[1] != "" && table != "":
			table = m[1]
		case m != nil && table != "":
			known[table+"."+m[2]] = true
		}
	}
	service, err := os.ReadFile("../files/usr/share/x402-agent/agent.sh")
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(known, func(key string, _ bool) bool {
		return !strings.Contains(string(service), key+" ") && !strings.Contains(string(service), key+")")
	})
	policy, err := os.ReadFile("htdocs/luci-static/resources/view/x402/policy.js")
	if err != nil {
		t.Fatal(err)
	}
	section, found := "", 0
	for _, m := range regexp.MustCompile(`NamedSection, '(\w+)'|(?:text|number|list)\(s, '(\w+)'|\['((?:allow|deny)_\w+)', _|form\.Flag, '(\w+)'`).FindAllStringSubmatch(string(policy), -1) {
		if m[1] != "" {
			section = m[1]
			continue
		}
		found++
		if key := section + "." + m[2] + m[3] + m[4]; !known[key] {
			t.Errorf("policy.js: there is no %s", key)
		}
	}
	if found < 20 {
		t.Errorf("only %d settings found in policy.js", found)
	}
	begin, err := os.ReadFile("htdocs/luci-static/resources/x402/start.js")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`\b[gs]et\('(\w+)', '(\w+)'`).FindAllStringSubmatch(string(begin), -1) {
		if !known[m[1]+"."+m[2]] {
			t.Errorf("start.js: there is no %s.%s", m[1], m[2])
		}
	}
}
