package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
)

// A refusal is why a flow was not opened, in the words of both protocols.
type refusal struct {
	kind   string // error type of RFC 9209 section 2.3
	status int    // of the HTTP answer, as RFC 9209 recommends for the kind
	reply  byte   // of the SOCKS answer, RFC 1928 section 6
	advice string // what the user can do
}

// refusals lists the kinds that can be told apart.
var refusals = []refusal{
	{"connection_refused", http.StatusBadGateway, replyRefused, "Nothing listens on this port of the target. Check host and port."},
	{"connection_timeout", http.StatusGatewayTimeout, replyHostUnreachable, "The target did not answer in time. Try again later, or another agent."},
	{"connection_terminated", http.StatusBadGateway, replyFailure, "The connection ended before an answer came. Try again."},
	{"connection_limit_reached", http.StatusServiceUnavailable, replyFailure, "Too many connections are open. Close some, or raise the limit."},
	{"destination_ip_prohibited", http.StatusBadGateway, replyNotAllowed, "The agent's owner does not allow this target: private addresses and some ports are closed."},
	{"http_request_denied", http.StatusForbidden, replyNotAllowed, "The agent's owner does not allow this target: private addresses and some ports are closed."},
	{"destination_ip_unroutable", http.StatusBadGateway, replyNetUnreachable, "The agent has no route to the target. It may lack IPv6."},
	{"destination_unavailable", http.StatusServiceUnavailable, replyHostUnreachable, "The target cannot be reached from the agent. Try again later, or another agent."},
	{"destination_not_found", http.StatusInternalServerError, replyHostUnreachable, "The agent does not know this target. Check its name."},
	{"dns_error", http.StatusBadGateway, replyHostUnreachable, "The name was not found. Check its spelling."},
	{"dns_timeout", http.StatusGatewayTimeout, replyHostUnreachable, "The name's servers did not answer. Try again."},
	{"proxy_internal_error", http.StatusServiceUnavailable, replyFailure, "The tunnel is not open. Look at the output of x402 connect for the reason."},
}

// explain returns the refusal that err amounts to. A kind that it does not
// know counts as an ended connection.
func explain(err error) refusal {
	if told, ok := errors.AsType[*RefusedError](err); ok {
		return told.refusal()
	}
	kind := errorKind(err)
	for _, r := range refusals {
		if r.kind == kind {
			return r
		}
	}
	return explain(io.ErrUnexpectedEOF)
}

// errorKind returns the error type of RFC 9209 that err says itself, or the
// one that fits.
func errorKind(err error) string {
	if said, ok := errors.AsType[interface {
		error
		ErrorKind() string
	}](err); ok && said.ErrorKind() != "" {
		return said.ErrorKind()
	}
	if _, ok := errors.AsType[interface {
		error
		Blocked() string
	}](err); ok {
		return "destination_ip_prohibited"
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsTimeout {
			return "dns_timeout"
		}
		return "dns_error"
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection_refused"
	case errors.Is(err, syscall.EHOSTUNREACH):
		return "destination_unavailable"
	case errors.Is(err, syscall.ENETUNREACH):
		return "destination_ip_unroutable"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return "connection_timeout"
	case errors.Is(err, net.ErrClosed):
		return "proxy_internal_error"
	default:
		return "connection_terminated"
	}
}

// proxyStatus is the value of the Proxy-Status field (RFC 9209 section 2).
func proxyStatus(kind, details string) string {
	details = strings.Map(func(r rune) rune { // sf-string: RFC 8941 section 3.3.3
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			return ' '
		}
		return r
	}, details)
	return fmt.Sprintf(`x402; error=%s; details="%.200s"`, kind, strings.TrimSpace(details))
}
