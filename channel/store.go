package channel

import "errors"

// A Store keeps the newest state of each channel. Save returns nil only when
// the state will survive a loss of power; after an error either the state
// before or the new one is found on the next start, and Save may be tried
// again. It is safe for concurrent use; the saves of one channel must come in
// order. A closed Store answers an error that Is net.ErrClosed.
type Store interface {
	Load() ([]State, error) // every channel once, oldest first
	Save(State) error
	Close() error
}

// ErrInUse is returned on opening a store that another process has open.
var ErrInUse = errors.New("in use by another process")
