package bbr

import (
	"math"
	"math/bits"
)

const (
	millisecond = int64(1e6)
	second      = int64(1e9)

	infinite = math.MaxUint32 // a volume without bound
)

// A rate is in bytes per 2^30 ns (1.07 s), so that a volume is a product and a
// shift: routers without hardware for it pay some hundred instructions for each
// 64-bit division.
type rate uint64

const (
	rateShift    = 30
	infiniteRate = rate(1) << 40 // 8 Tbit/s: no bound
)

// bytesPerSecond is the rate of n bytes a second, up to 2^33 (69 Gbit/s).
func bytesPerSecond(n uint64) rate {
	return rate(min(n, 1<<33) << rateShift / uint64(second))
}

// rateOf is the rate of n bytes in ns, which is above zero.
func rateOf(n uint32, ns int64) rate {
	return min(rate(uint64(n)<<rateShift/uint64(ns)), infiniteRate)
}

// volume is what r delivers in ns.
func (r rate) volume(ns int64) uint32 {
	high, low := bits.Mul64(uint64(r), uint64(ns))
	if high>>(rateShift-1) != 0 {
		return infinite
	}
	return uint32(min(high<<(64-rateShift)|low>>rateShift, infinite))
}

// A gain is a factor in 1/256.
type gain uint32

const (
	one         gain = 256
	startupGain gain = 709 // 4 ln 2 = 2.77: doubles the rate each round
	halfGain    gain = 128
	downGain    gain = 230 // 0.9
	yieldGain   gain = 205 // 0.8
	betaGain    gain = 179 // 0.7: the most that one round of loss takes away
	sagGain     gain = 154 // 0.6
	upGain      gain = 320 // 1.25
	doubleGain  gain = 512
	upCwndGain  gain = 576 // 2.25
)

func (g gain) rate(r rate) rate { return r * rate(g) >> 8 }

func (g gain) volume(n uint32) uint32 { return uint32(min(uint64(n)*uint64(g)>>8, infinite)) }

// A share is a fraction in 1/4096.
type share uint32

const whole share = 4096

func percent(n uint32) share { return share(n) * whole / 100 }

func (s share) of(n uint32) uint32 { return uint32(uint64(n) * uint64(s) >> 12) }

// shareOf is part/all, or zero of nothing.
func shareOf(part, all uint32) share {
	if all == 0 {
		return 0
	}
	return share(uint64(min(part, all)) << 12 / uint64(all))
}

// add adds volumes without wrapping.
func add(a, b uint32) uint32 {
	if s, carry := bits.Add32(a, b, 0); carry == 0 {
		return s
	}
	return infinite
}

// sub subtracts volumes and stops at zero.
func sub(a, b uint32) uint32 { return a - min(a, b) }

// root is the integer square root.
func root(n uint32) uint32 {
	var r uint32
	for b := uint32(1) << 15; b != 0; b >>= 1 {
		if t := uint64(r|b) * uint64(r|b); t <= uint64(n) {
			r |= b
		}
	}
	return r
}
