'use strict';
'require view';
'require uci';
'require x402.agent as agent';
'require x402.node as node';
'require x402.words as words';
'require x402.address as address';
'require x402.market as market';
'require x402.start as start';

const el = node.el;

// field is a labelled input, with a line of help and one for what is wrong.
function field(id, label, input, hint) {
	input.id = 'x402-' + id;
	input.addEventListener('input', () => fault(input, null));
	return el('div', { class: 'x402-field' }, [
		el('label', { for: input.id }, label), input,
		el('p', { class: 'x402-hint' }, hint || ''),
		el('div', { class: 'x402-bad', id: input.id + '-fault', role: 'alert' })
	]);
}

const text = (value, example) => el('input', { type: 'text', class: 'cbi-input-text', value: value || '', placeholder: example || '', autocomplete: 'off', spellcheck: 'false' });

// fault shows what is wrong with a field, and takes that back with null. It
// reports whether all is well.
function fault(input, children) {
	node.fill(document.getElementById(input.id + '-fault'), children);
	return children == null;
}

// A step has a title, parts to show, and check, which says whether to go on and
// keeps what was entered in the owner's choices w.

const agreed = [
	_('My contract allows me to share this line, or I bear what my carrier does about it.'),
	_('I know that strangers use my public address, and that questions about what they do may come to me.'),
	_('I know that my plan is charged about twice what I sell, and that I can stop at any time.')
];

function consent(w) {
	const ticks = agreed.map((t, i) => el('input', { type: 'checkbox', id: 'x402-agree-' + i }));
	ticks.forEach((t) => { t.checked = w.consent; });
	const wrong = el('div', { class: 'x402-bad', role: 'alert' });
	const points = [
		_('Buyers are strangers. Sites see your public address, and your carrier sees their traffic as yours: complaints, blocked accounts or questions of an authority come to you.'),
		_('Many carriers forbid to resell access. They may slow the line down, charge for it, or end the contract. Where you live a permit may be needed.'),
		_('Every sold byte passes the modem twice, so your plan is charged about double. In the next steps you set what is never sold.'),
		_('Buyers reach public addresses only, never this router or your network. Mail is closed; you can close more. They share the uplink with you.'),
		_('You are paid by the byte to an address that you name. On a facilitator’s own network that is its operator’s promise. Up to 0.05 USD a buyer, and 1 USD in all, may remain unpaid.'),
		_('The number of your SIM never leaves this router. Country, network and carrier are shown to buyers, and a relay learns your address.')
	];
	return {
		title: _('What selling your line means'),
		parts: [el('p', {}, _('This router sells internet access over its SIM to others, while you are paid. Read this first:'))].concat(
			el('ul', {}, points.map((p) => el('li', {}, p))),
			agreed.map((t, i) => el('label', { class: 'x402-tick' }, [ticks[i], el('span', {}, t)])), wrong),
		check() {
			w.consent = ticks.every((t) => t.checked);
			node.fill(wrong, w.consent ? null : _('Selling needs your consent to all three.'));
			return w.consent;
		}
	};
}

function payout(w) {
	const input = text(w.payTo, '0x…');
	const use = (full) => el('button', { class: 'btn', type: 'button', click: () => { input.value = full; fault(input, null); } }, _('It is: use it'));
	return {
		title: _('Where you are paid'),
		parts: [field('payto', _('Your address'), input,
			_('Of any Ethereum wallet of yours. This router has no key for it and cannot take anything back: copy it, do not type it.'))],
		check() {
			const full = input.value.trim();
			switch (address.fault(full)) {
			case 'form':
				return fault(input, _('An address is 0x and 40 digits or letters from a to f.'));
			case 'zero':
				return fault(input, _('What is paid to this address is lost.'));
			case 'checksum':
				return fault(input, _('Its checksum is wrong: a digit or letter is not as in your wallet. Copy it again.'));
			case 'bare':
				return fault(input, [_('It has no checksum, so a slip would not be noticed. Compare all of it with your wallet:'), el('p', {}, el('code', {}, address.checksummed(full))), use(address.checksummed(full))]);
			}
			w.payTo = full;
			return fault(input, null);
		}
	};
}

function places(w) {
	const url = text(w.facilitator, 'https://facilitator.example.org');
	const relay = text(w.relay, 'relay.example.org:4433#…');
	const asset = el('select', { class: 'cbi-input-select' });
	const offer = (kinds) => node.fill(asset, kinds.map((k, i) => el('option', { value: i }, k.name + ' · ' + k.network)));
	const chosen = field('asset', _('Paid in'), asset, _('On a network of the facilitator’s own this is a credit that its operator owes you. Choose what you trust.'));
	let asked = w.facilitator && w.kind ? w.facilitator : null, kinds = w.kind ? [w.kind] : [];
	offer(kinds);
	chosen.style.display = kinds.length ? '' : 'none';
	return {
		title: _('Facilitator and relay'),
		parts: [
			field('facilitator', _('Facilitator'), url, _('The service that settles payments; its operator tells the address. It cannot redirect what is yours.')),
			chosen,
			field('relay', _('Relay'), relay, _('Where buyers find and reach you: HOST:PORT#PIN, as its operator names it. It cannot read what passes.'))
		],
		async check() {
			const where = url.value.trim(), name = relay.value.trim();
			if (!fault(relay, market.isRelay(name) ? null : _('A name such as relay.example.org:4433#0123… is wanted.')))
				return false;
			if (!fault(url, /^https?:\/\/[^\s/]+/.test(where) ? null : _('A URL that begins with https:// is wanted.')))
				return false;
			if (where !== asked) {
				try {
					kinds = market.kinds(await agent.supported(where));
				} catch (e) {
					return fault(url, _('It does not answer as a facilitator: %s').format(e.message));
				}
				if (!kinds.length)
					return fault(url, _('It settles no channels: use another one.'));
				asked = where;
				offer(kinds);
				chosen.style.display = '';
				if (kinds.length > 1)
					return false; // there is something to choose
			}
			[w.facilitator, w.relay, w.kind] = [where, name, kinds[+asset.value]];
			return true;
		}
	};
}

function plan(w) {
	const size = text(w.size, '20 GB'), day = text(w.resetDay || '1'), used = text('', '0 GB'), reserve = text(w.reserve, '5 GB');
	const without = el('input', { type: 'checkbox', id: 'x402-unlimited' });
	without.checked = w.unlimited;
	const form = el('div', {}, [
		field('size', _('Size of the plan'), size, _('As your carrier says it, such as 20 GB.')),
		field('day', _('Day of the month on which it begins anew'), day),
		field('used', _('Used so far in this period'), used, _('As your carrier shows it today.')),
		field('reserve', _('Never sold'), reserve, _('Your household has this much until the reset, whatever it has used before.'))
	]);
	const show = () => { form.style.display = without.checked ? 'none' : ''; };
	without.addEventListener('change', show);
	show();
	return {
		title: _('Your data plan'),
		parts: [form, el('label', { class: 'x402-tick' }, [without, el('span', {}, _('My plan is really unlimited: sell without regard to it.'))])],
		check() {
			w.unlimited = without.checked;
			if (w.unlimited)
				return true;
			const sizes = [size, used, reserve].map((i) => [i, words.bytes(i.value)]);
			const ok = sizes.map(([i, n]) => fault(i, n != null ? null : _('A size such as 20 GB is wanted.')));
			const inMonth = /^\d{1,2}$/.test(day.value.trim()) && +day.value >= 1 && +day.value <= 31;
			if (!fault(day, inMonth ? null : _('A day from 1 to 31 is wanted.')) || ok.includes(false))
				return false;
			const [whole, , kept] = sizes.map((s) => s[1]);
			if (!fault(size, whole > 0 ? null : _('A size such as 20 GB is wanted.')))
				return false;
			if (!fault(reserve, kept < whole ? null : _('Nothing would be left to sell.')))
				return false;
			[w.size, w.resetDay, w.used, w.reserve] = [size.value.trim(), String(+day.value), used.value.trim(), reserve.value.trim()];
			return true;
		}
	};
}

function price(w) {
	const input = text(w.price, '4.00');
	const found = el('div', { id: 'x402-market' }, el('em', {}, _('Asking the relay what others ask…')));
	const means = el('p', { class: 'x402-hint' });
	const tell = () => {
		const each = words.atomic(input.value);
		node.fill(means, each == null ? null : _('10 GB sold bring %s USD and cost your plan about 21 GB.').format(words.usd(each * 10n)));
	};
	input.addEventListener('input', tell);
	return {
		title: _('Your price'),
		parts: [field('price', _('USD per GB'), input, _('Of what buyers send and receive alike. You can change it at any time.')), means, el('h4', {}, _('What the market pays')), found],
		shown() {
			tell();
			agent.offers(w.relay).then((page) => node.fill(found, market.summary(page, w.kind)),
				(e) => node.fill(found, _('Not known: the relay did not tell (%s).').format(e.message)));
		},
		check() {
			const each = words.atomic(input.value);
			if (!fault(input, each != null ? null : _('An amount of USD such as 4.00 is wanted.')))
				return false;
			if (!fault(input, each > 0n ? null : _('At 0 the traffic would be given away.')))
				return false;
			w.price = input.value.trim();
			return true;
		}
	};
}

// modems is a choice of the modem, and a line that says which there are. One that
// is looked for knows its interface; that of another is entered.
function modems(w) {
	const choice = el('select', { class: 'cbi-input-select' });
	const part = field('modem', _('Modem'), choice, _('Looking for modems…'));
	const way = text(w.interface, 'wwan0');
	const ways = field('interface', _('Its network interface'), way, _('Buyers’ traffic leaves by it, and what is used of the plan is counted there.'));
	const fixed = () => w.port !== 'auto' && w.port !== 'all';
	const kinds = new Map([['auto', _('Any that is plugged in')], ['all', _('Every one, each by an offer of its own')]]);
	const nets = new Map();
	const chosen = () => {
		ways.style.display = fixed() ? '' : 'none';
		way.value = way.value || nets.get(w.port) || '';
	};
	const show = (found) => {
		for (const m of found.filter((m) => m.port)) {
			nets.set(m.port, m.networks[0]);
			kinds.set(m.port, m.port + ' · ' + [m.maker, m.name].filter((s) => s).join(' '));
		}
		if (!kinds.has(w.port))
			kinds.set(w.port, w.port);
		node.fill(choice, Array.from(kinds, ([value, name]) => el('option', value === w.port ? { value, selected: '' } : { value }, name)));
		chosen();
	};
	const say = (text) => node.fill(part.querySelector('.x402-hint'), text);
	choice.addEventListener('change', () => {
		w.port = choice.value;
		way.value = '';
		chosen();
	});
	show([]);
	return {
		parts: [part, ways],
		check() {
			w.interface = w.port === 'all' ? '' : way.value.trim() || (fixed() ? '' : 'auto');
			return fault(way, !fixed() || /^[\w.@-]{1,15}$/.test(w.interface) ? null : _('The name of an interface such as wwan0 is wanted.'));
		},
		look: () => agent.modems().then((found) => {
			show(found);
			say(found.length ? _('%d found.').format(found.length) : _('None is found now. The agent takes it as soon as it is there.'));
		}, (e) => say(e.message))
	};
}

function summary(w) {
	const modem = modems(w);
	const rows = [
		[_('Paid to'), w.payTo],
		[_('Facilitator'), w.facilitator],
		[_('Paid in'), w.kind.name + ' · ' + w.kind.network],
		[_('Relay'), w.relay],
		[_('Data plan'), w.unlimited ? _('without regard to one') : _('%s from day %s, %s used').format(w.size, w.resetDay, w.used)],
		w.unlimited ? null : [_('Never sold'), w.reserve],
		[_('Price'), _('%s USD per GB').format(w.price)]
	].filter((r) => r);
	return {
		title: _('All of it'),
		next: _('Turn on'),
		shown: modem.look,
		parts: [
			el('dl', { class: 'x402-facts' }, rows.flatMap(([k, v]) => [el('dt', {}, k), el('dd', {}, v)])),
			el('div', {}, modem.parts),
			el('p', {}, _('Limits, hours and ports are under Policy.')),
			el('div', { class: 'x402-bad', id: 'x402-turn-on', role: 'alert' })
		],
		check: () => modem.check() && start.save(w).then(() => true, (e) => {
			node.fill(document.getElementById('x402-turn-on'), e.message);
			return false;
		})
	};
}

const steps = [consent, payout, places, plan, price, summary, start.progress];

return view.extend({
	handleSaveApply: null,
	handleSave: null,
	handleReset: null,

	load: () => uci.load('x402'),

	go(at) {
		if (this.step && this.step.leave)
			this.step.leave();
		this.at = at;
		const step = this.step = steps[at](this.w);
		const back = el('button', { class: 'btn', id: 'x402-back', click: () => this.go(at - 1) }, _('Back'));
		const next = el('button', { class: 'btn cbi-button-action important', id: 'x402-next', click: () => this.next(next) }, step.next || _('Next'));
		node.fill(this.body, [
			el('h3', { tabindex: -1 }, step.title),
			el('p', { class: 'x402-hint' }, at < steps.length - 1 ? _('Step %d of %d').format(at + 1, steps.length - 1) : ''),
			el('div', {}, step.parts),
			el('div', { class: 'x402-nav' }, [at > 0 && step.check ? back : el('span'), step.check ? next : el('a', { class: 'btn', href: L.url('admin/services/x402/status') }, _('Status'))])
		]);
		this.body.firstChild.focus({ preventScroll: true });
		if (step.shown)
			step.shown();
	},

	async next(button) {
		button.disabled = true;
		try {
			if (await this.step.check())
				this.go(this.at + 1);
		} finally {
			button.disabled = false;
		}
	},

	render() {
		this.w = start.choices();
		this.body = el('div', { class: 'x402-step', id: 'x402-wizard' });
		this.go(0);
		return node.page([el('h2', {}, _('Sell traffic: set-up')), this.body]);
	}
});
