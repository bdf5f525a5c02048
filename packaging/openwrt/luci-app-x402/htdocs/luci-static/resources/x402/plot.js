'use strict';
'require baseclass';
'require x402.node as node';

// Drawings in SVG. Colours are the theme's, by x402.css.

const svg = node.svg;
const width = 320, height = 120, left = 58, bottom = 16;

return baseclass.extend({
	// gauge draws parts of a whole side by side: [{ name, value, kind }]. Kinds are
	// classes of the style sheet. mark is where a line stands, if anywhere.
	gauge(parts, total, mark) {
		const bar = [];
		let at = 0;
		for (const p of parts) {
			const w = total > 0 ? Math.min(p.value / total, 1) * 100 : 0;
			if (w > 0)
				bar.push(svg('rect', { x: at, y: 0, width: w, height: 10, class: 'x402-' + p.kind },
					svg('title', {}, p.name)));
			at += w;
		}
		if (mark != null && total > 0)
			bar.push(svg('line', { x1: mark / total * 100, x2: mark / total * 100, y1: 0, y2: 10, class: 'x402-mark' }));
		return svg('svg', { viewBox: '0 0 100 10', preserveAspectRatio: 'none', class: 'x402-gauge', role: 'img' }, bar);
	},

	// line draws a curve through points of [time in s, value or null], the newest
	// last, over span seconds. label writes a value.
	line(points, span, range, label) {
		const known = points.filter((p) => p[1] != null);
		const values = known.map((p) => p[1]);
		const low = Math.min(range[0], ...values), high = Math.max(range[1], ...values);
		const end = points.length ? points[points.length - 1][0] : 0;
		const x = (t) => left + (width - left - 4) * (1 - (end - t) / span);
		const y = (v) => 6 + (height - bottom - 6) * (1 - (v - low) / (high - low || 1));
		const drawn = [];
		for (const v of [low, (low + high) / 2, high]) {
			drawn.push(svg('line', { x1: left, x2: width, y1: y(v), y2: y(v), class: 'x402-grid' }));
			drawn.push(svg('text', { x: left - 4, y: y(v) + 4, 'text-anchor': 'end' }, label(v)));
		}
		drawn.push(svg('text', { x: left, y: height - 2 }, _('%d min ago').format(Math.round(span / 60))));
		drawn.push(svg('text', { x: width, y: height - 2, 'text-anchor': 'end' }, _('now')));
		const path = known.filter((p) => end - p[0] <= span).map((p) => x(p[0]).toFixed(1) + ',' + y(p[1]).toFixed(1));
		drawn.push(svg('polyline', { points: path.join(' '), class: 'x402-curve' }));
		if (path.length) {
			const [cx, cy] = path[path.length - 1].split(',');
			drawn.push(svg('circle', { cx, cy, r: 2.5, class: 'x402-dot' }));
		}
		return svg('svg', { viewBox: '0 0 %d %d'.format(width, height), class: 'x402-plot', role: 'img' }, drawn);
	}
});
