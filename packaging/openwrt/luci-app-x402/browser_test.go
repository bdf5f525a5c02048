package luci_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A browser is a headless Chromium that is driven over a pipe, by the DevTools
// protocol: JSON messages with a zero byte after each. One goroutine reads; what
// pages complain of is kept.
type browser struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	done chan struct{} // closed when the browser's pipe has ended

	mu       sync.Mutex
	last     int
	waiting  map[int]chan reply // each holds one
	complain []string
}

type reply struct {
	ID      int             `json:"id"`
	Method  string          `json:"method"`
	Params  json.RawMessage `json:"params"`
	Result  json.RawMessage `json:"result"`
	Session string          `json:"sessionId"`
	Error   *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// A page is one tab.
type page struct {
	b       *browser
	session string
}

// patience is for a busy machine.
const patience = 90 * time.Second

// openBrowser starts a browser, which ends with the test.
func openBrowser(t *testing.T) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no chromium: scripts/deps.sh chromium")
		}
		t.Skip("no chromium: sudo apt-get install chromium")
	}
	inRead, inWrite, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	b := &browser{
		in: inWrite, done: make(chan struct{}), waiting: map[int]chan reply{},
		cmd: exec.Command(path, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
			"--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe", "--user-data-dir="+home, "about:blank"),
	}
	b.cmd.Env = append(os.Environ(), "HOME="+home)
	b.cmd.ExtraFiles = []*os.File{inRead, outWrite} // 3 and 4 there
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(inRead.Close(), outWrite.Close()); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { b.read(outRead) })
	t.Cleanup(func() {
		_ = syscall.Kill(-b.cmd.Process.Pid, syscall.SIGKILL) // with its own processes
		_ = b.cmd.Wait()
		_ = b.in.Close()
		_ = outRead.Close()
		wg.Wait()
	})
	return b
}

// read takes messages until the browser's pipe ends.
func (b *browser) read(r io.Reader) {
	defer close(b.done)
	messages := bufio.NewReaderSize(r, 1<<20)
	for {
		raw, err := messages.ReadBytes(0)
		if err != nil {
			return
		}
		var m reply
		if json.Unmarshal(bytes.TrimRight(raw, "\x00"), &m) != nil {
			continue
		}
		b.mu.Lock()
		c := b.waiting[m.ID]
		delete(b.waiting, m.ID)
		b.note(m)
		b.mu.Unlock()
		if c != nil {
			c <- m
		}
	}
}

// note keeps what a page complains of. The caller holds the lock.
func (b *browser) note(m reply) {
	var p struct {
		Type  string `json:"type"`
		Entry struct{ Level, Text, URL string }
		Args  []struct {
			Value       any    `json:"value"`
			Description string `json:"description"`
		} `json:"args"`
		Details struct {
			Text      string
			Exception struct{ Description string }
		} `json:"exceptionDetails"`
	}
	if json.Unmarshal(m.Params, &p) != nil {
		return
	}
	switch {
	case m.Method == "Runtime.exceptionThrown":
		b.complain = append(b.complain, p.Details.Text+" "+p.Details.Exception.Description)
	case m.Method == "Runtime.consoleAPICalled" && (p.Type == "error" || p.Type == "warning"):
		var text strings.Builder
		text.WriteString(p.Type + ":")
		for _, a := range p.Args {
			text.WriteString(fmt.Sprint(" ", a.Value, a.Description))
		}
		b.complain = append(b.complain, text.String())
	case m.Method == "Log.entryAdded" && p.Entry.Level == "error":
		b.complain = append(b.complain, p.Entry.Text+" "+p.Entry.URL)
	}
}

// complaints are the errors of all pages so far.
func (b *browser) complaints() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.complain, "\n")
}

// forgive takes complaints back that contain a text.
func (b *browser) forgive(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.complain = slices.DeleteFunc(b.complain, func(s string) bool { return strings.Contains(s, text) })
}

// call sends a command and decodes its result into v, if that is not nil.
func (b *browser) call(ctx context.Context, session, method string, params map[string]any, v any) error {
	answer := make(chan reply, 1)
	b.mu.Lock()
	b.last++
	id := b.last
	b.waiting[id] = answer
	message, err := json.Marshal(map[string]any{"id": id, "method": method, "params": params, "sessionId": session})
	if session == "" {
		message, err = json.Marshal(map[string]any{"id": id, "method": method, "params": params})
	}
	if err == nil {
		_, err = b.in.Write(append(message, 0))
	}
	b.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	select {
	case m := <-answer:
		if m.Error != nil {
			return fmt.Errorf("%s: %s", method, m.Error.Message)
		}
		if v == nil {
			return nil
		}
		return json.Unmarshal(m.Result, v)
	case <-b.done:
		return fmt.Errorf("%s: the browser has ended", method)
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", method, context.Cause(ctx))
	}
}

// open opens a tab that tells of errors.
func (b *browser) open(ctx context.Context) (*page, error) {
	var target struct{ TargetID string }
	if err := b.call(ctx, "", "Target.createTarget", map[string]any{"url": "about:blank"}, &target); err != nil {
		return nil, err
	}
	var attached struct{ SessionID string }
	if err := b.call(ctx, "", "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached); err != nil {
		return nil, err
	}
	p := &page{b: b, session: attached.SessionID}
	for _, domain := range []string{"Page", "Runtime", "Log"} {
		if err := p.call(domain+".enable", nil, nil); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *page) call(method string, params map[string]any, v any) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience+10*time.Second)
	defer cancel()
	return p.b.call(ctx, p.session, method, params, v)
}

// eval runs JavaScript, waits for what it promises and decodes that into v.
func (p *page) eval(script string, v any) error {
	var r struct {
		Result    struct{ Value json.RawMessage }
		Exception *struct {
			Text      string
			Exception struct{ Description string }
		} `json:"exceptionDetails"`
	}
	err := p.call("Runtime.evaluate", map[string]any{"expression": script, "awaitPromise": true, "returnByValue": true}, &r)
	switch {
	case err != nil:
		return err
	case r.Exception != nil:
		return fmt.Errorf("%.100s: %s %s", script, r.Exception.Text, r.Exception.Exception.Description)
	case v == nil:
		return nil
	}
	return json.Unmarshal(r.Result.Value, v)
}

// until waits until a JavaScript expression is true.
func (p *page) until(condition string) error {
	var ok bool
	err := p.eval(fmt.Sprintf(`(async () => {
		const end = Date.now() + %d;
		for (;;) {
			try { if (%s) return true; } catch (e) { if (Date.now() > end) throw e; }
			if (Date.now() > end) return false;
			await new Promise((r) => setTimeout(r, 50));
		}
	})()`, patience.Milliseconds(), condition), &ok)
	if err == nil && !ok {
		var text string
		_ = p.eval("document.body.innerText", &text) // for the message
		err = fmt.Errorf("not in %v: %s\nthe page says:\n%s", patience, condition, text)
	}
	return err
}

// visit loads a URL and waits for the view.
func (p *page) visit(url string) error {
	if err := p.call("Page.navigate", map[string]any{"url": url}, nil); err != nil {
		return err
	}
	return p.until(fmt.Sprintf("location.href === %q && document.querySelector('#view h2') && document.fonts.status === 'loaded'", url))
}

// size sets how wide the page is, and whether it is dark.
func (p *page) size(width int, dark bool) error {
	err := p.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}, nil)
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	return errors.Join(err, p.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil))
}

// picture takes a picture of the whole page.
func (p *page) picture() ([]byte, error) {
	var shot struct{ Data string }
	if err := p.call("Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": true}, &shot); err != nil {
		return nil, err
	}
	return base64.StdEncoding.DecodeString(shot.Data)
}
