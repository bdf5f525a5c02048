package channel

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"
)

// killDir names the directory for the process that is to be killed: this test
// binary, started again.
const killDir = "X402_CHANNEL_KILL_DIR"

// TestJournalKilled kills a process that accepts vouchers, with SIGKILL, at
// instants it does not choose: what it said to have accepted is there, newest
// and complete, for the next one, which goes on from there.
func TestJournalKilled(t *testing.T) {
	if dir := os.Getenv(killDir); dir != "" {
		acceptForever(t, dir)
		return
	}
	dir := t.TempDir()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var said Amount
	for round := range 20 {
		said = max(said, killAfter(t, dir, 1+random.IntN(40)))
		j := mustOpen(t, dir)
		states, err := j.Load()
		if err != nil || len(states) != 1 {
			t.Fatalf("round %d: %d states, %v", round, len(states), err)
		}
		s := states[0]
		if s.Max < said || string(s.Note) != s.Max.String() {
			t.Errorf("round %d: found %d with note %q, %d was promised", round, s.Max, s.Note, said)
		}
		was := s
		was.Max, was.Signature = 0, Signature{}
		if next, err := was.Next(Voucher{s.ID, s.Max, s.Signature}); err != nil || !next.equal(s) {
			t.Errorf("round %d: the voucher found is not good: %v", round, err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d vouchers", said)
}

// killAfter runs the process, kills it after it has reported n vouchers, and
// returns the newest that it reported.
func killAfter(t *testing.T, dir string, n int) (said Amount) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestJournalKilled$")
	cmd.Env = append(os.Environ(), killDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	for i := 0; ; i++ {
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			break // killed; a half line was not said
		}
		if err != nil {
			t.Fatal(err)
		}
		v, err := strconv.ParseUint(line[:len(line)-1], 10, 64)
		if err != nil {
			t.Fatalf("the process says %q", line)
		}
		said = Amount(v)
		if i == n {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, ok := errors.AsType[*exec.ExitError](cmd.Wait()); !ok {
		t.Fatal("the process ended by itself")
	}
	return said
}

// acceptForever takes voucher after voucher and reports each once it may be
// relied upon.
func acceptForever(t *testing.T, dir string) {
	j := mustOpen(t, dir)
	j.floor = 2000 // rewrites are to be met
	p := mustPayee(t, j)
	k := goldenKey(t)
	s, err := p.Open(goldenDomain(), goldenConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	if s, err = p.Observe(s.ID, 1<<60, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	for {
		max := s.Max + 1
		if s, err = p.Accept(s.Domain.SignVoucher(k, s.ID, max), []byte(max.String())); err != nil {
			t.Fatal(err)
		}
		fmt.Println(s.Max)
	}
}
