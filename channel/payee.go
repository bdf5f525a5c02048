package channel

// A Payee takes vouchers. Each is durable before Accept returns, so that what
// it pays for may be released then. It is safe for concurrent use; changes of
// one channel follow each other, those of different channels meet only in the
// Store. The Store stays the caller's to close.
//
// Besides Accept it has what a book has: Open, Get, All, Observe, Note,
// Freeze, Thaw.
type Payee struct{ *book }

// NewPayee loads the channels of a Store.
func NewPayee(store Store) (*Payee, error) {
	b, err := newBook(store)
	if err != nil {
		return nil, err
	}
	return &Payee{b}, nil
}

// Accept checks a voucher by State.Next and saves it, together with a note
// unless that is nil. A *StateError means that the voucher is not good; any
// other error that it could not be kept: the payer may send it again.
func (p *Payee) Accept(v Voucher, note []byte) (State, error) {
	return p.change(v.Channel, func(s State) (State, error) {
		s, err := s.Next(v)
		if err != nil {
			return State{}, err
		}
		return s.withNote(note)
	})
}
