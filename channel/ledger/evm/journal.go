package evm

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
)

// ErrInUse is returned by Open while another process has the folder.
var ErrInUse = errors.New("journal in use by another process")

// DBFile is the journal's name in its folder.
const DBFile = "evm.db"

const (
	schema      = 1
	lockTimeout = time.Second
)

// Buckets of the journal. What is not finished has its key in an open bucket
// too, so that a start does not read all of the past.
var (
	metaBucket   = []byte("meta")
	jobBucket    = []byte("jobs")    // number to job
	sentBucket   = []byte("sent")    // account nonce to transaction
	intentBucket = []byte("intents") // intent to number of the job
	claimBucket  = []byte("claims")  // channel to number of the job of its newest claim
	configBucket = []byte("configs") // channel to its configuration
	openJobs     = []byte("open jobs")
	openSent     = []byte("open sent")

	identityKey = []byte("identity")
	nonceKey    = []byte("next nonce")
)

// An identity is what a journal is of; it never changes.
type identity struct {
	Schema   int
	ChainID  uint64
	Genesis  common.Hash // told apart are two local chains of one id
	Account  channel.Address
	Contract channel.Address
	Token    channel.Address
}

// A job is one operation that was asked for:
//
//	waiting ──▶ sent ──▶ done
//	   │          └────▶ refused   the chain reverted it
//	   └───────────────▶ refused   it would be reverted
//
// A reorganisation leads from done back to sent.
type job struct {
	Number  uint64
	Intent  channel.Hash
	Tx      hexutil.Bytes // ledger.Tx, encoded
	State   jobState
	Nonce   uint64         `json:",omitempty"` // of its transaction, once sent
	Receipt ledger.Receipt // done
	Code    string         `json:",omitempty"` // refused
	Message string         `json:",omitempty"`
	By      uint64         `json:",omitempty"` // waiting no longer: this later job does all that it would
}

type jobState string

const (
	jobWaiting jobState = "waiting"
	jobSent    jobState = "sent"
	jobDone    jobState = "done"
	jobRefused jobState = "refused"
)

// op decodes the job's operation.
func (j job) op() (ledger.Op, error) {
	tx, err := ledger.DecodeTx(j.Tx)
	return tx.Op, err
}

// A sent is one nonce of the account: the jobs that its transaction does, and
// every transaction that was signed for it. At most one of them is ever mined.
type sent struct {
	Nonce    uint64
	Jobs     []uint64
	To       common.Address
	Data     hexutil.Bytes
	Gas      uint64
	Attempts []attempt
	Mined    *mined `json:",omitempty"`
	Done     bool   // confirmed and its jobs answered; watched until final
	GasUsed  uint64 `json:",omitempty"`
	Void     bool   `json:",omitempty"` // the nonce is another's after all
}

type attempt struct {
	Hash     common.Hash
	Raw      hexutil.Bytes
	FeeCap   uint64 // wei per gas
	Tip      uint64
	SignedAt int64 // Unix seconds
}

// mined is where a transaction was found.
type mined struct {
	Hash, BlockHash common.Hash
	Block, Time     uint64
	OK              bool
}

func (s sent) newest() attempt { return s.Attempts[len(s.Attempts)-1] }

type journal struct{ db *bolt.DB }

// openJournal opens the journal in dir, creating it if there is none.
func openJournal(dir string) (*journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	db, err := bolt.Open(filepath.Join(dir, DBFile), 0o600, &bolt.Options{Timeout: lockTimeout, NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%s: %w", dir, ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	j := &journal{db}
	err = j.update(func(e edit) {
		for _, name := range [][]byte{metaBucket, jobBucket, sentBucket, intentBucket, claimBucket, configBucket, openJobs, openSent} {
			if _, err := e.tx.CreateBucketIfNotExists(name); err != nil && *e.err == nil {
				*e.err = err
			}
		}
	})
	if err == nil {
		err = channel.SyncDir(dir)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return j, nil
}

// belongTo makes id the identity of a new journal, whose account has sent the
// nonces below first, or compares it. It returns the first nonce that is free.
func (j *journal) belongTo(id identity, first uint64) (next uint64, err error) {
	id.Schema = schema
	err = j.update(func(e edit) {
		var was identity
		if !e.get(metaBucket, identityKey, &was) {
			e.put(metaBucket, identityKey, id)
			e.put(metaBucket, nonceKey, first)
		} else if was != id {
			*e.err = fmt.Errorf("is of %s, contract %s, token %s, account %s (genesis %s), not of what the flags and the node say",
				channel.NetworkName(was.ChainID), was.Contract, was.Token, was.Account, was.Genesis)
		}
		e.get(metaBucket, nonceKey, &next)
	})
	return next, err
}

// nextNonce is the account's first nonce that the journal has not used.
func (j *journal) nextNonce() (n uint64, err error) {
	err = j.view(func(e edit) { e.get(metaBucket, nonceKey, &n) })
	return n, err
}

func (j *journal) setNonce(n uint64) error {
	return j.update(func(e edit) { e.put(metaBucket, nonceKey, n) })
}

// find returns the job of an intent, or of the later one that does its work.
func (j *journal) find(intent channel.Hash) (found job, ok bool, err error) {
	err = j.view(func(e edit) {
		if n := e.raw(intentBucket, intent[:]); n != nil {
			ok = e.job(binary.BigEndian.Uint64(n), &found)
		}
	})
	return found, ok, err
}

// job returns a job, or the later one that does its work.
func (j *journal) job(number uint64) (found job, err error) {
	err = j.view(func(e edit) {
		if !e.job(number, &found) && *e.err == nil {
			*e.err = fmt.Errorf("no job %d", number)
		}
	})
	return found, err
}

// lastClaim returns the job that last claimed of a channel.
func (j *journal) lastClaim(id channel.ID) (found job, ok bool, err error) {
	err = j.view(func(e edit) {
		if n := e.raw(claimBucket, id[:]); n != nil {
			ok = e.job(binary.BigEndian.Uint64(n), &found)
		}
	})
	return found, ok, err
}

// config returns a channel's configuration, zero if it is not known.
func (j *journal) config(id channel.ID) (c channel.Config, err error) {
	err = j.view(func(e edit) { e.get(configBucket, id[:], &c) })
	return c, err
}

// add keeps a new job, unless one of its intent is there already, and returns
// the job's number.
func (j *journal) add(n job) (number uint64, err error) {
	err = j.update(func(e edit) {
		if b := e.raw(intentBucket, n.Intent[:]); b != nil {
			number = binary.BigEndian.Uint64(b)
			return
		}
		number = e.next(jobBucket)
		n.Number, n.State = number, jobWaiting
		e.put(intentBucket, n.Intent[:], raw(key(number)))
		e.putJob(n)
	})
	return number, err
}

// open returns what is not finished, in order.
func (j *journal) open() (jobs []job, sents []sent, err error) {
	err = j.view(func(e edit) {
		e.each(openJobs, func(k []byte) {
			var n job
			e.get(jobBucket, k, &n)
			jobs = append(jobs, n)
		})
		e.each(openSent, func(k []byte) {
			var s sent
			e.get(sentBucket, k, &s)
			sents = append(sents, s)
		})
	})
	return jobs, sents, err
}

// save keeps jobs, and a transaction unless it is nil, in one commit. A final
// transaction, and a job that is done or refused, are looked at no more.
func (j *journal) save(s *sent, final bool, jobs ...job) error {
	return j.update(func(e edit) {
		for _, n := range jobs {
			e.putJob(n)
		}
		if s == nil {
			return
		}
		k := key(s.Nonce)
		e.put(sentBucket, k, s)
		if final {
			e.delete(openSent, k)
		} else {
			e.put(openSent, k, raw{1})
		}
		var next uint64
		e.get(metaBucket, nonceKey, &next)
		if s.Nonce >= next {
			e.put(metaBucket, nonceKey, s.Nonce+1)
		}
	})
}

// all calls f with every transaction ever sent, in order, until it fails.
func (j *journal) all(f func(sent, []job) error) error {
	var ferr error
	err := j.view(func(e edit) {
		e.each(sentBucket, func(k []byte) {
			var s sent
			if ferr != nil || !e.get(sentBucket, k, &s) {
				return
			}
			jobs := make([]job, len(s.Jobs))
			for i, n := range s.Jobs {
				e.get(jobBucket, key(n), &jobs[i])
			}
			ferr = f(s, jobs)
		})
	})
	return errors.Join(err, ferr)
}

// An edit is one transaction of the store. It keeps the first error.
type edit struct {
	tx  *bolt.Tx
	err *error
}

// raw is a value that is stored as it is.
type raw []byte

func (j *journal) update(f func(edit)) error { return journalErr(j.db.Update(editing(f))) }
func (j *journal) view(f func(edit)) error   { return journalErr(j.db.View(editing(f))) }

func editing(f func(edit)) func(*bolt.Tx) error {
	return func(tx *bolt.Tx) (err error) {
		f(edit{tx, &err})
		return err
	}
}

func journalErr(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("journal: %w", err)
}

func key(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func (e edit) raw(bucket, k []byte) []byte {
	b := e.tx.Bucket(bucket).Get(k)
	if b != nil && len(b) != 8 && *e.err == nil {
		*e.err = fmt.Errorf("%s %x: %d bytes", bucket, k, len(b))
		return nil
	}
	return b
}

// get decodes a value and reports whether there is one.
func (e edit) get(bucket, k []byte, v any) bool {
	b := e.tx.Bucket(bucket).Get(k)
	if b == nil || *e.err != nil {
		return false
	}
	if err := json.Unmarshal(b, v); err != nil {
		*e.err = fmt.Errorf("%s %x: %w", bucket, k, err)
		return false
	}
	return true
}

func (e edit) put(bucket, k []byte, v any) {
	if *e.err != nil {
		return
	}
	b, ok := v.(raw)
	if !ok {
		if b, *e.err = json.Marshal(v); *e.err != nil {
			return
		}
	}
	*e.err = e.tx.Bucket(bucket).Put(k, b)
}

func (e edit) delete(bucket, k []byte) {
	if *e.err == nil {
		*e.err = e.tx.Bucket(bucket).Delete(k)
	}
}

func (e edit) next(bucket []byte) (n uint64) {
	if *e.err == nil {
		n, *e.err = e.tx.Bucket(bucket).NextSequence()
	}
	return n
}

// each calls f with every key, in order.
func (e edit) each(bucket []byte, f func(k []byte)) {
	c := e.tx.Bucket(bucket).Cursor()
	for k, _ := c.First(); k != nil && *e.err == nil; k, _ = c.Next() {
		f(k)
	}
}

// job loads a job and follows it to the later ones that do its work.
func (e edit) job(number uint64, j *job) bool {
	for {
		*j = job{}
		if !e.get(jobBucket, key(number), j) {
			return false
		}
		if j.By <= number { // later ones only: it ends
			return true
		}
		number = j.By
	}
}

// putJob writes a job and what follows from its state: a refused one is
// forgotten by its intent, so that the same request is looked at afresh; one
// that is done is found by the channels that it claimed from.
func (e edit) putJob(n job) {
	k := key(n.Number)
	e.put(jobBucket, k, n)
	if n.State == jobWaiting && n.By == 0 {
		e.put(openJobs, k, raw{1})
		return
	}
	e.delete(openJobs, k)
	switch n.State {
	case jobRefused:
		if b := e.raw(intentBucket, n.Intent[:]); b != nil && binary.BigEndian.Uint64(b) == n.Number {
			e.delete(intentBucket, n.Intent[:])
		}
	case jobDone:
		op, err := n.op()
		if err != nil && *e.err == nil {
			*e.err = err
		}
		e.learn(op, n.Number)
	}
}

// learn keeps what an operation tells about channels.
func (e edit) learn(op ledger.Op, number uint64) {
	var id identity
	e.get(metaBucket, identityKey, &id)
	d := channel.Domain{ChainID: id.ChainID, Contract: id.Contract}
	switch op := op.(type) {
	case ledger.Deposit:
		e.keepConfig(d.ID(op.Config), op.Config)
	case ledger.Claim:
		for _, r := range op.Rows {
			c := d.ID(r.Config)
			e.put(claimBucket, c[:], raw(key(number)))
			e.keepConfig(c, r.Config)
		}
	case ledger.Refund:
		e.keepConfig(d.ID(op.Config), op.Config)
		if op.Claim != nil {
			e.learn(*op.Claim, number)
		}
	}
}

func (e edit) keepConfig(id channel.ID, c channel.Config) {
	if e.tx.Bucket(configBucket).Get(id[:]) == nil {
		e.put(configBucket, id[:], c)
	}
}
