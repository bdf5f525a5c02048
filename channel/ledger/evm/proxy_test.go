package evm

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// A proxy stands between a home and its node, and may do to any call what bad
// nodes do.
type proxy struct {
	url string
	to  string

	mu    sync.Mutex
	fault func(method string, answer json.RawMessage) (json.RawMessage, fault)
	calls map[string]int
}

type fault int

const (
	none    fault = iota
	swallow       // the call does not reach the node; the answer is what fault returned
	broken        // the whole request is answered with status 500
	silent        // never answered
)

type message struct {
	Version string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Method  string          `json:"method,omitempty"`
	Params  json.RawMessage `json:"params,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   json.RawMessage `json:"error,omitempty"`
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	p := &proxy{to: to, calls: map[string]int{}}
	srv := httptest.NewServer(p)
	t.Cleanup(srv.Close)
	p.url = srv.URL
	return p
}

// set makes f see every call: before it is passed on, with a nil answer, and
// after, with the node's.
func (p *proxy) set(f func(method string, answer json.RawMessage) (json.RawMessage, fault)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = f
}

func (p *proxy) ask(method string, answer json.RawMessage) (json.RawMessage, fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if answer == nil {
		p.calls[method]++
	}
	if p.fault == nil {
		return answer, none
	}
	return p.fault(method, answer)
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var batch []message
	single := json.Unmarshal(body, &batch) != nil
	if single {
		batch = make([]message, 1)
		if err := json.Unmarshal(body, &batch[0]); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	out := make([]message, len(batch))
	for i, m := range batch {
		answer, f := p.ask(m.Method, nil)
		switch f {
		case broken:
			http.Error(w, "broken", http.StatusInternalServerError)
			return
		case silent:
			<-r.Context().Done()
			return
		case swallow:
			out[i] = message{Version: "2.0", ID: m.ID, Result: answer}
			continue
		}
		if out[i], err = p.forward(r.Context(), m); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		if out[i].Result != nil {
			if out[i].Result, f = p.ask(m.Method, out[i].Result); f == broken { // the node has done it all the same
				http.Error(w, "broken", http.StatusInternalServerError)
				return
			}
		}
	}
	var answer any = out
	if single {
		answer = out[0]
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(answer) // a client that left is no concern
}

func (p *proxy) forward(ctx context.Context, m message) (message, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return message{}, err
	}
	req, err := http.NewRequestWithContext(ctx, "POST", p.to, bytes.NewReader(b))
	if err != nil {
		return message{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return message{}, err
	}
	defer resp.Body.Close()
	var out message
	return out, json.NewDecoder(resp.Body).Decode(&out)
}
