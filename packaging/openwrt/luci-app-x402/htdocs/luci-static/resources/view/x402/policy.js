'use strict';
'require view';
'require form';
'require uci';
'require x402.words as words';

// ensure makes the sections that are shown, in this page's copy of the settings:
// what is not there has its default.
function ensure() {
	for (const name of ['price', 'limits', 'policy', 'plan', 'rotate', 'settle', 'credit'])
		if (!uci.get('x402', name))
			uci.add('x402', name, name);
}

const usd = (section, value) => !value || words.atomic(value) != null ? true : _('An amount of USD such as 4.00 is wanted');
const size = (section, value) => !value || words.bytes(value) != null ? true : _('A size such as 20 GB is wanted');
const time = (section, value) => !value || /^(\d{1,4}[smh])+$/.test(value) ? true : _('A time such as 90s, 45m or 24h is wanted');

function ports(section, value) {
	const m = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(value);
	return !value || (m && +m[1] >= 1 && +m[1] <= +(m[2] || m[1]) && +(m[2] || m[1]) <= 65535)
		? true : _('A port such as 443 or a range such as 1000-2000 is wanted');
}

function hours(section, value) {
	const day = '(mon|tue|wed|thu|fri|sat|sun)', clock = '([01]?\\d|2[0-4]):[0-5]\\d';
	return !value || new RegExp('^(' + day + '(-' + day + ')? )?' + clock + '-' + clock + '$').test(value)
		? true : _('Hours such as mon-fri 22:00-06:00 are wanted');
}

const steps = (section, value) => !value || /^\d{1,3}% \d{2,4}%$/.test(value) ? true : _('A step such as 50% 125% is wanted');

// text adds a field of a line; check is its validation, example its placeholder.
function text(s, option, title, hint, check, example) {
	const o = s.option(form.Value, option, title, hint);
	o.validate = check;
	o.placeholder = example;
	return o;
}

function number(s, option, title, hint, range, example) {
	const o = s.option(form.Value, option, title, hint);
	o.datatype = 'and(uinteger,range(' + range + '))';
	o.placeholder = example;
	return o;
}

function list(s, option, title, hint, check, example) {
	const o = s.option(form.DynamicList, option, title, hint);
	if (check)
		o.validate = check;
	o.placeholder = example;
	return o;
}

function prices(m) {
	let s = m.section(form.NamedSection, 'price', 'price', _('Price'));
	text(s, 'per_gb', _('USD per GB'), _('Of what buyers send and receive alike. It holds for sessions that begin from now on.'), usd, '4.00');
	s = m.section(form.NamedSection, 'credit', 'credit', _('Credit'));
	text(s, 'cap', _('Of one buyer, in USD'), _('What a buyer who has paid before may owe at most.'), usd, '0.05');
	text(s, 'total', _('Of all together, in USD'), null, usd, '1.00');
	s = m.section(form.NamedSection, 'settle', 'settle', _('Settlement'));
	text(s, 'every', _('At least every'), null, time, '24h');
	text(s, 'at', _('At once from, in USD'), null, usd, '1.00');
}

function plan(m) {
	const s = m.section(form.NamedSection, 'plan', 'plan', _('Data plan and hours'),
		_('Limits of what sales may use of the plan. A sold byte costs the plan about two.'));
	text(s, 'size', _('Size of the plan'), _('Without one the agent sells without regard to a plan.'), size, '20 GB');
	number(s, 'reset_day', _('Day of the month on which it begins anew'), null, '1,31', '1');
	text(s, 'reserve', _('Never sold'), _('Your household has it until the reset, whatever it has used before.'), size, '5 GB');
	text(s, 'daily', _('Most in a day'), null, size, '1 GB');
	text(s, 'hourly', _('Most in an hour'), null, size, '200 MB');
	list(s, 'schedule', _('Hours in which is sold'), _('Without any: always.'), hours, 'mon-fri 22:00-06:00');
	list(s, 'price_steps', _('Price as the plan runs out'), _('At 50% of what may be sold the price is 125%, and so on.'), steps, '50% 125%');
	const o = s.option(form.Flag, 'roaming', _('Sell abroad too'), _('Roaming can be very expensive.'));
	o.default = '0';
	o.rmempty = true;
}

function limits(m) {
	let s = m.section(form.NamedSection, 'limits', 'limits', _('Limits'));
	number(s, 'mbits', _('Mbit/s to all buyers together'), _('So that your household keeps the rest of the uplink.'), '1,100000', _('no limit'));
	number(s, 'sessions', _('Buyers at once'), null, '1,10000', '32');
	s = m.section(form.NamedSection, 'policy', 'policy', _('What buyers may reach'),
		_('Public addresses only: never this router nor its networks. Mail (TCP port 25) is always closed.'));
	for (const [option, title] of [['allow_tcp', _('TCP ports')], ['deny_tcp', _('Closed TCP ports')], ['allow_udp', _('UDP ports')], ['deny_udp', _('Closed UDP ports')]])
		list(s, option, title, null, ports, option.startsWith('allow') ? '1-65535' : '');
	const o = list(s, 'deny_networks', _('Closed networks'), null, null, '198.51.100.0/24');
	o.datatype = 'cidr';
	s = m.section(form.NamedSection, 'rotate', 'rotate', _('Another address'));
	text(s, 'every', _('Change it every'), _('Without a time: never by itself.'), time, '24h');
	text(s, 'price', _('Price for buyers who ask for another one, in USD'), _('Without a price they may not ask.'), usd, '0.02');
}

return view.extend({
	load: () => uci.load('x402'),

	render() {
		ensure();
		const m = new form.Map('x402', _('Policy'),
			_('What is sold, when, and for how much. An empty field has the default that it shows. A change restarts the agent: sessions end, and buyers come back.'));
		prices(m);
		plan(m);
		limits(m);
		return m.render();
	}
});
