// Package plan keeps the books of a SIM's data plan and says how much of it may
// be sold.
//
// What a plan is charged is every byte on the cellular interface, so that is
// what is counted: by the interface's own counters, both directions, both legs
// of what is relayed, with headers, retransmissions and control traffic. The
// core is one pure function, [State.Next]: it takes what was known, and a
// [Sample] of counters and clocks, and returns what is known now and a
// [Decision]. A [Book] owns the states of all SIMs, one at a time in use, and
// their file; a [Device] takes samples on Linux.
//
// What it promises: what is used is never counted too low, but for what passes
// while nothing counts between an orderly stop and a reboot; a power cut, a
// modem that is plugged anew or a wrong clock never gives more to sell. What it
// does not: know what the carrier counts. A margin is set aside for that.
package plan

import (
	"errors"
	"fmt"
	"time"
)

// Config is what the owner says of a plan. Zero fields mean what is named.
type Config struct {
	// Size is the plan's, in bytes.
	Size uint64
	// ResetDay, 1 to 31, and ResetHour, in Zone, are when the carrier's count
	// begins anew each month; in a shorter month it is the last day.
	ResetDay, ResetHour int
	// Zone is the owner's. Nil: UTC.
	Zone *time.Location
	// Used is what was used when the plan was entered here, UsedOn the day of
	// that; the zero day is the one on which the agent first sees this.
	Used   uint64
	UsedOn time.Time
	// Reserve is never sold: the household has it until the reset, whatever it
	// has used before.
	Reserve uint64
	// Daily and Hourly bound what sales may use in a day or hour of the clock.
	// 0: no bound.
	Daily, Hourly uint64
	// Hours are when is sold. Nil: always.
	Hours []Hours
	// Roaming allows sales abroad.
	Roaming bool
	// Steps raise the price as the plan runs out.
	Steps []Step
	// Margin is added to what the interface counts, in percent: carriers count
	// in units, and some count more.
	Margin uint64
}

// A Step is a price, in percent of the usual, from where no more than Left
// percent of what may be sold in a period is left.
type Step struct{ Left, Price uint64 }

// Bounds of a config.
const (
	MaxSize   = 1 << 60
	MaxMargin = 100
	MaxSteps  = 16
	MaxPrice  = 10_000 // percent
	maxHours  = 64
	leastSold = 10e6 // below it, what is learned of traffic means nothing
)

// Check names what is wrong.
func (c Config) Check() error {
	switch {
	case c.Size == 0 || c.Size > MaxSize:
		return errors.New("size: missing, or out of range")
	case c.ResetDay < 1 || c.ResetDay > 31:
		return fmt.Errorf("reset_day: %d, want 1 to 31", c.ResetDay)
	case c.ResetHour < 0 || c.ResetHour > 23:
		return fmt.Errorf("reset_hour: %d, want 0 to 23", c.ResetHour)
	case c.Used > MaxSize:
		return errors.New("used: out of range")
	case c.Reserve >= c.Size:
		return errors.New("reserve: all of the plan: nothing is left to sell")
	case c.Size-c.Reserve < leastSold:
		return fmt.Errorf("size: less than %d MB are to be sold", uint64(leastSold)/1e6)
	case c.Daily > 0 && c.Daily < leastSold:
		return fmt.Errorf("daily: want at least %d MB", uint64(leastSold)/1e6)
	case c.Hourly > 0 && c.Hourly < leastSold:
		return fmt.Errorf("hourly: want at least %d MB", uint64(leastSold)/1e6)
	case c.Margin > MaxMargin:
		return fmt.Errorf("margin_percent: %d, want 0 to %d", c.Margin, MaxMargin)
	case len(c.Hours) > maxHours:
		return fmt.Errorf("schedule: %d entries, at most %d are possible", len(c.Hours), maxHours)
	case len(c.Steps) > MaxSteps:
		return fmt.Errorf("price_steps: %d, at most %d are possible", len(c.Steps), MaxSteps)
	}
	for _, h := range c.Hours {
		if !h.valid() {
			return errors.New("schedule: a time out of range")
		}
	}
	for i, s := range c.Steps {
		if s.Left < 1 || s.Left > 100 || s.Price < 100 || s.Price > MaxPrice {
			return fmt.Errorf("price_steps: %d%% left at %d%% of the price: want 1 to 100, and 100 to %d", s.Left, s.Price, MaxPrice)
		}
		if i > 0 && (s.Left >= c.Steps[i-1].Left || s.Price < c.Steps[i-1].Price) {
			return errors.New("price_steps: want less and less left, and a price that does not fall")
		}
	}
	return nil
}

func (c Config) zone() *time.Location {
	if c.Zone == nil {
		return time.UTC
	}
	return c.Zone
}

// ahead is how much may be used between two records of the state: what a power
// cut has the plan charged for at most.
func (c Config) ahead() uint64 { return min(max(c.Size/100, 8e6), 256e6) }

// A Reason is why nothing may be sold, "" if something may.
type Reason string

// Reasons, the gravest first.
const (
	ReasonSIM       Reason = "sim"       // an unknown card, of whose plan nothing is known
	ReasonInterface Reason = "interface" // it is not there, so nothing is counted
	ReasonElsewhere Reason = "elsewhere" // what is sold does not pass the interface
	ReasonRoaming   Reason = "roaming"
	ReasonSpent     Reason = "spent"  // all but the reserve
	ReasonClock     Reason = "clock"  // it is not known whether these are selling hours
	ReasonHours     Reason = "hours"  // they are not
	ReasonDaily     Reason = "daily"  // the day's limit
	ReasonHourly    Reason = "hourly" // the hour's
	ReasonStore     Reason = "store"  // what is used cannot be stored
)

// A Decision is what may be done now.
type Decision struct {
	// Why is why nothing may be sold. Until is when that may change by itself,
	// or when selling hours end; zero: not known.
	Why   Reason
	Until time.Time
	// Bytes of the plan may be sold now; they carry Payload bytes of buyers'.
	// Both are 0 with a Why, and for a moment when a record is due.
	Bytes, Payload uint64
	// Price is in percent of the usual.
	Price uint64

	// Left is what may be sold until the reset, Today what of it in this day.
	Left, Today uint64
	// Used is all that counts against the plan in this period, margin included.
	Used uint64
	// Reset is when the period ends; zero: the clock is not known.
	Reset time.Time
	// Forecast is what the household will use until the reset if it goes on as
	// in the last days. Forecasts says that this is known.
	Forecast  uint64
	Forecasts bool
	// Doubt says that the device's clock is not believed: see State.Time.
	Doubt bool
}
