package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/depinsim/x402/channel"
)

const bucketPayments = "payments"

var (
	errNoPayment = errors.New("no such payment")
	errSold      = errors.New("this payment was seen before")
)

// payment reads a payment.
func (b *book) payment(key channel.Hash) (p payment, err error) {
	err = b.db.View(func(tx *bbolt.Tx) error {
		text := tx.Bucket([]byte(bucketPayments)).Get(key[:])
		if text == nil {
			return errNoPayment
		}
		p, err = parsePayment(text)
		return err
	})
	return p, err
}

// stands is how the payments stand.
type stands struct {
	due  []channel.Hash     // open, and it is time to look into them
	held map[accountID]bool // whose payments are open
	over []channel.Hash     // ended, and long ago
}

// payments reads all payments.
func (b *book) payments(now time.Time) (stands, error) {
	s := stands{held: map[accountID]bool{}}
	var errs []error
	err := b.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucketPayments)).ForEach(func(k, text []byte) error {
			p, err := parsePayment(text)
			switch {
			case len(k) != len(channel.Hash{}):
				err = errors.New("payments: a key that is no hash")
			case err != nil:
			case p.State == paymentOpen:
				s.held[accountID(p.Account)] = true
				if p.due(now) {
					s.due = append(s.due, channel.Hash(k))
				}
			case now.Unix()-p.Created > int64(forgetPending/time.Second):
				s.over = append(s.over, channel.Hash(k))
			}
			errs = append(errs, err) // the others are looked into all the same
			return nil
		})
	})
	return s, errors.Join(append(errs, err)...)
}

// forgetPayments deletes payments.
func (b *book) forgetPayments(keys []channel.Hash) error {
	if len(keys) == 0 {
		return nil
	}
	return b.db.Update(func(tx *bbolt.Tx) error {
		for _, k := range keys {
			if err := tx.Bucket([]byte(bucketPayments)).Delete(k[:]); err != nil {
				return err
			}
		}
		return nil
	})
}

// begin stores a payment that is about to be made, and with rec the credit that
// it opens.
func (b *book) begin(key channel.Hash, p payment, l login, rec *record) error {
	b.writing.Lock()
	defer b.writing.Unlock()
	if _, err := b.payment(key); !errors.Is(err, errNoPayment) {
		return errors.Join(errSold, err)
	}
	p.Version, p.State = paymentVersion, paymentOpen
	if rec != nil {
		r := rec.of(l)
		return b.store(key, p, &r)
	}
	return b.store(key, p, nil)
}

// store stores a payment and a record in one transaction.
func (b *book) store(key channel.Hash, p payment, r *record) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	err = b.db.Update(func(tx *bbolt.Tx) error {
		if err := tx.Bucket([]byte(bucketPayments)).Put(key[:], text); err != nil || r == nil {
			return err
		}
		return putRecord(tx, accountID(p.Account), *r)
	})
	if err != nil {
		return fmt.Errorf("payments: %w", err)
	}
	return nil
}

// honour gives a customer what he has paid for, once.
func (b *book) honour(key channel.Hash) (record, error) {
	_, r, err := b.settle(key, paymentMade, func(p payment, r *record) error {
		r.Pending = false
		if p.More == 0 {
			return nil
		}
		return r.add(p)
	})
	return r, err
}

// giveUp closes the credit that a payment has opened, once, with all of it to be
// given back.
func (b *book) giveUp(key channel.Hash) (accountID, record, error) {
	return b.settle(key, paymentBack, func(_ payment, r *record) error {
		r.Pending, r.Closed = false, true
		return r.beginRefund()
	})
}

// resolve notes what came of a payment that was not made.
func (b *book) resolve(key channel.Hash, state paymentState) error {
	b.writing.Lock()
	defer b.writing.Unlock()
	p, err := b.payment(key)
	if err != nil || p.State != paymentOpen {
		return err
	}
	p.State = state
	return b.store(key, p, nil)
}

// settle brings an open payment, and its account, to a state. What was settled
// before is as it is.
func (b *book) settle(key channel.Hash, state paymentState, f func(payment, *record) error) (accountID, record, error) {
	b.writing.Lock()
	defer b.writing.Unlock()
	p, err := b.payment(key)
	id := accountID(p.Account)
	if err != nil {
		return id, record{}, err
	}
	r, err := b.read(id)
	if err != nil || p.State != paymentOpen {
		return id, r, err
	}
	if err := f(p, &r); err != nil {
		return id, r, err
	}
	p.State = state
	if err := b.store(key, p, &r); err != nil {
		return id, r, err
	}
	b.became(id, r)
	if state == paymentMade {
		b.counts.sell(p.More > 0, p.By.Authorization.Value)
	}
	return id, r, nil
}
