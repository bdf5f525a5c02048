package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// ServeSOCKS5 serves SOCKS5 on ln, which it closes, until ctx is cancelled or
// the listener fails. It returns nil only when ctx was cancelled.
func ServeSOCKS5(ctx context.Context, ln net.Listener, cfg Config) error {
	return serveSOCKS5(ctx, ln, cfg, listenUDP)
}

func serveSOCKS5(ctx context.Context, ln net.Listener, cfg Config, listen listenFunc) error {
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	g, err := newGate(inner, ln, cfg)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(inner, g.closeAll)
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer g.closeAll()
	defer cancel()
	for {
		conn, err := g.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		s := &socksConn{Conn: conn, gate: g, listen: listen}
		wg.Go(func() { s.serve(inner) })
	}
}

// A socksConn is one client's TCP connection; its serve goroutine owns it.
type socksConn struct {
	net.Conn
	gate   *gate
	listen listenFunc
	tunnel Tunnel // known after the handshake
}

func (s *socksConn) serve(ctx context.Context) {
	defer s.Close()
	log := s.gate.cfg.Logger
	s.SetDeadline(time.Now().Add(s.gate.cfg.HandshakeTimeout)) // a failure shows in the next read
	command, address, err := s.handshake(ctx)
	if err != nil {
		if errors.Is(err, errAddressType) {
			s.reply(replyNoAddressType, netip.AddrPort{})
		}
		log.Debug("socks5 handshake", "err", err)
		return
	}
	switch command {
	case commandConnect:
		err = s.connect(ctx, address)
	case commandAssociate:
		err = s.associate(ctx, address)
	default:
		err = s.reply(replyNoCommand, netip.AddrPort{})
	}
	if err != nil {
		log.Debug("socks5", "command", command, "err", err)
	}
}

// handshake goes through greeting, password and request.
func (s *socksConn) handshake(ctx context.Context) (command byte, address []byte, err error) {
	methods, err := readGreeting(s)
	if err != nil {
		return 0, nil, err
	}
	s.tunnel = s.gate.cfg.Tunnel
	method := chooseMethod(methods, s.gate.cfg.wantsPassword())
	if _, err := s.Write([]byte{socksVersion, method}); err != nil {
		return 0, nil, err
	}
	switch method {
	case methodRefused:
		return 0, nil, errors.New("no acceptable authentication method")
	case methodPassword:
		if err := s.login(ctx); err != nil {
			return 0, nil, err
		}
	}
	return readRequest(s)
}

// login finds whose tunnel the client uses.
func (s *socksConn) login(ctx context.Context) error {
	user, password, err := readPassword(s)
	if err != nil {
		return err
	}
	if s.tunnel, err = s.gate.cfg.enter(ctx, s.RemoteAddr(), user, password); err != nil {
		s.Write([]byte{passwordVersion, 1}) // the connection ends in any case
		return err
	}
	_, err = s.Write([]byte{passwordVersion, 0})
	return err
}

func (s *socksConn) reply(code byte, bound netip.AddrPort) error {
	_, err := s.Write(appendReply(nil, code, bound))
	return err
}

func (s *socksConn) connect(ctx context.Context, address []byte) error {
	t, err := newTarget(parseAddress(address))
	if err != nil {
		s.reply(replyNotAllowed, netip.AddrPort{}) // err says more
		return err
	}
	// From here on DialTimeout counts: the client's part is done.
	s.SetDeadline(time.Time{})
	flow, end, err := s.gate.dial(ctx, s.tunnel.DialTCP, t)
	if err != nil {
		s.reply(explain(err).reply, netip.AddrPort{})
		return err
	}
	defer end()
	if s.gate.cfg.Strict {
		if err := s.gate.established(ctx, flow); err != nil {
			flow.Close()
			s.reply(explain(err).reply, netip.AddrPort{})
			return err
		}
	}
	if err := s.reply(replyOK, netip.AddrPort{}); err != nil {
		flow.Close()
		return err
	}
	return relay{local: s.Conn, flow: flow}.run(ctx)
}
