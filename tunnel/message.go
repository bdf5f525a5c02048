package tunnel

import (
	"fmt"
	"strings"
)

// Of HTTP's messages the agent needs little: net/http would be half a megabyte
// of its program (docs/decisions/0011-agent-size.md).

// MethodConnect is the method of flows and of the control stream.
const MethodConnect = "CONNECT"

// Status codes of answers (RFC 9110 §15; 429 and 431 of RFC 6585).
const (
	StatusOK                 = 200
	StatusBadRequest         = 400
	StatusPaymentRequired    = 402
	StatusForbidden          = 403
	StatusNotFound           = 404
	StatusProxyAuthRequired  = 407
	StatusConflict           = 409
	StatusTooManyRequests    = 429
	StatusHeaderTooLarge     = 431
	StatusNotImplemented     = 501
	StatusBadGateway         = 502
	StatusServiceUnavailable = 503
	StatusGatewayTimeout     = 504
)

var statusText = map[int]string{
	StatusBadRequest: "Bad Request", StatusPaymentRequired: "Payment Required", StatusForbidden: "Forbidden",
	StatusNotFound: "Not Found", StatusProxyAuthRequired: "Proxy Authentication Required", StatusConflict: "Conflict",
	StatusTooManyRequests: "Too Many Requests", StatusHeaderTooLarge: "Request Header Fields Too Large",
	StatusNotImplemented: "Not Implemented", StatusBadGateway: "Bad Gateway",
	StatusServiceUnavailable: "Service Unavailable", StatusGatewayTimeout: "Gateway Timeout",
}

// Fields are the header fields of a message, or its trailers, by their names,
// which are in lower case as they are sent (RFC 9113 §8.2, RFC 9114 §4.2).
type Fields map[string][]string

// Get returns the first value of a field, "" if there is none.
func (f Fields) Get(name string) string {
	if values := f[name]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// Add adds a value to those of a field.
func (f Fields) Add(name, value string) { f[name] = append(f[name], value) }

// CheckField says whether a field may be in a message (RFC 9113 §8.2, RFC 9114
// §4.2): those of a connection may not.
func CheckField(name, value string) error {
	switch {
	case !IsToken(name) || strings.ToLower(name) != name:
		return fmt.Errorf("no field is %.64q", name)
	case !IsValue(value):
		return fmt.Errorf("field %.64s has no value %.64q", name, value)
	}
	switch name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		return fmt.Errorf("field %s of a connection", name)
	case "te":
		if value != "trailers" {
			return fmt.Errorf("field te with %.64q", value)
		}
	}
	return nil
}

// IsToken says whether s is a token (RFC 9110 §5.6.2), as names of fields,
// methods and protocols are.
func IsToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

// IsValue says whether s may be the value of a field (RFC 9110 §5.5).
func IsValue(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) < 0
}
