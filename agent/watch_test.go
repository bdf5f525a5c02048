package agent

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/depinsim/x402/channel"
)

func TestParseWatched(t *testing.T) {
	want := Watched{Networks: []string{"eip155:1"}, Channel: channel.ID{1}, Amount: 7, Withdraws: true, Error: "no room"}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseWatched(b); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%s: %+v, %v", b, got, err)
	}
	if got, err := ParseWatched([]byte(`{"later":1,"error":"\u001b[2Jgone"}`)); err != nil || strings.Contains(got.Error, "\x1b") {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "[]", `{"amount":"-1"}`, `{"channel":"0x12"}`, `{"networks":"eip155:1"}`} {
		if got, err := ParseWatched([]byte(bad)); err == nil {
			t.Errorf("%s: %+v", bad, got)
		}
	}
}

func FuzzWatched(f *testing.F) {
	f.Add([]byte(`{"networks":["eip155:1"],"channel":"0x` + strings.Repeat("12", 32) + `","amount":"7","withdraws":true,"error":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := ParseWatched(b)
		if err != nil {
			return
		}
		if again, err := json.Marshal(w); err != nil {
			t.Error(err)
		} else if _, err := ParseWatched(again); err != nil {
			t.Errorf("%s: %v", again, err)
		}
	})
}
