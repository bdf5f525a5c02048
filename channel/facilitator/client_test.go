package facilitator

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// scripted answers requests without a network.
type scripted func(ctx context.Context, url string) (Answer, error)

func (f scripted) Exchange(ctx context.Context, _, url string, _ []byte) (Answer, error) {
	return f(ctx, url)
}

// answering returns a client of a facilitator that always answers this.
func answering(t *testing.T, status int, body string) *Client {
	t.Helper()
	return newClient(t, "http://f.test", func(context.Context, string) (Answer, error) {
		return Answer{Status: status, Body: []byte(body)}, nil
	})
}

func newClient(t *testing.T, url string, f scripted) *Client {
	t.Helper()
	c, err := New(url, f)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestURL(t *testing.T) {
	for _, url := range []string{"", "f.test", "ftp://f.test", "http://", "http://f.test?x=1", "http://f.test/#x", "http://f .test", "http://%zz", "http://:80", "https://user:secret@f.test"} {
		if _, err := NewDirect(url); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", url, err)
		}
	}
	var got string
	c := newClient(t, "http://f.test:8402/sub//", func(_ context.Context, url string) (Answer, error) {
		got = url
		return Answer{}, errors.New("enough")
	})
	c.Channel(t.Context(), "eip155:5", channel.ID{})
	if want := "http://f.test:8402/sub/v1/channels/eip155:5/0x" + strings.Repeat("0", 64); got != want {
		t.Errorf("asked for %s, want %s", got, want)
	}
}

// TestAnswers: every kind of answer is either a no or no answer.
func TestAnswers(t *testing.T) {
	for name, tt := range map[string]struct {
		status int
		body   string
		code   string // of the refusal; "" wants ErrUnavailable
	}{
		"refused":            {200, `{"success":false,"errorReason":"insufficient_funds","transaction":"","network":"eip155:5"}`, "insufficient_funds"},
		"refused with 400":   {400, `{"success":false,"errorReason":"invalid_payload","errorMessage":"no"}`, "invalid_payload"},
		"verify-like":        {402, `{"isValid":false,"invalidReason":"invalid_scheme"}`, "invalid_scheme"},
		"ours":               {404, `{"error":"invalid_network","message":"no"}`, "invalid_network"},
		"404 of a proxy":     {404, `<html>not found</html>`, "http_404"},
		"rate limit":         {429, `{"error":"slow"}`, ""},
		"timeout":            {408, ``, ""},
		"500":                {500, `{"success":false,"errorReason":"unexpected_settle_error"}`, ""},
		"502 of a proxy":     {502, `<html>bad gateway</html>`, ""},
		"redirect":           {304, ``, ""},
		"html":               {200, `<html>hello</html>`, ""},
		"empty":              {200, ``, ""},
		"null amount":        {200, `{"success":true,"amount":{}}`, ""},
		"float":              {200, `{"success":true,"amount":1.5}`, ""},
		"two answers":        {200, `{"success":true}{"success":true}`, ""},
		"contradiction":      {200, `{"success":true,"Success":false}`, ""},
		"too large":          {200, `{"success":true,"x":"` + strings.Repeat("x", x402.MaxBody) + `"}`, ""},
		"garbled":            {200, "\xff\xfe\x00", ""},
		"an array":           {200, `[]`, ""},
		"no reason at all":   {403, `{}`, "http_403"},
		"duplicate in a 400": {400, `{"errorReason":"a","errorReason":"b"}`, "http_400"},
	} {
		_, err := answering(t, tt.status, tt.body).SettleReceiver(t.Context(), "eip155:5", channel.Address{1}, channel.Address{2})
		refused, ok := errors.AsType[*RefusedError](err)
		switch {
		case tt.code != "" && (!ok || refused.Code != tt.code || errors.Is(err, ErrUnavailable)):
			t.Errorf("%s: got %v, want refusal %s", name, err, tt.code)
		case tt.code == "" && (ok || !errors.Is(err, ErrUnavailable)):
			t.Errorf("%s: got %v, want ErrUnavailable", name, err)
		}
		if err != nil && (strings.ContainsAny(err.Error(), "\n\x00") || len(err.Error()) > 400) {
			t.Errorf("%s: error is not one line: %q", name, err)
		}
	}
}

// TestWrongSubject: an answer about something else than was asked is none.
func TestWrongSubject(t *testing.T) {
	c := answering(t, 200, `{"channelId":"0x`+strings.Repeat("1", 64)+`","balance":"5","totalClaimed":"0","withdrawAmount":"0"}`)
	if _, err := c.Channel(t.Context(), "eip155:5", channel.ID{2}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	c = answering(t, 200, `{"address":"0x`+strings.Repeat("1", 40)+`","balance":"5"}`)
	if _, err := c.Balance(t.Context(), "eip155:5", channel.Address{2}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if _, err := c.Claim(t.Context(), "eip155:5", x402.Claim{}); err == nil {
		t.Error("a claim of nothing was sent")
	}
}

// TestDown: a facilitator that is not there, hangs, or breaks off.
func TestDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, f := range map[string]scripted{
			"refused": func(context.Context, string) (Answer, error) { return Answer{}, errors.New("connection refused") },
			"hangs": func(ctx context.Context, _ string) (Answer, error) {
				<-ctx.Done()
				return Answer{}, ctx.Err()
			},
			"breaks off": func(context.Context, string) (Answer, error) {
				return Answer{Status: 200, Body: []byte(`{"kinds":[`)}, io.ErrUnexpectedEOF
			},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			_, err := newClient(t, "http://f.test", f).Supported(ctx)
			cancel()
			if name == "hangs" && !strings.HasSuffix(err.Error(), "/supported: no answer in time") {
				t.Errorf("%s: %v", name, err)
			}
			if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "GET http://f.test/supported") {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// FuzzAnswer: no answer makes the client panic or takes an error for a yes.
func FuzzAnswer(f *testing.F) {
	f.Add(200, []byte(`{"success":true,"amount":"5","transaction":"0x1","network":"eip155:5"}`))
	f.Add(400, []byte(`{"errorReason":"x"}`))
	f.Add(503, []byte(`no`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		if status < 200 || status > 599 {
			return
		}
		c := answering(t, status, string(body))
		r, err := c.SettleReceiver(t.Context(), "eip155:5", channel.Address{}, channel.Address{})
		if err == nil && (status != 200 || !r.Success) {
			t.Errorf("status %d and %q is a success", status, body)
		}
		c.Channel(t.Context(), "eip155:5", channel.ID{})
		c.Supported(t.Context())
	})
}
