package luci_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	luci "github.com/depinsim/x402/packaging/openwrt/luci-app-x402"
)

// luciVar names a checkout of LuCI: with it the pages run in the real one's
// JavaScript and look, else in what is in testdata/host.
const luciVar = "X402_LUCI"

// A host serves the app's pages for a router.
type host struct {
	*httptest.Server
	router *router
	real   string // where LuCI is, "" if it is not
	lang   string
	files  map[string][]byte
}

func newHost(t *testing.T, r *router) *host {
	t.Helper()
	files, err := luci.Files()
	if err != nil {
		t.Fatal(err)
	}
	h := &host{router: r, real: os.Getenv(luciVar), lang: "en", files: files}
	mux := http.NewServeMux()
	mux.HandleFunc("/luci-static/", h.static)
	mux.HandleFunc("POST /ubus/", h.ubus)
	mux.HandleFunc("/cgi-bin/luci/admin/services/x402/{view}", h.page)
	mux.HandleFunc("/favicon.ico", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	h.Server = httptest.NewServer(mux)
	t.Cleanup(h.Close)
	return h
}

// static serves a file of the app, or else of LuCI.
func (h *host) static(w http.ResponseWriter, r *http.Request) {
	name := path.Clean(r.URL.Path)
	w.Header().Set("Cache-Control", "no-store")
	if b, ok := h.files["www"+name]; ok {
		http.ServeContent(w, r, name, zeroTime, strings.NewReader(string(b)))
		return
	}
	for _, dir := range h.folders() {
		file := filepath.Join(dir, strings.TrimPrefix(name, "/luci-static"))
		if _, err := os.Stat(file); err == nil {
			http.ServeFile(w, r, file)
			return
		}
	}
	http.NotFound(w, r)
}

// folders are those that LuCI's static files are in.
func (h *host) folders() []string {
	if h.real == "" {
		return []string{"testdata"}
	}
	return []string{h.real + "/modules/luci-base/htdocs/luci-static", h.real + "/themes/luci-theme-bootstrap/htdocs/luci-static"}
}

const (
	head = `<!DOCTYPE html><html lang="%s"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>x402</title>`
	body = `</head><body><div id="maincontent" class="container"><div id="view"></div></div>`

	ownPage = head + `<link rel="stylesheet" href="/luci-static/host/theme.css"><script>window.TR=%s;window.luciEnv=%s</script><script src="/luci-static/host/luci.js"></script>` + body + `</body></html>`

	realPage = head + `<script>matchMedia('(prefers-color-scheme: dark)').addEventListener('change',(e)=>document.documentElement.setAttribute('data-darkmode',e.matches));
document.documentElement.setAttribute('data-darkmode',matchMedia('(prefers-color-scheme: dark)').matches)</script>
<link rel="stylesheet" href="/luci-static/bootstrap/cascade.css"><link rel="stylesheet" media="only screen and (max-device-width: 854px)" href="/luci-static/bootstrap/mobile.css">
<script>window.TR=%s</script><script src="/luci-static/resources/cbi.js"></script>` + body + `<script src="/luci-static/resources/luci.js"></script>
<script>L = new LuCI(%s);L.require('ui').then((ui) => ui.instantiateView(L.env.view))</script></body></html>`
)

// page is the frame of a view.
func (h *host) page(w http.ResponseWriter, r *http.Request) {
	view := r.PathValue("view")
	env, _ := json.Marshal(map[string]any{ // of texts and numbers
		"view": "x402/" + view, "sessionid": "0123", "token": "0123", "media": "/luci-static/bootstrap", "resource": "/luci-static/resources",
		"scriptname": "/cgi-bin/luci", "pathinfo": "/admin/services/x402/" + view, "documentroot": "/www", "ubuspath": "/ubus/", "pollinterval": 5,
		"requestpath": []string{"admin", "services", "x402", view}, "dispatchpath": []string{"admin", "services", "x402", view},
		"nodespec": map[string]any{}, "apply_rollback": 90, "apply_holdoff": 4, "apply_timeout": 5, "apply_display": 1.5,
	})
	text := ownPage
	if h.real != "" {
		text = realPage
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	fmt.Fprintf(w, text, h.lang, h.translations(), env)
}

// translations are what pages have of the language: in LuCI's own by the hashes
// of a compiled catalog.
func (h *host) translations() []byte {
	all := map[string]string{}
	if h.lang != "en" && h.real != "" {
		for key, text := range readLMO(h.files["usr/lib/lua/luci/i18n/x402."+catalogOf(h.lang)+".lmo"]) {
			all[fmt.Sprintf("%08x", key)] = text
		}
	} else if h.lang != "en" {
		for _, m := range mustParse("po/" + h.lang + "/x402.po") {
			all[m.ID] = m.Text
		}
	}
	b, _ := json.Marshal(all) // of texts
	return b
}

// ubus answers JSON-RPC, of one call or of several.
func (h *host) ubus(w http.ResponseWriter, r *http.Request) {
	var raw json.RawMessage
	if err := json.NewDecoder(r.Body).Decode(&raw); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var several []request
	one := json.Unmarshal(raw, &several) != nil
	if one {
		several = make([]request, 1)
		if err := json.Unmarshal(raw, &several[0]); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	answers := make([]map[string]any, 0, len(several))
	for _, q := range several {
		answers = append(answers, map[string]any{"jsonrpc": "2.0", "id": q.ID, "result": h.answer(q)})
	}
	var out any = answers
	if one {
		out = answers[0]
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // a page that is gone is no news
}

type request struct {
	ID     any
	Method string
	Params []json.RawMessage
}

func (h *host) answer(q request) any {
	var object, method string
	params := map[string]any{}
	if q.Method != "call" || len(q.Params) != 4 || json.Unmarshal(q.Params[1], &object) != nil ||
		json.Unmarshal(q.Params[2], &method) != nil || json.Unmarshal(q.Params[3], &params) != nil {
		return map[string]any{} // a list of what there is
	}
	code, result := h.router.call(object, method, params)
	if result == nil {
		return []any{code}
	}
	return []any{code, result}
}
