package carrier

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sort"
)

// A Network is an autonomous system (RFC 1930).
type Network struct {
	AS      uint32 `json:"as"`
	Name    string `json:"name,omitempty"`    // of who has it
	Country string `json:"country,omitempty"` // ISO 3166-1 alpha-2; "" if not known
}

func (n Network) String() string {
	if n.Name == "" {
		return fmt.Sprintf("AS%d", n.AS)
	}
	return fmt.Sprintf("AS%d %s", n.AS, n.Name)
}

// Networks say whose an address is. They do not change; they are safe for
// concurrent use. The zero Networks know nothing. Half a million ranges take
// about 20 MB.
type Networks struct {
	known               []Network // what the ranges of four and six mean
	four, six           ranges
	where               []string // countries; what those of the next two mean
	whereFour, whereSix ranges
}

// ranges are of addresses, in order and apart from each other. An IPv4 address
// is its number. Of an IPv6 address the first 64 bits are: autonomous systems
// do not share a subnet (RFC 4291 §2.5.1).
type ranges struct {
	first, last []uint64
	what        []uint32 // what each means; an index
}

func (r *ranges) add(first, last uint64, what uint32) {
	r.first, r.last, r.what = append(r.first, first), append(r.last, last), append(r.what, what)
}

func (r *ranges) Len() int { return len(r.first) }
func (r *ranges) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(r.first[i], r.first[j]), -cmp.Compare(r.last[i], r.last[j])) < 0
}
func (r *ranges) Swap(i, j int) {
	r.first[i], r.first[j] = r.first[j], r.first[i]
	r.last[i], r.last[j] = r.last[j], r.last[i]
	r.what[i], r.what[j] = r.what[j], r.what[i]
}

// arrange sorts the ranges and takes those apart that overlap. Which of two
// counts nobody knows, so an address of which they say different things is
// nobody's.
func (r *ranges) arrange() {
	if !sort.IsSorted(r) {
		sort.Sort(r)
	}
	var apart ranges
	for i := 0; i < r.Len(); {
		end, j := r.last[i], i+1
		for ; j < r.Len() && r.first[j] <= end; j++ {
			end = max(end, r.last[j])
		}
		if j == i+1 {
			apart.add(r.first[i], r.last[i], r.what[i])
		} else {
			apart.part(r, i, j)
		}
		i = j
	}
	*r = ranges{slices.Clip(apart.first), slices.Clip(apart.last), slices.Clip(apart.what)}
}

// part adds what the ranges from i to j agree on.
func (r *ranges) part(of *ranges, i, j int) {
	type edge struct {
		at     uint64
		what   uint32
		begins bool
	}
	var edges []edge
	for ; i < j; i++ {
		edges = append(edges, edge{of.first[i], of.what[i], true})
		if of.last[i] < ^uint64(0) {
			edges = append(edges, edge{of.last[i] + 1, of.what[i], false})
		}
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Compare(a.at, b.at) })
	open := make(map[uint32]int) // how many ranges of each meaning an address is in
	for k, e := range edges {
		if e.begins {
			open[e.what]++
		} else if open[e.what]--; open[e.what] == 0 {
			delete(open, e.what)
		}
		last := ^uint64(0)
		if k+1 < len(edges) {
			if edges[k+1].at == e.at {
				continue
			}
			last = edges[k+1].at - 1
		}
		if len(open) == 1 {
			for what := range open {
				r.add(e.at, last, what)
			}
		}
	}
}

// find returns what an address means.
func (r *ranges) find(key uint64) (what uint32, ok bool) {
	i, exact := slices.BinarySearch(r.first, key)
	if !exact {
		i--
	}
	if i < 0 || key > r.last[i] {
		return 0, false
	}
	return r.what[i], true
}

// keyOf is an address's place in ranges.
func keyOf(a netip.Addr) uint64 {
	if a.Is4() {
		b := a.As4()
		return uint64(binary.BigEndian.Uint32(b[:]))
	}
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8])
}

// Of returns the network that an address belongs to, false if it is not known.
func (n *Networks) Of(a netip.Addr) (Network, bool) {
	a = a.Unmap()
	if n == nil || !a.IsValid() {
		return Network{}, false
	}
	nets, where := &n.six, &n.whereSix
	if a.Is4() {
		nets, where = &n.four, &n.whereFour
	}
	key := keyOf(a)
	i, ok := nets.find(key)
	if !ok {
		return Network{}, false
	}
	found := n.known[i]
	// Where a range is registered says more than where its network is.
	if c, ok := where.find(key); ok {
		found.Country = n.where[c]
	}
	return found, true
}

// Len is how many ranges of addresses are known.
func (n *Networks) Len() int { return n.four.Len() + n.six.Len() }
