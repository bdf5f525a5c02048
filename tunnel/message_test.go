package tunnel

import (
	"net/http"
	"testing"

	"golang.org/x/net/http/httpguts"
)

func TestFields(t *testing.T) {
	f := Fields{"a": {"1", "2"}, "b": nil}
	f.Add("c", "3")
	f.Add("a", "4")
	if f.Get("a") != "1" || f.Get("b") != "" || f.Get("c") != "3" || f.Get("d") != "" || len(f["a"]) != 3 || Fields(nil).Get("a") != "" {
		t.Errorf("%v", f)
	}
}

func TestCheckField(t *testing.T) {
	for _, row := range []struct {
		name, value string
		ok          bool
	}{
		{"via", "x", true}, {"x-1", "", true}, {"te", "trailers", true}, {"a", "\t\x80 é", true}, {"!#$%&'*+-.^_`|~", "x", true},
		{"", "x", false}, {"Via", "x", false}, {":path", "x", false}, {"é", "x", false}, {"a b", "x", false},
		{"a", "x\r\ny", false}, {"a", "\x00", false}, {"a", "\x7f", false},
		{"te", "gzip", false}, {"connection", "close", false}, {"upgrade", "x", false},
		{"keep-alive", "", false}, {"proxy-connection", "", false}, {"transfer-encoding", "chunked", false},
	} {
		if err := CheckField(row.name, row.value); (err == nil) != row.ok {
			t.Errorf("%q %q: %v", row.name, row.value, err)
		}
	}
}

// TestMessageTables compares what is allowed with what x/net allows, byte by
// byte, and the texts with net/http's.
func TestMessageTables(t *testing.T) {
	for c := range 256 {
		s := string([]byte{'a', byte(c), 'b'})
		if got, want := IsToken(s), httpguts.ValidHeaderFieldName(s); got != want {
			t.Errorf("token %q: %t, want %t", s, got, want)
		}
		if got, want := IsValue(s), httpguts.ValidHeaderFieldValue(s); got != want {
			t.Errorf("value %q: %t, want %t", s, got, want)
		}
	}
	for status, text := range statusText {
		if want := http.StatusText(status); text != want {
			t.Errorf("%d is %q, want %q", status, text, want)
		}
	}
}
