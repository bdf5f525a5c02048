package agent

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/depinsim/x402/channel"
)

// Bounds of a token's bytes: below the least nothing comes through but
// greetings, and the price of the most fits a voucher at any price.
const (
	MinTokenBytes = 100_000
	MaxTokenBytes = 1_000_000_000_000_000
)

// TokenIdle is how long a token may go unused before it is void and what is left
// of it is given back. It is counted while the agent runs: a router's clock may
// be wrong.
const TokenIdle = 7 * 24 * time.Hour

// TokenUser is the user whose password a token is (RFC 7617). An agent accepts
// any.
const TokenUser = "x402"

// TokenRealm is the realm of tokens, for clients that show it.
const TokenRealm = `Basic realm="x402 token", charset="UTF-8"`

// A TokenRequest asks for a token on the session's channel, whose newest
// voucher pays for it.
type TokenRequest struct {
	Bytes uint64 `json:"bytes,string"`
}

// A TokenGrant is a token, and what it is good for.
type TokenGrant struct {
	Token string `json:"token"`
	Bytes uint64 `json:"bytes,string"` // both directions together
	Price Price  `json:"price"`
	// Amount is what Bytes cost at the most, and what was paid in advance.
	Amount channel.Amount `json:"amount"`
	Idle   uint64         `json:"idle,string"` // seconds: see TokenIdle
}

// ParseTokenRequest decodes a buyer's wish for a token.
func ParseTokenRequest(b []byte) (TokenRequest, error) { return decodeJSON[TokenRequest](b) }

// ParseTokenGrant decodes an agent's answer. Whether it is what was asked for is
// the buyer's to say.
func ParseTokenGrant(b []byte) (TokenGrant, error) {
	g, err := decodeJSON[TokenGrant](b)
	if err == nil && !tokenShaped(g.Token) {
		err = errors.New("capsule: what the agent calls a token is none")
	}
	return g, err
}

// TokenAmount is the price of bytes in the dearer direction: whatever a token's
// bytes are used for costs no more. A voucher is for one unit at least.
func TokenAmount(p Price, bytes uint64) (channel.Amount, error) {
	if bytes < MinTokenBytes || bytes > MaxTokenBytes {
		return 0, fmt.Errorf("a token for %d bytes: want %d to %d", bytes, uint64(MinTokenBytes), uint64(MaxTokenBytes))
	}
	cost, err := Price{Up: p.Max()}.cost(bytes, 0)
	return max(cost, 1), err
}

const (
	tokenMAC  = 16
	tokenSize = len(channel.ID{}) + tokenMAC
)

// NewToken returns the token of channel id, by the agent's secret.
func NewToken(secret [32]byte, id channel.ID) string {
	return base64.RawURLEncoding.EncodeToString(append(id[:], tokenSum(secret, id)...))
}

func tokenSum(secret [32]byte, id channel.ID) []byte {
	mac := hmac.New(sha256.New, secret[:])
	mac.Write(id[:])
	return mac.Sum(nil)[:tokenMAC]
}

// errToken is the same for all that is no token of this agent's.
var errToken = errors.New("not a token of this agent's")

// OpenToken returns the channel of a token that the agent with this secret made.
func OpenToken(secret [32]byte, token string) (id channel.ID, err error) {
	b, ok := tokenBytes(token)
	if !ok {
		return id, errToken
	}
	copy(id[:], b)
	if !hmac.Equal(b[len(id):], tokenSum(secret, id)) {
		return channel.ID{}, errToken
	}
	return id, nil
}

// TokenChannel returns the channel that a token names, without a proof.
func TokenChannel(token string) (id channel.ID, ok bool) {
	b, ok := tokenBytes(token)
	copy(id[:], b)
	return id, ok
}

func tokenShaped(token string) bool {
	_, ok := tokenBytes(token)
	return ok
}

func tokenBytes(token string) ([]byte, bool) {
	if len(token) != base64.RawURLEncoding.EncodedLen(tokenSize) {
		return nil, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	return b, err == nil && len(b) == tokenSize // the decoder skips line ends
}

// maxCredentials bounds what is decoded of a Proxy-Authorization field.
const maxCredentials = 512

// ParseCredentials returns the token in the value of a Proxy-Authorization field
// (RFC 9110 §11.6.2): the password of Basic (RFC 7617), for any user, or what
// Bearer (RFC 6750 §2.1) carries.
func ParseCredentials(field string) (token string, err error) {
	if len(field) > maxCredentials {
		return "", fmt.Errorf("credentials of %d bytes, at most %d are read", len(field), maxCredentials)
	}
	scheme, rest, _ := strings.Cut(field, " ")
	rest = strings.TrimLeft(rest, " ")
	switch strings.ToLower(scheme) {
	case "bearer":
		token = rest
	case "basic":
		pair, err := base64.StdEncoding.DecodeString(rest)
		if err != nil {
			return "", errors.New("credentials: not Base64")
		}
		_, token, _ = strings.Cut(string(pair), ":")
	default:
		return "", errors.New("credentials: neither Basic nor Bearer")
	}
	if !tokenShaped(token) {
		return "", errToken
	}
	return token, nil
}

// Credentials is the value of a Proxy-Authorization field with a token.
func Credentials(token string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(TokenUser+":"+token))
}
