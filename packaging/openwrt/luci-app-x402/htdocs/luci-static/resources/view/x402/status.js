'use strict';
'require view';
'require poll';
'require ui';
'require uci';
'require x402.agent as agent';
'require x402.node as node';
'require x402.words as words';
'require x402.plot as plot';

const el = node.el;
const every = 5;         // seconds between two looks
const span = 600;        // seconds that the plots show
const rotateTime = 180;  // seconds in which a new address comes, or does not

const say = (text, kind) => ui.addNotification(null, el('p', {}, text), kind || 'info');
const fact = (name, value) => value == null || value === '' ? [] : [el('dt', {}, name), el('dd', {}, value)];
const facts = (...rows) => el('dl', { class: 'x402-facts' }, rows.flat());
const card = (title, children, wide) => el('div', { class: 'x402-card' + (wide ? ' x402-wide' : '') }, [el('h4', {}, title)].concat(children));

// strength is the signal in dBm, null if it is not known.
const strength = (line) => (line.modem && (line.modem.signal.RSRP || line.modem.signal.RSRP === 0 && line.modem.signal.RSSI)) || null;

function modemCard(line) {
	const m = line.modem;
	if (!m)
		return card(_('Modem and SIM'), el('p', {}, _('This agent sells without a modem of its own.')));
	const dbm = strength(line);
	return card(_('Modem and SIM'), [
		m.error ? el('p', { class: 'x402-bad' }, m.error) : '',
		facts(
			fact(_('Modem'), [m.maker, m.model].filter((s) => s).join(' ') || m.port),
			fact(_('SIM'), m.sim + (m.mcc ? ' (' + m.mcc + '-' + m.mnc + ')' : '')),
			fact(_('Network'), [m.operator, m.technology].filter((s) => s).join(', ')),
			fact(_('Registration'), m.roaming ? _('roaming') : m.registration),
			fact(_('Signal'), dbm == null ? '' : '%d dBm'.format(dbm)),
			fact(_('Interface'), line.interface),
			fact(_('Seen from outside as'), (line.relays || []).map((r) => r.seenAs).filter((s) => s)[0]))
	].concat(m.withheld ? el('button', { class: 'btn cbi-button cbi-button-action', click: ui.createHandlerFn(null, accept, line.name) }, _('Sell this SIM')) : []));
}

function accept(name) {
	return agent.acceptSIM(name).then(
		() => say(_('The SIM is sold from now on.')),
		(e) => say(e.message, 'danger'));
}

// shares are the parts of a plan that its gauge shows, in order.
function shares(p) {
	const passed = p.household + p.sales + p.overhead;
	return [
		{ kind: 'other', name: _('Entered, uncounted and margin'), value: Math.max(0, p.used - passed) },
		{ kind: 'household', name: _('Household'), value: p.household },
		{ kind: 'sales', name: _('Sales'), value: p.sales },
		{ kind: 'overhead', name: _('Overhead of sales'), value: p.overhead },
		{ kind: 'free', name: _('Left to sell'), value: p.left },
		{ kind: 'reserve', name: _('Kept for the household'), value: Math.max(0, p.size - p.used - p.left) }
	];
}

function forecast(p) {
	if (!p.reset)
		return _('The day of the reset is not known: the clock is not set yet.');
	const when = words.day(p.reset);
	return p.forecast < 0
		? _('The plan begins anew on %s. What the household will need until then is not known yet.').format(when)
		: _('The plan begins anew on %s. The household will need about %s until then.').format(when, words.size(p.forecast));
}

function planCard(line) {
	const p = line.plan;
	if (!p)
		return card(_('Data plan'), el('p', {}, _('No plan is set: the agent sells without regard to one.')), true);
	const parts = shares(p);
	return card(_('Data plan'), [
		el('div', {}, _('%s of %s used').format(words.size(p.used), words.size(p.size))),
		plot.gauge(parts, p.size, p.forecast > 0 ? Math.min(p.size, p.used + p.forecast) : null),
		el('dl', { class: 'x402-facts' }, parts.filter((s) => s.value > 0 || s.kind !== 'other').map((s) => [
			el('dt', {}, [el('span', { class: 'x402-key x402-' + s.kind }), s.name]), el('dd', {}, words.size(s.value))
		]).flat()),
		el('p', {}, forecast(p)),
		facts(
			fact(_('Sold today, with overhead'), words.size(p.soldToday)),
			fact(_('May still be sold today'), words.size(p.today)),
			p.pricePercent && p.pricePercent !== 100 ? fact(_('Price now'), p.pricePercent + '%') : [])
	], true);
}

function moneyCard(status) {
	const e = status.earnings, unclaimed = BigInt(e.paid) - BigInt(e.claimed), open = BigInt(e.owed) - BigInt(e.paid);
	return card(_('Money'), facts(
		fact(_('Earned'), words.usd(e.owed) + ' USD'),
		fact(_('Paid by buyers'), words.usd(e.paid) + ' USD'),
		fact(_('Settled to you'), words.usd(e.claimed) + ' USD'),
		fact(_('Not claimed yet'), words.usd(unclaimed > 0n ? unclaimed : 0n) + ' USD'),
		open > 0n ? fact(_('Owed by buyers'), words.usd(open) + ' USD') : [],
		fact(_('Carried'), words.size(e.up + e.down)),
		status.price ? fact(_('Price'), words.usd(status.price.down) + ' USD/GB') : [],
		fact(_('Paid to'), el('span', { title: status.payTo }, words.short(status.payTo)))));
}

function relayCard(status) {
	const relays = agent.lines(status).flatMap((l) => l.relays || []);
	if (!relays.length)
		return [];
	return card(_('Relays'), el('dl', { class: 'x402-facts' }, relays.flatMap((r) => fact(r.relay,
		el('span', { class: r.connected ? 'x402-good' : 'x402-bad' }, r.connected ? _('connected') : r.error || _('not connected'))))));
}

function sessionCard(status) {
	const cell = (title, value) => el('td', { class: 'td', 'data-title': title }, value);
	const heads = [_('Buyer'), _('Rate'), _('Down / up'), _('Owed / paid'), _('State')];
	if (!status.sessions.length)
		return card(_('Buyers now'), el('em', {}, _('No buyer is connected.')), true);
	return card(_('Buyers now'), el('table', { class: 'table' }, [
		el('tr', { class: 'tr table-titles' }, heads.map((h) => el('th', { class: 'th' }, h)))
	].concat(status.sessions.map((s) => el('tr', { class: 'tr' }, [
		cell(heads[0], el('span', { title: s.buyer }, (s.sim ? s.sim + ': ' : '') + words.short(s.buyer))),
		cell(heads[1], words.rate(s.rate)),
		cell(heads[2], words.size(s.down) + ' / ' + words.size(s.up)),
		cell(heads[3], words.usd(s.owed) + ' / ' + words.usd(s.paid)),
		cell(heads[4], s.blocked ? _('waits for payment') : _('served'))
	])))), true);
}

return view.extend({
	handleSaveApply: null,
	handleSave: null,
	handleReset: null,

	load: () => Promise.all([agent.status().catch((e) => e), uci.load('x402')]),

	// look asks again and shows what came.
	look() {
		return agent.status().catch((e) => e).then((status) => this.show(status));
	},

	show(status) {
		this.status = status;
		const ok = !(status instanceof Error);
		this.headline(status, ok);
		node.fill(this.problems, ok ? (status.problems || []).map((p) => el('li', {}, [p.what, p.do ? el('div', {}, el('small', {}, p.do)) : ''])) : []);
		if (!ok) {
			node.fill(this.cards, []);
			return;
		}
		const lines = agent.lines(status);
		this.choices(lines);
		node.fill(this.cards, lines.flatMap((line) => [
			line.name ? el('h3', { class: 'x402-wide' }, line.name) : '', planCard(line), modemCard(line)
		]).concat(moneyCard(status), relayCard(status), this.plots(status, lines), sessionCard(status)));
	},

	// choices offers the SIMs to choose from, if there are several.
	choices(lines) {
		const names = lines.map((l) => l.name || '');
		if (names.join() === this.names)
			return;
		this.names = names.join();
		node.fill(this.which, names.map((n) => el('option', { value: n }, n)));
		this.which.style.display = names.length > 1 ? '' : 'none';
	},

	headline(status, ok) {
		const on = agent.enabled();
		let text = _('Selling'), kind = 'x402-good';
		if (!ok && !on)
			[text, kind] = [_('Paused: nothing is sold'), ''];
		else if (!ok)
			[text, kind] = [_('Not running: %s').format(status.message), 'x402-bad'];
		else if (status.refusing)
			[text, kind] = [_('Not selling: %s').format(status.refusing), 'x402-bad'];
		node.fill(this.state, el('span', { class: kind }, text));
		this.pauseButton.firstChild.data = on ? _('Pause') : _('Resume');
		const mayNot = L.hasViewPermission() === false;
		for (const b of [this.settleButton, this.rotateButton, this.usedButton])
			b.disabled = !ok || mayNot;
		this.pauseButton.disabled = mayNot;
		this.usedPart.style.display = ok && agent.lines(status).some((l) => l.plan) ? '' : 'none';
	},

	// plots keep what the page saw, since the agent keeps no history.
	plots(status, lines) {
		const now = Date.now() / 1000;
		const keep = (points, value) => {
			points.push([now, value]);
			while (points[0][0] < now - span)
				points.shift();
		};
		keep(this.rates, status.sessions.reduce((sum, s) => sum + s.rate, 0));
		const first = lines.find((l) => strength(l) != null);
		keep(this.signals, first ? strength(first) : null);
		return [
			card(_('Throughput'), plot.line(this.rates, span, [0, 125000], words.rate)),
			card(_('Signal'), plot.line(this.signals, span, [-120, -70], (v) => '%d dBm'.format(v)))
		];
	},

	settle() {
		return agent.settle().then(
			(s) => say(s.channels ? _('%s USD are claimed.').format(words.usd(s.claimed)) : _('There is nothing to claim.')),
			(e) => agent.late(e) ? say(_('It takes long, and goes on. What is settled shows here.')) : say(_('Not settled: %s').format(e.message), 'danger')).then(() => this.look());
	},

	// line is the status of the SIM that is chosen, of several.
	line() {
		const lines = agent.lines(this.status);
		return lines.find((l) => l.name === this.which.value) || lines[0];
	},

	// rotate may take longer than the router lets a page wait; what came of it is
	// then in the status.
	rotate() {
		const before = JSON.stringify(this.line().rotation.last || null);
		const until = Date.now() + rotateTime * 1000;
		const followed = () => new Promise((r) => window.setTimeout(r, 3000)).then(() => this.look()).then(() => {
			const last = this.status instanceof Error ? null : this.line().rotation.last;
			if (last && JSON.stringify(last) !== before)
				return last;
			if (Date.now() > until)
				throw new Error(_('nothing is known of it after %d min').format(rotateTime / 60));
			return followed();
		});
		say(_('The line leaves its network for a moment. Buyers stay connected.'));
		return agent.rotate(this.line().name).catch((e) => agent.late(e) ? followed() : Promise.reject(e)).then(
			(r) => r.changed ? say(_('The address is %s now, before it was %s.').format(r.new, r.old)) : say(_('The address did not change: %s').format(r.error || '?'), 'warning'),
			(e) => say(_('The address was not changed: %s').format(e.message), 'danger')).then(() => this.look());
	},

	pause() {
		const on = agent.enabled();
		return agent.enable(!on).then(
			() => say(on ? _('Paused. Buyers who were connected finish, and what they paid is claimed.') : _('The agent starts.')),
			(e) => say(e.message, 'danger')).then(() => this.look());
	},

	setUsed() {
		const bytes = words.bytes(this.used.value);
		if (bytes == null) {
			say(_('A size such as 12.3 GB is wanted.'), 'danger');
			return null;
		}
		return agent.setUsed(bytes, this.line().name).then(
			() => say(_('%s of the plan are used: noted.').format(words.size(bytes))),
			(e) => say(e.message, 'danger')).then(() => this.look());
	},

	// ask has the owner agree to something that buyers notice.
	ask(title, text, run) {
		ui.showModal(title, [
			el('p', {}, text),
			el('div', { class: 'right' }, [
				el('button', { class: 'btn', click: ui.hideModal }, _('Cancel')), ' ',
				el('button', { class: 'btn cbi-button-action important', id: 'x402-yes', click: ui.createHandlerFn(this, () => { ui.hideModal(); return run.call(this); }) }, title)
			])
		]);
	},

	button(id, title, click) {
		return el('button', { class: 'btn cbi-button cbi-button-action', id, click: ui.createHandlerFn(this, click) }, title);
	},

	render([status]) {
		this.rates = [];
		this.signals = [];
		this.state = el('div', { class: 'x402-state', id: 'x402-state' });
		this.settleButton = this.button('x402-settle', _('Settle'), this.settle);
		this.rotateButton = this.button('x402-rotate', _('New address'), () => this.ask(_('New address'), _('What buyers are fetching is cut off when the address changes.'), this.rotate));
		this.pauseButton = this.button('x402-pause', _('Pause'), () => agent.enabled()
			? this.ask(_('Pause'), _('The sessions of buyers end. What they paid is claimed.'), this.pause) : this.pause());
		this.which = el('select', { class: 'cbi-input-select', 'aria-label': _('SIM'), style: 'display:none' });
		this.problems = el('ul', { id: 'x402-problems' });
		this.cards = el('div', { class: 'x402-cards', id: 'x402-cards' });
		this.used = el('input', { type: 'text', class: 'cbi-input-text', placeholder: '12.3 GB', 'aria-label': _('Used of the plan') });
		this.usedButton = this.button('x402-used', _('Set what is used'), this.setUsed);
		this.usedPart = el('div', { class: 'x402-step' }, [
			el('p', {}, _('If your carrier shows another number as used, enter it:')), el('div', { class: 'x402-inline' }, [this.used, this.usedButton])
		]);
		this.show(status);
		poll.add(() => this.look(), every);
		return node.page([
			el('h2', {}, _('X402: selling traffic')),
			agent.get('agent', 'consent') === '1' ? '' : el('p', {}, [_('Nothing is set up yet.'), ' ', el('a', { href: L.url('admin/services/x402/setup') }, _('Begin here'))]),
			el('div', { class: 'x402-head' }, [this.state, this.settleButton, this.which, this.rotateButton, this.pauseButton]),
			this.problems, this.cards, this.usedPart
		]);
	}
});
