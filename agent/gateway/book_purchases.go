package gateway

import (
	"errors"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/depinsim/x402/channel"
)

// bucketPurchases has the channels by which something was bought from an agent, in
// a purchase that has not ended in order.
const bucketPurchases = "purchases"

// began notes a purchase before it begins, and ended once it has ended in order.
func (b *book) began(id channel.ID) error {
	return b.notePurchase(id, func(p *bbolt.Bucket) error { return p.Put(id[:], []byte{}) })
}

func (b *book) ended(id channel.ID) error {
	return b.notePurchase(id, func(p *bbolt.Bucket) error { return p.Delete(id[:]) })
}

func (b *book) notePurchase(id channel.ID, f func(*bbolt.Bucket) error) error {
	err := b.db.Update(func(tx *bbolt.Tx) error { return f(tx.Bucket([]byte(bucketPurchases))) })
	if err != nil {
		return fmt.Errorf("purchases: channel %.10s: %w", id, err)
	}
	return nil
}

// unended are those that did not end in order.
func (b *book) unended() (ids []channel.ID, err error) {
	err = b.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucketPurchases)).ForEach(func(k, _ []byte) error {
			if len(k) != len(channel.ID{}) {
				return errors.New("purchases: a key that is no channel")
			}
			ids = append(ids, channel.ID(k))
			return nil
		})
	})
	return ids, err
}
