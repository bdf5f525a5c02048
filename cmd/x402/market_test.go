package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator/server"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/tunnel/relay"
)

// testPassphrase opens the wallet of a market.
const testPassphrase = "correct horse"

// A market is what a script buys at: a facilitator and an agent in this
// process, and a web site that the agent reaches, all on loopback.
type market struct {
	dir      string
	ledger   *agingLedger
	fac      *httptest.Server
	site     *httptest.Server
	cfg      seller.Config
	wallet   *channel.Key
	agentLog *os.File
	socket   net.PacketConn // the agent's, kept while it is stopped so that nobody takes the port
	stop     context.CancelFunc
	running  sync.WaitGroup
	ended    error // of the agent
}

// agingLedger is a ledger whose transactions seem to be of some time ago.
type agingLedger struct {
	*ledger.Memory
	seconds atomic.Uint64
}

func (l *agingLedger) Submit(ctx context.Context, tx ledger.Tx) (ledger.Receipt, error) {
	tx.Time -= l.seconds.Load()
	return l.Memory.Submit(ctx, tx)
}

// testParams are those of a market's ledger.
func testParams() ledger.Params {
	return ledger.Params{ChainID: 1<<41 + 7, Token: channel.Address{1, 2, 3}, Name: "USDC", Version: "2", FeeDivisor: ledger.FeeDivisor}
}

func newMarket(dir string, relays []relay.Name) (*market, error) {
	params := testParams()
	m := &market{dir: dir, ledger: &agingLedger{Memory: ledger.NewMemory(params)}}
	srv, err := server.New(server.Config{Ledger: m.ledger, Dev: true})
	if err != nil {
		return nil, err
	}
	m.fac = httptest.NewServer(srv)
	m.site = httptest.NewServer(http.HandlerFunc(serveBytes))
	if m.wallet, err = channel.GenerateKey(); err != nil {
		return nil, err
	}
	if m.agentLog, err = os.Create(filepath.Join(dir, "agent.log")); err != nil {
		return nil, err
	}
	if m.socket, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	m.cfg = seller.Config{
		StateDir: filepath.Join(dir, "agent"), Listen: m.socket.LocalAddr().String(), Socket: m.borrow, Relays: relays, Price: agent.Price{Up: 4_000_000, Down: 4_000_000},
		Payment: agent.Payment{
			Network: params.Network(), Facilitator: m.fac.URL, Asset: params.Token,
			AssetName: params.Name, AssetVersion: params.Version, PayTo: channel.Address{0xaa},
		},
		Policy: seller.PolicyConfig{AllowNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}},
		Logger: slog.New(slog.NewTextHandler(m.agentLog, nil)),
	}
	m.startAgent()
	return m, nil
}

// borrow opens a copy of the agent's socket, so that its port stays taken while
// the agent is down.
func (m *market) borrow(context.Context, string) (net.PacketConn, error) {
	f, err := m.socket.(*net.UDPConn).File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return net.FilePacketConn(f)
}

// serveBytes answers /N with N bytes, and says how much was uploaded.
func serveBytes(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPut {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, err)
		return
	}
	n, err := strconv.Atoi(r.URL.Path[1:])
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for chunk := make([]byte, 64<<10); n > 0 && err == nil; n -= len(chunk) {
		_, err = w.Write(chunk[:min(n, len(chunk))])
	}
}

func (m *market) startAgent() {
	ctx, stop := context.WithCancel(context.Background())
	m.stop = stop
	m.running.Go(func() { m.ended = seller.Run(ctx, m.cfg) })
}

func (m *market) stopAgent() error {
	m.stop()
	m.running.Wait()
	return m.ended
}

func (m *market) close() {
	m.stop()
	m.running.Wait()
	m.fac.Close()
	m.site.Close()
	m.socket.Close()
	m.agentLog.Close()
}

// writeWallet makes a wallet file that opens fast, and gives it credit.
func (m *market) writeWallet(path string, credit channel.Amount) error {
	text, err := fastKeystore(m.wallet)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil || credit == 0 {
		return err
	}
	_, err = m.ledger.Submit(context.Background(), ledger.Tx{Time: 1, Op: ledger.Issue{Ref: channel.Hash{1}, To: m.wallet.Address(), Amount: credit}})
	return err
}

// fastKeystore is a Web3 Secret Storage file with one round of PBKDF2.
func fastKeystore(key *channel.Key) (string, error) {
	derived, err := pbkdf2.Key(sha256.New, testPassphrase, []byte{1}, 1, 32)
	if err != nil {
		return "", err
	}
	block, err := aes.NewCipher(derived[:16])
	if err != nil {
		return "", err
	}
	sealed := make([]byte, 32)
	iv := make([]byte, aes.BlockSize)
	cipher.NewCTR(block, iv).XORKeyStream(sealed, key.Bytes())
	mac := channel.Keccak256(derived[16:], sealed)
	return fmt.Sprintf(`{"address":"%s","crypto":{"cipher":"aes-128-ctr","ciphertext":"%x","cipherparams":{"iv":"%x"},
		"kdf":"pbkdf2","kdfparams":{"dklen":32,"c":1,"prf":"hmac-sha256","salt":"01"},"mac":"%x"},"id":"0","version":3}`,
		key.Address().String()[2:], sealed, iv, mac[:]), nil
}

// balance is what an account holds on the ledger.
func (m *market) balance(a channel.Address) (channel.Amount, error) {
	s, err := m.ledger.Read(context.Background(), ledger.Touch{Accounts: []channel.Address{a}})
	return s.Accounts[a], err
}
