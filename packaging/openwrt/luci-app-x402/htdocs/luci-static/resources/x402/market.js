'use strict';
'require baseclass';
'require x402.node as node';
'require x402.words as words';

// What facilitators and relays say, which is other people's word: bounded, and
// shown as text.

const el = node.el;
const most = 500; // offers that are looked at
const isText = (s, length) => typeof s === 'string' && s.length > 0 && s.length <= length;

// dearer is the price of an offer's dearer direction, null if there is none.
function dearer(offer) {
	const p = offer && offer.price;
	const all = p ? [p.up, p.down].map((s) => isText(s, 20) && /^\d+$/.test(s) ? BigInt(s) : null) : [null];
	return all.includes(null) ? null : all.reduce((a, b) => (a > b ? a : b));
}

return baseclass.extend({
	isRelay: (name) => /^[0-9A-Za-z.[\]:-]{1,200}:\d{1,5}(#[0-9a-f]{64})?$/.test(name),

	// kinds are what a facilitator settles channels in: of the answer to /supported
	// those that an agent can take (x402 version 2, scheme batch-settlement).
	kinds: (answer) => (answer && Array.isArray(answer.kinds) ? answer.kinds : []).filter((k) =>
		k && k.x402Version === 2 && k.scheme === 'batch-settlement' && isText(k.network, 64) && k.extra &&
		/^0x[0-9a-fA-F]{40}$/.test(k.extra.asset) && isText(k.extra.name, 64) && isText(k.extra.version, 16)
	).slice(0, 20).map((k) => ({ network: k.network, asset: k.extra.asset, name: k.extra.name, version: k.extra.version })),

	// summary shows what agents at a relay ask that are paid in the same asset. The
	// relay names the prices, and the agents' signatures are not checked here.
	summary(page, kind) {
		const listed = (page && Array.isArray(page.offers) ? page.offers : []).slice(0, most);
		const prices = new Map();
		for (const l of listed) {
			const offer = l && l.offer && l.offer.offer, each = dearer(offer);
			if (each == null || !offer.payment || offer.payment.network !== kind.network)
				continue;
			const country = isText(l.country, 2) ? l.country : _('not named');
			prices.set(country, (prices.get(country) || []).concat(each));
		}
		if (!prices.size)
			return [el('p', {}, _('Not known: nobody else sells at this relay for this asset. You are the first.'))];
		const usd = (n) => words.usd(n) + ' USD';
		const row = ([country, all]) => {
			const sorted = all.sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
			return el('tr', { class: 'tr' }, [
				el('td', { class: 'td', 'data-title': _('Country') }, country),
				el('td', { class: 'td', 'data-title': _('Agents') }, String(sorted.length)),
				el('td', { class: 'td', 'data-title': _('Cheapest') }, usd(sorted[0])),
				el('td', { class: 'td', 'data-title': _('Median') }, usd(sorted[sorted.length >> 1]))
			]);
		};
		return [
			el('table', { class: 'table' }, [el('tr', { class: 'tr table-titles' }, [_('Country'), _('Agents'), _('Cheapest'), _('Median')].map((h) => el('th', { class: 'th' }, h)))]
				.concat(Array.from(prices).sort().map(row))),
			el('p', { class: 'x402-hint' }, _('USD per GB that other agents at this relay ask, as the relay says. Whether buyers pay it is not known; they take the cheapest that answers first.'))
		];
	}
});
