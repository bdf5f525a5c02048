package seller

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
)

type tree = map[string]any

// tomlTaken are texts and what they say.
var tomlTaken = map[string]tree{
	"":                         {},
	"\ufeffa = 1":              {"a": int64(1)},
	"# only a comment, \u00e9": {},
	"a = 1 # c\r\n\r\n\t b=2":  {"a": int64(1), "b": int64(2)},
	"1234 = true\n-_ = false":  {"1234": true, "-_": false},
	`"" = 1`:                   {"": int64(1)},
	"'a.b' . \"c\\t\" = ''":    {"a.b": tree{"c\t": ""}},
	"3.14 = 1":                 {"3": tree{"14": int64(1)}},

	"a = [0, +0, -0, 1_000, -17, 0xDEAD_beef, 0o755, 0b11_01]": {"a": []any{int64(0), int64(0), int64(0), int64(1000), int64(-17), int64(0xdeadbeef), int64(0o755), int64(13)}},
	"a = [9223372036854775807, -9223372036854775808]":          {"a": []any{int64(1<<63 - 1), int64(-1 << 63)}},

	"a = [1.0, -0.5, 6e23, 1_0.2_5E-1, inf, -nan]":            {"a": []any{unread{}, unread{}, unread{}, unread{}, unread{}, unread{}}},
	"a = 2026-11-28 # today\nb = 07:32:00.5":                  {"a": unread{}, "b": unread{}},
	"a = [1979-05-27 07:32:00Z,1979-05-27T00:32:00.99-07:00]": {"a": []any{unread{}, unread{}}},

	"a = [\n]\nb = [ 1 # one\n , # two\n \"2\"\r\n,]": {"a": []any{}, "b": []any{int64(1), "2"}},
	"a = [[1], [[]], {}]":                             {"a": []any{[]any{int64(1)}, []any{[]any{}}, tree{}}},
	"a = { b.c = 1, b.d = [\n2 ], e = {} }":           {"a": tree{"b": tree{"c": int64(1), "d": []any{int64(2)}}, "e": tree{}}},
	"a = [{b = 1}, {b = {c = 2}}, {b = {c = 3}}]":     {"a": []any{tree{"b": int64(1)}, tree{"b": tree{"c": int64(2)}}, tree{"b": tree{"c": int64(3)}}}},

	`a = "\b\t\n\f\r\"\\ \u00e9\U0001F680'#"`:            {"a": "\b\t\n\f\r\"\\ é🚀'#"},
	`a = 'C:\new\"x"'`:                                   {"a": `C:\new\"x"`},
	"a = \"\"\"\nx\n\"\"y \\  \n\n\t z\\\r\n \"\"\"\"\"": {"a": "x\n\"\"y z\"\""},
	"a = '''\r\nx\\\n''y'''''":                           {"a": "x\\\n''y''"},
	`a = """"""` + "\nb = ''''''":                        {"a": "", "b": ""},

	"[a.b.c]\nd = 1\n[a]\ne = 2\n[ a . f ]":                       {"a": tree{"b": tree{"c": tree{"d": int64(1)}}, "e": int64(2), "f": tree{}}},
	"a.b = 1\na.c = 2\n[a.d]\ne = 3":                              {"a": tree{"b": int64(1), "c": int64(2), "d": tree{"e": int64(3)}}},
	"[a.b.c]\n[a]\nb.d = 1":                                       {"a": tree{"b": tree{"c": tree{}, "d": int64(1)}}},
	"[[a]]\nb = 1\n[a.c]\nd = 2\n[[a]]\n[a.c]\nd = 3":             {"a": []tree{{"b": int64(1), "c": tree{"d": int64(2)}}, {"c": tree{"d": int64(3)}}}},
	"[[a]]\n[[a.b]]\nc = 1\n[[a.b]]\n[[a]]\n[[a.b]]\nc.d = 'x'\n": {"a": []tree{{"b": []tree{{"c": int64(1)}, {}}}, {"b": []tree{{"c": tree{"d": "x"}}}}}},
	"[a.b]\n[[a.c]]\n[a]\nd = 1":                                  {"a": tree{"b": tree{}, "c": []tree{{}}, "d": int64(1)}},
}

func TestTOML(t *testing.T) {
	for text, want := range tomlTaken {
		got, err := parseTOML([]byte(text))
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
}

// tomlRefused are texts and where they are wrong.
var tomlRefused = map[string]string{
	"a": "line 1: a: '=' is missing", "a b = 1": "line 1: a: '='", "= 1": "line 1: a key is", "a. = 1": "line 1: a key", "é = 1": "line 1: a key",
	"\"\"\"a\"\"\" = 1": "line 1: \"\": '='", "\na = 1 b = 2": "line 2: a: nothing but", "a = 1, ": "line 1: a: nothing", "[a] b = 1": "line 1: a: nothing",
	"\n\n[a": "line 3: a: ']'", "[]": "line 1: a key", "[[a] ]": "line 1: a: ']'", "[ [a]]": "line 1: a key", "[a]]": "line 1: a: nothing", "[a.]": "line 1: a key",
	"[a]\n\"b\\n7\" = ": `line 2: a."b\n#": a value is`, "a = \n1": "line 1: a: a value", "a = #1": "line 1: a: a value",

	"a = 01": "line 1: a: a number has no zeros", "a = -01": "line 1: a: a number", "a = 0_1": "line 1: a: a number", "a = 00.5": "line 1: a: a number",
	"a = 1_": "line 1: a: not a", "a = _1": "line 1: a: not", "a = 1__0": "line 1: a: not", "a = 0x_1": "line 1: a: not", "a = 0X1": "line 1: a: not",
	"a = +0x1": "line 1: a: not", "a = 0x": "line 1: a: not", "a = 0b2": "line 1: a: not", "a = ++1": "line 1: a: not", "a = -": "line 1: a: not",
	"a = 9223372036854775808": "line 1: a: not", "a = True": "line 1: a: not", "a = yes": "line 1: a: not", "a = Infinity": "line 1: a: not",
	"a = 192.0.2.1": "line 1: a: not", "a = .5": "line 1: a: not",
	"a = 1.": "line 1: a: not", "a = 1.e5": "line 1: a: not", "a = 1e": "line 1: a: not", "a = 1_.5": "line 1: a: not", "a = 1.5_e5": "line 1: a: not", "a = 1.5.5": "line 1: a: not",

	`a = "b`: "line 1: a: the quotes at", "a = \"b\nc\"": "line 1: a: a quote is missing", "a = 'b": "line 1: a: the quotes", "a = \"\"\"b\n": "line 1: a: the quotes",
	`a = "\x41"`: "line 1: a: a backslash", `a = "\`: "line 1: a: a backslash", `a = "\u12"`: "line 1: a: a backslash", `a = "\ud800"`: "line 1: a: a backslash",
	`a = "\UFFFFFFFF"`: "line 1: a: a backslash", "a = \"\\ \n\"": "line 1: a: a backslash", `a = """\ b"""`: "line 1: a: a backslash",
	`a = """b""""""`: "line 1: a: more than 5", "a = \"\x00\"": "line 1: a control character, U+0000", "# \x1b": "line 1: a control", "a = '\x7f'": "line 1: a control",
	"\na = 1\rb": "line 2: a control", "# \xff": "line 1: not UTF-8", "\xff\xfea": "line 1: not UTF-8",

	"a = [1 2]": "line 1: a: ',' or ']'", "a = [,]": "line 1: a: a value", "a = [1,,2]": "line 1: a: a value", "a = [1\n": "line 2: a: ',' or ']'", "a = [": "line 1: a: a value",
	"a = {b = 1,}": "line 1: a: a key", "a = {b = 1\n}": "line 1: a: ',' or '}'", "a = {\n}": "line 1: a: a key", "a = {b = 1 c = 2}": "line 1: a: ','", "a = {,}": "line 1: a: a key",
	"a = {b = 1, b = 2}": "line 1: a.b: it is", "a = {b = {c = 1}, b.d = 2}": "line 1: a.b.d: it is", "a = [{b = 1, b.c = 2}]": "line 1: a.b.c: it is",

	"a = 1\na = 1": "line 2: a: it is", "a = 1\n\"a\" = 1": "line 2: a: it is", "a = []\na = 1": "line 2: a: it is", "a = 1\na.b = 1": "line 2: a.b: it is", "a.b = 1\na = 1": "line 2: a: it is",
	"[a]\n[a]": "line 2: a: it is", "[a]\nb = 1\n[a.b]": "line 3: a.b: it is", "a.b = 1\n[a]": "line 2: a: it is", "[a]\nb.c = 1\n[a.b]": "line 3: a.b: it is",
	"a = {}\n[a.b]": "line 2: a.b: it is", "a = {}\na.b = 1": "line 2: a.b: it is", "a = {}\n[a]": "line 2: a: it is", "a = {b = {}}\n[a.b.c]": "line 2: a.b.c: it is",
	"a = []\n[[a]]": "line 2: a: it is", "a = [{}]\n[a.b]": "line 2: a.b: it is", "[[a]]\n[a]": "line 2: a: it is", "[a]\n[[a]]": "line 2: a: it is", "[a.b]\n[[a]]": "line 2: a: it is",
	"[[a]]\n[a.b]\n[a.b]": "line 3: a.b: it is", "[[a.b]]\n[a]\nb.c = 1": "line 3: a.b.c: it is", "[a.b.c]\n[a]\nb.c.d = 1": "line 3: a.b.c.d: it is", "[a.b]\n[a]\nb = 1": "line 3: a.b: it is",

	strings.Repeat("a.", maxTOMLDepth) + "a = 1": "line 1: not supported",
	"a = " + strings.Repeat("[", 1000):           "line 1: a: not supported",
	"a = {b = [{c = [":                           "line 1: a.b.c: a value",
	strings.Repeat("#", maxTOMLSize+1):           "not supported",
}

func TestTOMLRefuses(t *testing.T) {
	for text, want := range tomlRefused {
		got, err := parseTOML([]byte(text))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.200q: %v, %v; want %s", text, got, err, want)
		}
	}
}

// oracle is what another reader of TOML makes of a text.
func oracle(text string) (got tree, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	if err := toml.Unmarshal([]byte(text), &got); err != nil {
		return nil, err
	}
	return blur(got).(tree), nil
}

// blur makes floats and dates unread.
func blur(v any) any {
	switch v := v.(type) {
	case tree:
		for k, e := range v {
			v[k] = blur(e)
		}
	case []tree:
		for _, e := range v {
			blur(e)
		}
	case []any:
		for i, e := range v {
			v[i] = blur(e)
		}
	case float64, time.Time:
		return unread{}
	}
	return v
}

// checkFill compares what a file says to the agent with what it says to the
// library, if it has the right shape.
func checkFill(t *testing.T, text string, decoded tree) {
	if len(shapeProblems(decoded)) > 0 {
		return
	}
	var got, want rawFile
	fill(reflect.ValueOf(&got).Elem(), decoded)
	if err := toml.Unmarshal([]byte(text), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// hasUnread says whether a float or a date is in v.
func hasUnread(v any) bool { return strings.Contains(fmt.Sprintf("%#v", v), "seller.unread{}") }

// FuzzTOML: what is taken, another reader takes for the same; what only that
// one takes is said to be unsupported, or twice, where it is lenient. What is
// inside a float or a date does not count.
func FuzzTOML(f *testing.F) {
	shipped, err := os.ReadFile(shippedFile)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(shipped))
	f.Add(string(setting.ReplaceAll(shipped, []byte("$1"))))
	f.Add(string(edited()))
	f.Add("policy.allow_tcp = []\nlimits = {sessions = 3}\n[[sim]]\nbind_tunnel = true\n[[sim]]\nplan.schedule = ['a', 'b']\n")
	for text := range tomlTaken {
		f.Add(text)
	}
	for text := range tomlRefused {
		if len(text) < 1000 { // the fuzzer tries each byte
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.HasPrefix(text, "\xff\xfe") || strings.HasPrefix(text, "\xfe\xff") {
			return // the library takes these marks of UTF-16 for nothing
		}
		got, err := parseTOML([]byte(text))
		want, oerr := oracle(text)
		switch {
		case err == nil && oerr == nil:
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%#v, the library: %#v", got, want)
			}
			checkFill(t, text, got)
		case err == nil:
			if !hasUnread(got) {
				t.Errorf("%#v, the library: %v", got, oerr)
			}
		case strings.ContainsAny(err.Error(), "\n\r\x1b"):
			t.Errorf("not one line: %q", err)
		case oerr == nil && !strings.Contains(err.Error(), "not supported") && !strings.HasSuffix(err.Error(), twice):
			t.Errorf("%v, the library: %#v", err, want)
		}
	})
}
