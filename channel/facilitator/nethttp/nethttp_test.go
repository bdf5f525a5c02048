package nethttp

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/depinsim/x402/channel"
)

// TestClient posts JSON, follows a redirect, and reads no answer that is too long.
func TestClient(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/settle", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/settle", http.StatusPermanentRedirect)
	})
	mux.HandleFunc("POST /settle", func(w http.ResponseWriter, r *http.Request) {
		if b, err := io.ReadAll(r.Body); err != nil || len(b) == 0 || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("body of %d bytes, %v", len(b), err)
		}
		io.WriteString(w, `{"success":true,"transaction":"0x1","network":"eip155:5"}`)
	})
	mux.HandleFunc("GET /supported", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, strings.Repeat(" ", 2<<20)+"{}")
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	c, err := New(Config{URL: srv.URL + "/v1/"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.SettleReceiver(t.Context(), "eip155:5", channel.Address{1}, channel.Address{2}); err != nil {
		t.Error(err)
	}
	if c, err = New(Config{URL: srv.URL, HTTP: srv.Client()}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Supported(t.Context()); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("a long answer: %v", err)
	}
	srv.Close()
	if _, err := c.Supported(t.Context()); err == nil || strings.Count(err.Error(), srv.URL) != 1 {
		t.Errorf("a server that is gone: %v", err)
	}
	if _, err := New(Config{URL: "f.test"}); err == nil {
		t.Error("no URL was accepted")
	}
}

// TestDefaultTimeouts: without a client of the caller's own no call hangs for
// ever.
func TestDefaultTimeouts(t *testing.T) {
	if d := defaultHTTP().Timeout; d == 0 || d > time.Minute {
		t.Errorf("timeout is %s", d)
	}
}
