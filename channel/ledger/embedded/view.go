package embedded

import (
	"encoding/binary"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
)

// view is a ledger.View on one bbolt transaction. What it returns holds no
// memory of the database.
type view struct {
	tx     *bolt.Tx
	params ledger.Params
}

func (v *view) Load(t ledger.Touch) (ledger.State, error) {
	s := ledger.NewState(v.params)
	var err error
	if s.Totals, err = ledger.DecodeTotals(v.tx.Bucket(metaBucket).Get(totalsKey)); err != nil {
		return s, fmt.Errorf("totals: %w", err)
	}
	for _, k := range t.Accounts {
		if b := v.tx.Bucket(accountBucket).Get(k[:]); b != nil {
			if s.Accounts[k], err = readAmount(b); err != nil {
				return s, fmt.Errorf("account %s: %w", k, err)
			}
		}
	}
	for _, k := range t.Receivers {
		if b := v.tx.Bucket(receiverBucket).Get(k[:]); b != nil {
			if s.Receivers[k], err = ledger.DecodeReceiver(b); err != nil {
				return s, fmt.Errorf("receiver %s: %w", k, err)
			}
		}
	}
	for _, k := range t.Channels {
		if b := v.tx.Bucket(channelBucket).Get(k[:]); b != nil {
			if s.Channels[k], err = ledger.DecodeChannel(b); err != nil {
				return s, fmt.Errorf("channel %s: %w", k, err)
			}
		}
	}
	for _, k := range t.Nonces {
		if v.tx.Bucket(nonceBucket).Get(nonceKey(k)) != nil {
			s.Nonces[k] = true
		}
	}
	return s, nil
}

func (v *view) Height(intent channel.Hash) (uint64, error) {
	b := v.tx.Bucket(intentBucket).Get(intent[:])
	if b == nil {
		return 0, nil
	}
	return readUint(b)
}

func (v *view) Entry(height uint64) (ledger.Entry, error) {
	b := v.tx.Bucket(journalBucket).Get(binary.BigEndian.AppendUint64(nil, height))
	if b == nil {
		return ledger.Entry{}, fmt.Errorf("missing")
	}
	return ledger.DecodeEntry(b)
}

func (v *view) Store(s ledger.State, e ledger.Entry, intent channel.Hash) error {
	height := binary.BigEndian.AppendUint64(nil, s.Totals.Height)
	p := putter{tx: v.tx}
	p.put(metaBucket, totalsKey, s.Totals.Encode())
	p.put(journalBucket, height, e.Encode())
	p.put(intentBucket, intent[:], height)
	for k, a := range s.Accounts {
		p.put(accountBucket, k[:], binary.BigEndian.AppendUint64(nil, uint64(a)))
	}
	for k, r := range s.Receivers {
		p.put(receiverBucket, k[:], r.Encode())
	}
	for k, c := range s.Channels {
		p.put(channelBucket, k[:], c.Encode())
	}
	for k, used := range s.Nonces {
		if used {
			p.put(nonceBucket, nonceKey(k), []byte{1})
		}
	}
	return p.err
}

// putter keeps the first error.
type putter struct {
	tx  *bolt.Tx
	err error
}

func (p *putter) put(bucket, key, value []byte) {
	if p.err == nil {
		p.err = p.tx.Bucket(bucket).Put(key, value)
	}
}

// all loads every record.
func (v *view) all() (ledger.State, error) {
	s, err := v.Load(ledger.Touch{})
	if err != nil {
		return s, err
	}
	var t ledger.Touch
	err = v.tx.Bucket(accountBucket).ForEach(func(k, _ []byte) error {
		return appendKey(&t.Accounts, k)
	})
	if err == nil {
		err = v.tx.Bucket(receiverBucket).ForEach(func(k, _ []byte) error {
			return appendKey(&t.Receivers, k)
		})
	}
	if err == nil {
		err = v.tx.Bucket(channelBucket).ForEach(func(k, _ []byte) error {
			if len(k) != len(channel.ID{}) {
				return fmt.Errorf("channel key of %d bytes", len(k))
			}
			t.Channels = append(t.Channels, channel.ID(k))
			return nil
		})
	}
	if err == nil {
		err = v.tx.Bucket(nonceBucket).ForEach(func(k, _ []byte) error {
			if len(k) != len(channel.Address{})+len(channel.Hash{}) {
				return fmt.Errorf("nonce key of %d bytes", len(k))
			}
			t.Nonces = append(t.Nonces, ledger.NonceKey{From: channel.Address(k[:20]), Nonce: channel.Hash(k[20:])})
			return nil
		})
	}
	if err != nil {
		return s, err
	}
	return v.Load(t)
}

func appendKey(dst *[]channel.Address, k []byte) error {
	if len(k) != len(channel.Address{}) {
		return fmt.Errorf("address key of %d bytes", len(k))
	}
	*dst = append(*dst, channel.Address(k))
	return nil
}

// journal yields every entry in order; a height that is missing is an error.
func (v *view) journal(yield func(ledger.Entry, error) bool) {
	c := v.tx.Bucket(journalBucket).Cursor()
	next := uint64(1)
	for k, b := c.First(); k != nil; k, b = c.Next() {
		height, err := readUint(k)
		if err == nil && height != next {
			err = fmt.Errorf("missing: the next one is %d", height)
		}
		var e ledger.Entry
		if err == nil {
			e, err = ledger.DecodeEntry(b)
		}
		if !yield(e, err) || err != nil {
			return
		}
		next++
	}
}

func nonceKey(k ledger.NonceKey) []byte { return append(k.From[:], k.Nonce[:]...) }

func readAmount(b []byte) (channel.Amount, error) {
	v, err := readUint(b)
	return channel.Amount(v), err
}
