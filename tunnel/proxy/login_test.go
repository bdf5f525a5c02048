package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// logins are two users with a tunnel each, and some who are refused.
func logins(a, b Tunnel) func(context.Context, netip.Addr, string, string) (Tunnel, error) {
	return func(_ context.Context, from netip.Addr, user, password string) (Tunnel, error) {
		switch {
		case !from.IsLoopback():
			return nil, fmt.Errorf("from %s", from)
		case user == "spent":
			return nil, &RefusedError{http.StatusPaymentRequired, "Buy more.", errors.New("the credit is used up")}
		case user == "a" && password == "pw":
			return a, nil
		case user == "b" && password == "pw":
			return b, nil
		}
		return nil, errors.New("secret reason")
	}
}

func TestHTTPLogin(t *testing.T) {
	a := site(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "of a ", r.Header) })
	b := site(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "of b ", r.Header) })
	addr := start(t, ServeHTTP, Config{Login: logins(a, b)})
	for login, want := range map[string]string{
		"": "407 wants a user", "a:pw@": "200 of a", "b:pw@": "200 of b", "a:no@": "407 wants a user", "spent:x@": "402 used up.\n\nBuy more.",
	} {
		proxyURL, err := url.Parse("http://" + login + addr)
		if err != nil {
			t.Fatal(err)
		}
		tr := &http.Transport{Proxy: http.ProxyURL(proxyURL), DisableCompression: true}
		status, text, _ := strings.Cut(want, " ")
		resp, body := get(t, &http.Client{Transport: tr, Timeout: time.Minute}, "http://shop.test/")
		if fmt.Sprint(resp.StatusCode) != status || !strings.Contains(body, text) || strings.Contains(body, "secret") || strings.Contains(body, "Proxy-") {
			t.Errorf("%q: got %s, %q", login, resp.Status, body)
		}
		tr.CloseIdleConnections()
	}
}

// TestHTTPLoginFlowsApart has two users ask one site at once, again and again:
// no request goes by the other's tunnel.
func TestHTTPLoginFlowsApart(t *testing.T) {
	a := site(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "a") })
	b := site(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "b") })
	addr := start(t, ServeHTTP, Config{Login: logins(a, b)})
	var wg sync.WaitGroup
	for _, user := range []string{"a", "b", "a", "b"} {
		tr := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", User: url.UserPassword(user, "pw"), Host: addr})}
		wg.Go(func() {
			defer tr.CloseIdleConnections()
			for range 25 {
				res, err := (&http.Client{Transport: tr, Timeout: time.Minute}).Get("http://shop.test/")
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(res.Body)
				if res.Body.Close(); err != nil || string(body) != user {
					t.Errorf("user %s: got %q, %v", user, body, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestSOCKS5Login(t *testing.T) {
	a := &testTunnel{names: map[string]string{"shop.test:80": serveTCP(t, echo)}}
	b := &testTunnel{}
	addr := start(t, ServeSOCKS5, Config{Login: logins(a, b)})
	request := string(connectRequest("shop.test", 80)[3:])
	answers(t, addr, map[string]string{
		"\x05\x01\x02\x01\x01a\x02pw" + request + "hi": "\x05\x02\x01\x00" + string(connected[2:]) + "hi",
		"\x05\x01\x02\x01\x01a\x02no":                  "\x05\x02\x01\x01",
		"\x05\x01\x02\x01\x05spent\x01x":               "\x05\x02\x01\x01",
		"\x05\x01\x00":                                 "\x05\xff",
	})
	if len(b.asked) > 0 {
		t.Errorf("b's tunnel was asked for %v", b.asked)
	}
}

func TestRefusedError(t *testing.T) {
	for status, want := range map[int]refusal{
		http.StatusPaymentRequired:    {"http_request_denied", 402, replyNotAllowed, "Do."},
		http.StatusServiceUnavailable: {"proxy_internal_error", 503, replyFailure, "Do."},
	} {
		if got := explain(fmt.Errorf("dial: %w", &RefusedError{status, "Do.", errors.New("no")})); got != want {
			t.Errorf("%d: %+v", status, got)
		}
	}
}
