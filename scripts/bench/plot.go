package main

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// A chart is a group of bars for each label, with a bar for each way.
type chart struct {
	title  string
	labels []string
	series []series
}

// A series has one value for each label; NaN: none.
type series struct {
	name   string
	values []float64
}

// Sizes in the drawing, in its units.
const (
	plotWidth   = 860.0
	chartHeight = 220.0
	chartTop    = 34.0 // for the title
	chartBottom = 40.0 // for the labels, of two lines
	plotLeft    = 50.0 // for the scale
	legendLine  = 22.0
)

// colours tell ways apart, also for those who see few of them, and on white and
// dark pages.
func colours() []string {
	return []string{"#0072b2", "#999999", "#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00"}
}

// plot draws the rows of links as SVG 1.1.
func (r *Report) plot() string {
	charts := r.charts()
	var ways []string
	for _, c := range charts {
		for _, s := range c.series {
			if !slices.Contains(ways, s.name) {
				ways = append(ways, s.name)
			}
		}
	}
	height := legendLine*2 + float64(len(charts))*(chartTop+chartHeight+chartBottom)
	var out strings.Builder
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" font-family="sans-serif" font-size="12">`+"\n", plotWidth, height)
	fmt.Fprintf(&out, `<rect width="100%%" height="100%%" fill="#ffffff"/>`+"\n")
	for i, name := range ways {
		x := plotLeft + float64(i)*(plotWidth-plotLeft)/float64(max(len(ways), 1))
		fmt.Fprintf(&out, `<rect x="%.1f" y="8" width="12" height="12" fill="%s"/><text x="%.1f" y="18">%s</text>`+"\n",
			x, colours()[i%len(colours())], x+16, html.EscapeString(name))
	}
	y := legendLine * 2
	for _, c := range charts {
		c.draw(&out, y, ways)
		y += chartTop + chartHeight + chartBottom
	}
	fmt.Fprintf(&out, `<text x="%.0f" y="%.0f" text-anchor="end" font-size="10" fill="#666666">%s, %s, Linux %s</text>`+"\n</svg>\n",
		plotWidth-4, legendLine*2-8, r.Date, html.EscapeString(r.Machine.CPU), html.EscapeString(r.Machine.Kernel))
	return out.String()
}

// charts are what is drawn of the report.
func (r *Report) charts() []chart {
	list := []chart{
		r.chartOf("one flow, Mbit/s", func(x Link) float64 { return x.Mbits }),
		r.chartOf("bytes on the wire for each byte that arrived", func(x Link) float64 { return x.Wire }),
		r.chartOf("ping beside the flow, 95% take no longer, ms", func(x Link) float64 { return x.PingHigh }),
	}
	return slices.DeleteFunc(list, func(c chart) bool { return len(c.series) == 0 })
}

// chartOf picks a value of each link's row.
func (r *Report) chartOf(title string, pick func(Link) float64) chart {
	c := chart{title: title}
	for _, x := range r.Links {
		label := x.Link + ", " + x.Direction
		if !slices.Contains(c.labels, label) {
			c.labels = append(c.labels, label)
		}
	}
	for _, x := range r.Links {
		i := slices.IndexFunc(c.series, func(s series) bool { return s.name == x.Way })
		if i < 0 {
			i = len(c.series)
			c.series = append(c.series, series{x.Way, slices.Repeat([]float64{math.NaN()}, len(c.labels))})
		}
		c.series[i].values[slices.Index(c.labels, x.Link+", "+x.Direction)] = pick(x)
	}
	return c
}

// draw draws a chart with its top at y. ways are those of the legend.
func (c chart) draw(out *strings.Builder, y float64, ways []string) {
	highest := 0.0
	for _, s := range c.series {
		for _, v := range s.values {
			if v > highest { // not NaN
				highest = v
			}
		}
	}
	step := gridStep(highest)
	scale := chartHeight / (math.Ceil(highest/step) * step)
	base := y + chartTop + chartHeight
	fmt.Fprintf(out, `<text x="%.0f" y="%.1f" font-weight="bold">%s</text>`+"\n", plotLeft, y+18, html.EscapeString(c.title))
	for v := 0.0; v*scale <= chartHeight+0.5; v += step {
		fmt.Fprintf(out, `<line x1="%.0f" y1="%.1f" x2="%.0f" y2="%.1f" stroke="#dddddd"/><text x="%.0f" y="%.1f" text-anchor="end">%s</text>`+"\n",
			plotLeft, base-v*scale, plotWidth, base-v*scale, plotLeft-6, base-v*scale+4, number(v))
	}
	group := (plotWidth - plotLeft) / float64(len(c.labels))
	bar := group * 0.9 / float64(len(c.series))
	for i, label := range c.labels {
		left := plotLeft + float64(i)*group + group*0.05
		for k, s := range c.series {
			v := s.values[i]
			if math.IsNaN(v) {
				continue
			}
			x := left + float64(k)*bar
			fmt.Fprintf(out, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"><title>%s, %s: %s</title></rect>`,
				x, base-v*scale, bar*0.92, v*scale, colours()[slices.Index(ways, s.name)%len(colours())], html.EscapeString(s.name), html.EscapeString(label), number(v))
			fmt.Fprintf(out, `<text x="%.1f" y="%.1f" text-anchor="middle" font-size="9">%s</text>`+"\n", x+bar*0.46, base-v*scale-3, number(v))
		}
		for n, line := range halves(label) {
			fmt.Fprintf(out, `<text x="%.1f" y="%.1f" text-anchor="middle" font-size="10">%s</text>`+"\n",
				left+group*0.45, base+15+float64(n)*12, html.EscapeString(line))
		}
	}
}

// halves breaks a label at the comma that leaves its lines most alike.
func halves(label string) []string {
	parts := strings.SplitAfter(label, ", ")
	best := []string{label}
	longest := len(label)
	for i := 1; i < len(parts); i++ {
		first, second := strings.TrimSpace(strings.Join(parts[:i], "")), strings.Join(parts[i:], "")
		if n := max(len(first), len(second)); n < longest {
			best, longest = []string{first, second}, n
		}
	}
	return best
}

// gridStep is a round distance of lines, four to eight of them up to highest.
func gridStep(highest float64) float64 {
	if highest <= 0 {
		return 1
	}
	step := math.Pow(10, math.Floor(math.Log10(highest)))
	for _, part := range []float64{0.1, 0.2, 0.25, 0.5} {
		if highest/(step*part) <= 8 {
			return step * part
		}
	}
	return step
}
