// Package operator is how the operator of a server talks to it: HTTP on a unix
// socket. Whoever can open the socket is the operator.
package operator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"syscall"
)

const maxSocketPath = 107 // sun_path of unix(7), without its final zero

// ErrAbsent is returned when nobody answers on a socket.
var ErrAbsent = errors.New("nobody answers")

// Listen opens a socket, mode 0600. The caller holds the folder that it is in, so a
// socket that is already there is a dead one's.
func Listen(path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("path %s is longer than %d bytes", path, maxSocketPath)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// The socket is private from the moment it exists. The mask is the
	// process's, and put back at once; files made in between are more private.
	old := syscall.Umask(0o177)
	l, err := net.Listen("unix", path)
	syscall.Umask(old)
	return l, err
}

// A Client calls the server behind a socket. Each call opens its own connection.
type Client struct{ http http.Client }

// NewClient returns one for the socket at path.
func NewClient(path string) *Client {
	return &Client{http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}}
}

// Call sends in as JSON and returns the answer's status and at most so many bytes
// of its body. It is ErrAbsent when nobody answers.
func (c *Client) Call(ctx context.Context, method, path string, in any, most int64) (status int, body []byte, err error) {
	text, err := json.Marshal(in)
	if err != nil {
		return 0, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://operator"+path, bytes.NewReader(text))
	if err != nil {
		return 0, nil, err
	}
	resp, err := c.http.Do(req)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return 0, nil, ErrAbsent
	}
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close() // read to the end below
	body, err = io.ReadAll(io.LimitReader(resp.Body, most))
	return resp.StatusCode, body, err
}
