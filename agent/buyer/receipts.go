package buyer

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
)

// Receipts is a file with the receipts that agents gave, a line of JSON each, as
// they are exported. Lines are added, synced, and never changed. It may be used by
// many purchases of one process at a time.
type Receipts struct {
	Path string

	mu   sync.Mutex
	kept map[receiptKey]agent.Receipt // what the file has; nil: not read yet
}

// A receiptKey is a session of a channel.
type receiptKey struct {
	channel channel.ID
	session uint64
}

func keyOf(r agent.Receipt) receiptKey { return receiptKey{r.Channel(), r.Total.Session} }

// Put adds a receipt, with what is to be said of it, unless one is there that says
// as much of its session.
func (k *Receipts) Put(r agent.Receipt, note string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.kept == nil {
		all, _, err := k.All()
		if err != nil {
			return err
		}
		k.kept = map[receiptKey]agent.Receipt{}
		for _, r := range all {
			k.kept[keyOf(r.Receipt)] = r.Receipt
		}
	}
	if had, ok := k.kept[keyOf(r)]; ok && !r.Supersedes(had) {
		return nil
	}
	kept := agent.KeptReceipt{Receipt: r, Kept: uint64(max(time.Now().Unix(), 0)), Note: note}
	if err := k.add(agent.AppendJSON(nil, kept.Fields())); err != nil {
		return err
	}
	k.kept[keyOf(r)] = r
	return nil
}

// add adds a line and syncs it.
func (k *Receipts) add(line []byte) error {
	f, err := appendTo(k.Path)
	if err != nil {
		return err
	}
	_, err = f.Write(line)
	return errors.Join(err, f.Sync(), f.Close())
}

// All returns the newest receipt of each session, oldest first, and how many lines
// are none. Another process may add to the file.
func (k *Receipts) All() (all []agent.KeptReceipt, broken int, err error) {
	f, err := os.Open(k.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	err = ReadReceipts(f, func(_ int, r agent.KeptReceipt, err error) error {
		if err != nil {
			broken++
		} else {
			all = append(all, r)
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("%s: %w", k.Path, err)
	}
	return agent.LatestReceipts(all), broken, err
}

// maxReceiptLine bounds a line of receipts: one has 1,700 bytes.
const maxReceiptLine = 16 << 10

// ReadReceipts reads receipts as they are exported, lines of JSON or CSV with a
// line of names, and calls each with the number of every line and what is in it,
// which is not verified. It ends with each's error, or with one that makes the
// lines behind it unreadable.
func ReadReceipts(r io.Reader, each func(line int, r agent.KeptReceipt, err error) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), maxReceiptLine)
	var names []string
	for n := 1; lines.Scan(); n++ {
		line := bytes.TrimPrefix(lines.Bytes(), []byte("\ufeff")) // of spreadsheets, before the first
		var fields map[string]string
		var err error
		switch {
		case len(bytes.TrimSpace(line)) == 0:
			continue
		case names == nil && line[0] != '{':
			if names, err = csvNames(line); err != nil {
				return err
			}
			continue
		case names == nil:
			fields, err = jsonFields(line)
		default:
			fields, err = csvFields(names, line)
		}
		var kept agent.KeptReceipt
		if err == nil {
			kept, err = agent.ReceiptOf(fields)
		}
		if err := each(n, kept, err); err != nil {
			return err
		}
	}
	return lines.Err()
}

// csvLine reads one line of CSV (RFC 4180). No value has a line break.
func csvLine(line []byte) ([]string, error) {
	r := csv.NewReader(bytes.NewReader(line))
	return r.Read()
}

func csvNames(line []byte) ([]string, error) {
	names, err := csvLine(line)
	if err != nil || !slices.Contains(names, "signature") {
		return nil, errors.New("neither lines of JSON nor CSV of receipts: there is no column signature")
	}
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			return nil, fmt.Errorf("there are two columns %.40q", name)
		}
	}
	return names, nil
}

func csvFields(names []string, line []byte) (map[string]string, error) {
	values, err := csvLine(line)
	if err != nil {
		return nil, fmt.Errorf("receipt: not CSV: %w", err)
	}
	if len(values) != len(names) {
		return nil, fmt.Errorf("receipt: %d columns, want %d", len(values), len(names))
	}
	fields := map[string]string{}
	for i, name := range names {
		fields[name] = values[i]
	}
	return fields, nil
}

// errNoObject is that of a line which is not a receipt in JSON.
var errNoObject = errors.New("receipt: not a JSON object of strings")

// jsonFields reads an object whose members are strings, each there once: of two of
// one name, readers would take different ones.
func jsonFields(line []byte) (map[string]string, error) {
	d := json.NewDecoder(bytes.NewReader(line))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errNoObject
	}
	fields := map[string]string{}
	for d.More() {
		var pair [2]string
		for i := range pair {
			t, err := d.Token()
			text, ok := t.(string)
			if err != nil || !ok {
				return nil, errNoObject
			}
			pair[i] = text
		}
		if _, twice := fields[pair[0]]; twice {
			return nil, fmt.Errorf("receipt: %.40q is there twice", pair[0])
		}
		fields[pair[0]] = pair[1]
	}
	if _, err := d.Token(); err != nil {
		return nil, errNoObject
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errNoObject
	}
	return fields, nil
}
