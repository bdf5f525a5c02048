package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"sync"
	"time"

	quicgo "github.com/apernet/quic-go"
)

// The bare relay is what the tunnel is measured against: the same QUIC
// library as it comes, one stream for each TCP connection, copied in pieces of
// 32 KiB (io.Copy's). It has no HTTP/3, counts nothing and asks nobody.
type bareSettings struct {
	Listen  string `json:"listen"`  // agent: UDP; buyer: TCP
	Forward string `json:"forward"` // agent: the target; buyer: the agent
	Profile string `json:"profile"`
}

// bareReady is its answer, the address that it listens on.
type bareReady struct {
	Addr string `json:"addr"`
}

const bareProtocol = "x402-bench"

func bareConfig() *quicgo.Config {
	return &quicgo.Config{KeepAlivePeriod: 15 * time.Second, MaxIdleTimeout: time.Minute, MaxIncomingStreams: 2000}
}

func bareAgent(c console) error {
	var s bareSettings
	if err := c.dec.Decode(&s); err != nil {
		return err
	}
	cert, err := bareCertificate()
	if err != nil {
		return err
	}
	ln, err := quicgo.ListenAddr(s.Listen, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{bareProtocol}}, bareConfig())
	if err != nil {
		return err
	}
	if err := c.enc.Encode(bareReady{ln.Addr().String()}); err != nil {
		return err
	}
	return profiled(s.Profile, func() error {
		return c.serve(func(ctx context.Context) error {
			var wg sync.WaitGroup
			defer wg.Wait()
			defer ln.Close()
			for {
				conn, err := ln.Accept(ctx)
				if err != nil {
					return ended(ctx, err)
				}
				wg.Go(func() { bareServe(ctx, conn, s.Forward) })
			}
		})
	})
}

// bareServe joins every stream of conn with a connection to the target.
func bareServe(ctx context.Context, conn *quicgo.Conn, target string) {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer context.AfterFunc(ctx, func() { _ = conn.CloseWithError(0, "") })()
	for {
		stream, err := conn.AcceptStream(ctx)
		if err != nil {
			return // the buyer has gone
		}
		wg.Go(func() {
			tcp, err := net.Dial("tcp", target)
			if err != nil {
				stream.CancelRead(1)
				stream.CancelWrite(1)
				return
			}
			bareJoin(stream, tcp.(*net.TCPConn))
		})
	}
}

func bareBuyer(c console) error {
	var s bareSettings
	if err := c.dec.Decode(&s); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", s.Listen)
	if err != nil {
		return err
	}
	if err := c.enc.Encode(bareReady{ln.Addr().String()}); err != nil {
		return err
	}
	return profiled(s.Profile, func() error {
		return c.serve(func(ctx context.Context) error {
			defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
			tc := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{bareProtocol}}
			conn, err := quicgo.DialAddr(ctx, s.Forward, tc, bareConfig())
			if err != nil {
				return err
			}
			var wg sync.WaitGroup
			defer wg.Wait()
			defer conn.CloseWithError(0, "")
			for {
				tcp, err := ln.Accept()
				if err != nil {
					return ended(ctx, err)
				}
				stream, err := conn.OpenStreamSync(ctx)
				if err != nil {
					return ended(ctx, errors.Join(err, tcp.Close()))
				}
				wg.Go(func() { bareJoin(stream, tcp.(*net.TCPConn)) })
			}
		})
	})
}

// bareJoin copies both ways until both have ended.
func bareJoin(stream *quicgo.Stream, tcp *net.TCPConn) {
	defer tcp.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := io.Copy(stream, tcp); err != nil {
			stream.CancelWrite(1)
			return
		}
		_ = stream.Close() // the connection may have ended
	})
	if _, err := io.Copy(tcp, stream); err != nil {
		stream.CancelRead(1)
		_ = tcp.Close()
	} else {
		_ = tcp.CloseWrite() // likewise
	}
	wg.Wait()
}

// ended is nil when err came of the end of ctx.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func bareCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
