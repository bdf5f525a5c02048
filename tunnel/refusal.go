package tunnel

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"os"
	"strings"
	"syscall"
)

// A RefusedError is the agent's answer to a flow that it did not open.
type RefusedError struct {
	Status int
	// Kind is the error type of RFC 9209 §2.3, such as "connection_refused";
	// empty when the agent named none.
	Kind string
	// Text is what the agent said, at most 200 printable characters.
	Text string
}

func (e *RefusedError) Error() string {
	switch {
	case e.Text != "":
		return fmt.Sprintf("agent refused: %s (%d)", e.Text, e.Status)
	case e.Kind != "":
		return fmt.Sprintf("agent refused: %s (%d)", e.Kind, e.Status)
	default:
		return fmt.Sprintf("agent refused: %d %s", e.Status, statusText[e.Status])
	}
}

// ErrorKind returns Kind, for callers that do not import this package.
func (e *RefusedError) ErrorKind() string { return e.Kind }

func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

func isUnroutable(err error) bool {
	return errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH)
}

func isTimeout(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.Is(err, syscall.ETIMEDOUT)
}

func isUnknownHost(err error) bool {
	dns, ok := errors.AsType[*net.DNSError](err)
	return ok && !dns.IsTimeout
}

const maxRefusalText = 200

// printable cuts s to what can stand in a header field and on a terminal.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			return ' '
		}
		return r
	}, s)
	return strings.TrimSpace(s[:min(len(s), maxRefusalText)])
}

// proxyStatus is a Proxy-Status field (RFC 9209 §2) of this agent.
func proxyStatus(kind, text string) string {
	return fmt.Sprintf(`x402-agent; error=%s; details="%s"`, kind, printable(text))
}

// refusal reads a refused answer's fields. They come from the peer: what does
// not fit is left out.
func refusal(status int, fields Fields) *RefusedError {
	e := &RefusedError{Status: status}
	for part := range params(fields.Get("proxy-status")) {
		k, v, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch k {
		case "error":
			e.Kind = printable(v)
		case "details":
			e.Text = printable(strings.Trim(v, `"`))
		}
	}
	return e
}

// params splits a field at semicolons outside of quotes (RFC 8941 §3.1.2). The
// quotes of this program's agents have no escapes in them.
func params(field string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for field != "" {
			end, quoted := 0, false
			for end < len(field) && (quoted || field[end] != ';') {
				quoted = quoted != (field[end] == '"')
				end++
			}
			if !yield(field[:end]) || end == len(field) {
				return
			}
			field = field[end+1:]
		}
	}
}
