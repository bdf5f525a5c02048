package seller

import (
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"

	"github.com/depinsim/x402/meter/plan"
)

// defaultMargin is what a carrier may count on top of what the interface does,
// in percent.
const defaultMargin = 3

// readPlan reads the section of the data plan, if there is one.
func (r *fileReader) readPlan() {
	if !r.defined("plan") {
		return
	}
	raw := &r.raw.Plan
	p := &PlanConfig{Config: plan.Config{Zone: plan.LocalZone(), Margin: defaultMargin}}
	r.file.Config.Plan = p
	r.require("plan.size", "plan.reset_day")
	r.size("plan.size", raw.Size, &p.Size)
	r.number("plan.reset_day", raw.ResetDay, 1, 31, func(n int64) { p.ResetDay = int(n) })
	r.number("plan.reset_hour", raw.ResetHour, 0, 23, func(n int64) { p.ResetHour = int(n) })
	r.take("plan.timezone", func() (err error) {
		p.Zone, err = plan.ParseZone(raw.Timezone)
		return err
	})
	r.size("plan.used", raw.Used, &p.Used)
	r.take("plan.used_on", func() (err error) {
		p.UsedOn, err = time.ParseInLocation(time.DateOnly, raw.UsedOn, p.Zone)
		if err != nil {
			return fmt.Errorf("%.40q", raw.UsedOn)
		}
		return nil
	})
	r.size("plan.reserve", raw.Reserve, &p.Reserve)
	r.size("plan.daily", raw.Daily, &p.Daily)
	r.size("plan.hourly", raw.Hourly, &p.Hourly)
	r.take("plan.schedule", func() error {
		for _, s := range raw.Schedule {
			h, err := plan.ParseHours(s)
			if err != nil {
				return err
			}
			p.Hours = append(p.Hours, h)
		}
		return nil
	})
	p.Roaming = raw.Roaming
	r.number("plan.mbits", raw.Mbits, 1, 100_000, func(n int64) { p.Rate = uint64(n) * 1_000_000 / 8 })
	r.take("plan.price_steps", func() error {
		for _, s := range raw.PriceSteps {
			step, err := parseStep(s)
			if err != nil {
				return err
			}
			p.Steps = append(p.Steps, step)
		}
		return nil
	})
	r.number("plan.margin_percent", raw.MarginPercent, 0, plan.MaxMargin, func(n int64) { p.Margin = uint64(n) })
	r.take("plan.interface", func() error {
		p.Interface = raw.Interface
		return notEmpty(raw.Interface)
	})
}

func (r *fileReader) size(key, text string, into *uint64) {
	r.take(key, func() (err error) {
		*into, err = ParseSize(text)
		return err
	})
}

// parseStep reads a price step such as "20% 150%".
func parseStep(s string) (step plan.Step, err error) {
	left, price, _ := strings.Cut(s, " ")
	for _, part := range []struct {
		text string
		into *uint64
	}{{left, &step.Left}, {price, &step.Price}} {
		number, ok := strings.CutSuffix(part.text, "%")
		if *part.into, err = strconv.ParseUint(number, 10, 16); !ok || err != nil {
			return step, fmt.Errorf("%.40q", s)
		}
	}
	return step, nil
}

// errSize says that a text is not a size.
var errSize = errors.New("not a size, such as '20 GB' or '12.3 GB'")

// ParseSize reads a number of bytes with its unit, as carriers write it: "20
// GB" is 20,000,000,000 bytes, "1 GiB" 1,073,741,824. What is less than a byte
// is rounded up.
func ParseSize(s string) (uint64, error) {
	s = strings.ToUpper(strings.TrimSpace(s))
	number := strings.TrimRight(s, "BIKMGT ")
	unit, ok := map[string]uint64{
		"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40,
	}[strings.TrimSpace(s[len(number):])]
	whole, part, dot := strings.Cut(number, ".")
	if !ok || dot && part == "" || len(part) > 9 {
		return 0, errSize
	}
	digits, err := strconv.ParseUint(whole+part, 10, 64)
	if err != nil || strings.HasPrefix(number, "+") {
		return 0, errSize
	}
	scale := uint64(1)
	for range part {
		scale *= 10
	}
	hi, lo := bits.Mul64(digits, unit)
	lo, carry := bits.Add64(lo, scale-1, 0)
	if hi += carry; hi >= scale {
		return 0, errSize
	}
	n, _ := bits.Div64(hi, lo, scale)
	if n > plan.MaxSize {
		return 0, errSize
	}
	return n, nil
}
