'use strict';
'require baseclass';
'require x402.agent as agent';
'require x402.node as node';
'require x402.words as words';

// The end of the set-up: what the owner chose becomes settings, and then it is
// followed until the first sale.

const el = node.el;
const every = 2000;      // ms between two looks
const patience = 10;     // looks without an agent before it is asked why

// milestones are what comes one after the other, and how one sees that it has.
const milestones = [
	[_('The agent runs'), () => true],
	[_('The modem and its SIM are ready'), (lines) => lines.some((l) => !l.modem || l.modem.sim === 'ready' && !l.modem.error)],
	[_('Buyers find you at the relay'), (lines) => lines.some((l) => (l.relays || []).some((r) => r.connected))],
	[_('The agent sells'), (lines, status) => !status.refusing],
	[_('A buyer has come'), (lines, status) => status.sessions.length > 0 || status.earnings.channels.length > 0],
	[_('First sale: you are paid'), (lines, status) => BigInt(status.earnings.paid) > 0n]
];

return baseclass.extend({
	// choices are those of the settings that are there, but for what is used of the
	// plan, which was true on another day.
	choices() {
		const get = agent.get, relays = get('agent', 'relays');
		const kind = { network: get('payment', 'network'), asset: get('payment', 'asset'), name: get('payment', 'asset_name'), version: get('payment', 'asset_version') };
		return {
			consent: get('agent', 'consent') === '1', payTo: get('payment', 'pay_to'), facilitator: get('payment', 'facilitator'),
			relay: Array.isArray(relays) ? relays[0] : relays, kind: Object.values(kind).every((v) => v) ? kind : null,
			size: get('plan', 'size'), resetDay: get('plan', 'reset_day'), reserve: get('plan', 'reserve'),
			unlimited: false, price: get('price', 'per_gb'), port: get('modem', 'port') || 'auto',
			interface: get('policy', 'interface') === 'auto' ? '' : get('policy', 'interface')
		};
	},

	// save writes them and turns the agent on. Relays beside the first stay.
	save(w) {
		const set = agent.set.bind(agent), more = [].concat(agent.get('agent', 'relays') || []).slice(1);
		set('agent', 'consent', '1');
		set('agent', 'relays', [w.relay].concat(more));
		set('modem', 'port', w.port);
		set('policy', 'interface', w.interface);
		set('price', 'per_gb', w.price);
		for (const [option, value] of [['facilitator', w.facilitator], ['network', w.kind.network], ['asset', w.kind.asset],
			['asset_name', w.kind.name], ['asset_version', w.kind.version], ['pay_to', w.payTo]])
			set('payment', option, value);
		const today = new Date(Date.now() - new Date().getTimezoneOffset() * 60000).toISOString().slice(0, 10);
		for (const [option, value] of [['size', w.size], ['reset_day', w.resetDay], ['used', w.used], ['used_on', today], ['reserve', w.reserve]])
			set('plan', option, w.unlimited ? null : value);
		return agent.enable(true);
	},

	// progress is the last page: it looks every other second until it is left.
	progress() {
		const list = el('ol', { class: 'x402-progress', id: 'x402-progress' });
		const note = el('div', { id: 'x402-note' });
		let timer = null, missed = 0, left = false;
		const show = (reached) => node.fill(list, milestones.map(([name], i) =>
			el('li', { class: i < reached ? 'x402-good' : '' }, name + (i < reached ? ' ✓' : i === reached ? ' …' : ''))));
		const why = () => agent.check().then((c) => node.fill(note, [el('p', { class: 'x402-bad' }, _('The agent does not run:'))].concat(
			el('ul', {}, c.checks.filter((f) => f.result === 'failed').map((f) => el('li', {}, f.text + (f.do ? ': ' + f.do : '')))),
			el('p', {}, _('The log says more.'))))).catch((e) => node.fill(note, el('p', { class: 'x402-bad' }, e.message)));
		const look = () => agent.status().then((status) => {
			missed = 0;
			const lines = agent.lines(status);
			let reached = 0;
			while (reached < milestones.length && milestones[reached][1](lines, status))
				reached++;
			show(reached);
			const paid = reached === milestones.length;
			node.fill(note, paid
				? el('p', { class: 'x402-good' }, _('%s USD earned so far.').format(words.usd(status.earnings.paid)))
				: (status.problems || []).map((p) => el('p', {}, p.what + (p.do ? ': ' + p.do : ''))).concat(
					reached >= 4 ? el('p', {}, _('All is ready. When the first buyer comes is up to the market; you may leave this page.')) : []));
			return paid;
		}, () => {
			show(0);
			return ++missed === patience ? why().then(() => false) : false;
		}).then((done) => {
			if (!done && !left && list.isConnected)
				timer = window.setTimeout(look, every);
		});
		return {
			title: _('From here to the first sale'),
			parts: [list, note],
			shown: look,
			leave() {
				left = true;
				window.clearTimeout(timer);
			}
		};
	}
});
