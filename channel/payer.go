package channel

// A Payer signs vouchers. Each is durable before Sign returns it, so that
// after a crash nothing that a peer may hold is unknown. It is safe for
// concurrent use, as Payee is.
//
// Besides Sign it has what a book has: Open, Get, All, Observe, Note, Freeze,
// Thaw.
type Payer struct{ *book }

// NewPayer loads the channels of a Store.
func NewPayer(store Store) (*Payer, error) {
	b, err := newBook(store)
	if err != nil {
		return nil, err
	}
	return &Payer{b}, nil
}

// Sign signs a voucher for max in total and saves it, together with a note
// unless that is nil. It refuses what the payee would: a max that does not
// rise, exceeds the balance or is claimed already, a frozen channel, a key that
// is not the channel's payerAuthorizer.
func (p *Payer) Sign(k *Key, id ID, max Amount, note []byte) (Voucher, error) {
	s, err := p.change(id, func(s State) (State, error) {
		if err := s.fits(id, max); err != nil {
			return State{}, err
		}
		if k.Address() != s.Config.PayerAuthorizer {
			return State{}, s.refuse(ReasonSignature, "key of %s cannot sign for %s",
				k.Address(), s.Config.PayerAuthorizer)
		}
		s.Max, s.Signature = max, s.Domain.SignVoucher(k, id, max).Signature
		return s.withNote(note)
	})
	if err != nil {
		return Voucher{}, err
	}
	return Voucher{id, s.Max, s.Signature}, nil
}
