package agent

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/depinsim/x402/channel"
)

// LinkPath is where a relay has rotation links.
const LinkPath = "/v1/rotate/"

// A Link lets whoever has it have an agent's address changed, within bounds. It
// is signed by the agent, so that a relay can make none and pass on no other.
type Link struct {
	ID      [8]byte
	Expires int64  // Unix seconds
	Uses    uint32 // in all
	Between uint32 // seconds from one use to the next, at least
}

// linkSize is the length of what is signed: version, ID, Expires, Uses, Between.
const linkSize = 1 + 8 + 8 + 4 + 4

const linkVersion = 1

func linkDigest(body []byte) channel.Hash {
	return channel.Keccak256([]byte("x402 rotation link v1\n"), body)
}

// SignLink writes a link, as it follows LinkPath.
func SignLink(k *channel.Key, l Link) string {
	b := append([]byte{linkVersion}, l.ID[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(l.Expires))
	b = binary.BigEndian.AppendUint32(b, l.Uses)
	b = binary.BigEndian.AppendUint32(b, l.Between)
	s := k.Sign(linkDigest(b))
	return base64.RawURLEncoding.EncodeToString(append(b, s[:]...))
}

// ParseLink reads a link and says which agent signed it. Whoever made it up has
// the signature of nobody that is known.
func ParseLink(text string) (l Link, by channel.Address, err error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != linkSize+len(channel.Signature{}) || b[0] != linkVersion {
		return l, by, errors.New("not a rotation link")
	}
	if by, err = channel.Recover(linkDigest(b[:linkSize]), channel.Signature(b[linkSize:])); err != nil {
		return l, by, fmt.Errorf("rotation link: %w", err)
	}
	copy(l.ID[:], b[1:])
	l.Expires = int64(binary.BigEndian.Uint64(b[9:]))
	l.Uses, l.Between = binary.BigEndian.Uint32(b[17:]), binary.BigEndian.Uint32(b[21:])
	return l, by, nil
}
