package quic

import "fmt"

// An errCode is an error code of HTTP/3 (RFC 9114 §8.1), QPACK (RFC 9204 §6) or
// its datagrams (RFC 9297 §5.2).
type errCode uint64

const (
	codeDatagram           errCode = 0x33
	codeNone               errCode = 0x100
	codeInternal           errCode = 0x102
	codeStreamCreation     errCode = 0x103
	codeClosedCritical     errCode = 0x104
	codeFrameUnexpected    errCode = 0x105
	codeFrame              errCode = 0x106
	codeExcessiveLoad      errCode = 0x107
	codeID                 errCode = 0x108
	codeSettings           errCode = 0x109
	codeMissingSettings    errCode = 0x10a
	codeRequestRejected    errCode = 0x10b
	codeRequestCanceled    errCode = 0x10c
	codeRequestIncomplete  errCode = 0x10d
	codeMessage            errCode = 0x10e
	codeQPACKDecompression errCode = 0x200
	codeQPACKEncoder       errCode = 0x201
)

// A fault is what a peer did against HTTP/3.
type fault struct {
	code    errCode
	message bool // an error of the stream; else of the connection (RFC 9114 §8)
	err     error
}

func (f *fault) Error() string { return "http3: " + f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

// malformed is a fault of a message (RFC 9114 §4.1.2).
func malformed(format string, args ...any) error {
	return &fault{codeMessage, true, fmt.Errorf(format, args...)}
}

// broke is a fault of the connection.
func broke(code errCode, format string, args ...any) error {
	return &fault{code, false, fmt.Errorf(format, args...)}
}

// tooMuch is a fault of a message that is more than this end takes.
func tooMuch(format string, args ...any) error {
	return &fault{codeExcessiveLoad, true, fmt.Errorf(format, args...)}
}
