'use strict';
'require baseclass';
'require fs';
'require uci';

// Talks to x402-agent as its owner does, by its commands. Each is listed in the
// ACL as it is written here, so that a session can run these and nothing else.
const program = '/usr/bin/x402-agent';
const lookup = '/usr/libexec/x402-lookup';

// reason is what a program says went wrong: the line of its standard error that
// is no hint, without its name.
function reason(answer) {
	const lines = (answer.stderr || '').split('\n').filter((l) => l.trim() && !l.startsWith('hint:'));
	const last = lines.pop();
	return last ? last.replace(/^[a-z0-9-]+: /, '') : _('%s ended with code %d').format(program, answer.code);
}

// decode reads the JSON that a command printed. Some print it and fail all the
// same: check, when something is wrong, and rotate, when nothing came of it.
function decode(answer) {
	let value = null;
	try {
		value = JSON.parse(answer.stdout);
	} catch (e) {
		throw new Error(answer.code === 0 ? _('The answer cannot be read') : reason(answer));
	}
	return value;
}

const ask = (...args) => fs.exec(program, args).then(decode);

return baseclass.extend({
	status: () => ask('status', '--json'),
	check: () => ask('check', '--json'),
	modems: () => ask('modems', '--json'),
	settle: () => ask('settle', '--json'),

	// late says that a page was not let wait for the end of a command, which goes
	// on: rpcd waits 30 s, and LuCI 20.
	late: (e) => e.name === 'TimeoutError' || /timed out/.test(e.message),

	rotate: (sim) => sim ? ask('rotate', '--json', '--sim', sim) : ask('rotate', '--json'),
	acceptSIM: (sim) => sim ? ask('sim', 'accept', '--json', '--sim', sim) : ask('sim', 'accept', '--json'),

	// setUsed says how many bytes of the plan are used; the size stands last.
	setUsed: (bytes, sim) => sim
		? ask('plan', 'set-used', '--json', '--sim', sim, bytes + 'B')
		: ask('plan', 'set-used', '--json', bytes + 'B'),

	// log returns the agent's lines of the system's log, the oldest first.
	log: () => fs.exec('/sbin/logread', ['-e', 'x402-agent']).then((a) => {
		if (a.code !== 0)
			throw new Error(reason(a));
		return (a.stdout || '').split('\n').filter((l) => l);
	}),

	// supported returns what a facilitator settles, and offers what agents at a
	// relay ask. The router itself looks it up: a page must not reach others.
	supported: (url) => fs.exec(lookup, ['supported', url]).then(decode),
	offers: (relay) => fs.exec(lookup, ['offers', relay]).then(decode),

	// lines are the statuses of an agent's SIMs, of which it may have one or more.
	lines: (status) => status.sims || [status],

	get: (section, option) => uci.get('x402', section, option),

	// set changes an option, or removes it when there is no value. Sections have
	// the name of their type.
	set(section, option, value) {
		if (value == null || value === '' || (Array.isArray(value) && !value.length)) {
			if (uci.get('x402', section))
				uci.unset('x402', section, option);
			return;
		}
		if (!uci.get('x402', section))
			uci.add('x402', section, section);
		uci.set('x402', section, option, value);
	},

	enabled() {
		return this.get('agent', 'enabled') === '1';
	},

	// apply has the changes take effect: procd restarts the agent, or stops it.
	// Code 5 says that nothing was changed.
	apply: () => uci.save().then(() => uci.apply()).catch((e) => {
		if (e !== 5)
			throw e instanceof Error ? e : new Error(_('The settings were not applied (code %s)').format(e));
	}),

	enable(on) {
		this.set('agent', 'enabled', on ? '1' : '0');
		return this.apply();
	}
});
