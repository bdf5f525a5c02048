'use strict';
// The part of LuCI's interface for views that this app uses, for tests where
// there is no LuCI. What is loose in LuCI is loose here: a lone text given to E is
// HTML, and notices and dialogs append what they get.

const L = { env: window.luciEnv };
const _ = (s) => (window.TR && window.TR[s]) || s;

String.prototype.format = function (...args) {
	return this.replace(/%(%|s|d)/g, (all, kind) => {
		if (kind === '%')
			return '%';
		const v = args.shift();
		return kind === 'd' ? String(Math.floor(+v || 0)) : String(v);
	});
};

function append(node, children) {
	if (Array.isArray(children))
		for (const c of children)
			if (c instanceof Node)
				node.appendChild(c);
			else if (c != null)
				node.appendChild(document.createTextNode(String(c)));
			else
				continue;
	else if (children instanceof Node)
		node.appendChild(children);
	else if (children != null)
		node.innerHTML = String(children);
	return node;
}

function E(tag, attrs, children) {
	const node = document.createElement(tag);
	for (const [name, value] of Object.entries(attrs || {}))
		if (typeof value === 'function')
			node.addEventListener(name, value);
		else if (value != null)
			node.setAttribute(name, value);
	return append(node, children);
}

L.url = (...parts) => ['/cgi-bin/luci', ...parts].join('/');
L.resource = (...parts) => ['/luci-static/resources', ...parts].join('/');
L.hasViewPermission = () => true;
L.bind = (fn, self, ...args) => fn.bind(self, ...args);

// Classes are made by extend; a module is one, and what requires it gets the
// only object of it.
class Base {
	static extend(props) {
		const made = class extends this {};
		Object.assign(made.prototype, props);
		return made;
	}
}

const baseclass = Base;
const view = Base.extend({ load() {}, render() {}, handleSave: save, handleSaveApply: () => save().then(() => modules.uci.apply(), () => {}), handleReset() { location.reload(); } });

// save keeps what is in the forms; a field that is wrong says so itself.
async function save() {
	for (const node of document.querySelectorAll('.cbi-map'))
		await node.map.save();
}

async function call(object, method, params) {
	const r = await fetch('/ubus/', { method: 'POST', headers: { 'Content-Type': 'application/json' },
		body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'call', params: [L.env.sessionid, object, method, params] }) });
	const { result } = await r.json();
	if (result[0] !== 0)
		throw Object.assign(new Error('RPC call to %s/%s failed with ubus code %d'.format(object, method, result[0])), { name: 'RPCError', code: result[0] });
	return result[1] || {};
}

const modules = {
	baseclass, view,

	fs: { exec: (command, params) => call('file', 'exec', { command, params: params || [] }).catch((e) => { throw Object.assign(e, { name: e.code === 7 ? 'TimeoutError' : 'Error' }); }) },

	poll: {
		add(fn, seconds) {
			const turn = () => Promise.resolve(fn()).finally(() => window.setTimeout(turn, seconds * 1000));
			window.setTimeout(turn, seconds * 1000);
		}
	},

	uci: {
		values: {}, changed: {}, removed: {}, added: {},
		async load(conf) {
			this.values[conf] = (await call('uci', 'get', { config: conf })).values;
		},
		get(conf, sid, opt) {
			const section = (this.added[sid] || (this.values[conf] || {})[sid]);
			return opt == null ? section || null : section && section[opt] != null ? section[opt] : null;
		},
		add(conf, type, name) {
			this.added[name] = { '.type': type };
			return name;
		},
		set(conf, sid, opt, value) {
			const section = this.get(conf, sid);
			if (!section)
				return;
			if (value == null || value === '') {
				delete section[opt];
				(this.removed[sid] = this.removed[sid] || []).push(opt);
				if (this.changed[sid])
					delete this.changed[sid][opt];
			} else {
				section[opt] = value;
				(this.changed[sid] = this.changed[sid] || {})[opt] = value;
			}
		},
		unset(conf, sid, opt) {
			this.set(conf, sid, opt, null);
		},
		async save() {
			const conf = 'x402';
			for (const [name, s] of Object.entries(this.added))
				await call('uci', 'add', { config: conf, type: s['.type'], name, values: {} });
			for (const [section, options] of Object.entries(this.removed))
				await call('uci', 'delete', { config: conf, section, options });
			for (const [section, values] of Object.entries(this.changed))
				await call('uci', 'set', { config: conf, section, values });
			[this.changed, this.removed, this.added] = [{}, {}, {}];
			await this.load(conf);
		},
		apply: () => call('uci', 'apply', { timeout: 10, rollback: true }).then(() => call('uci', 'confirm', {}))
	},

	ui: {
		addNotification(title, children, ...classes) {
			const node = E('div', { class: 'alert-message ' + classes.join(' ') });
			if (title != null)
				append(node, E('h4', {}, title));
			append(node, children);
			document.getElementById('maincontent').prepend(node);
			return node;
		},
		showModal(title, children) {
			modules.ui.hideModal();
			document.body.appendChild(E('div', { id: 'modal_overlay' }, [append(E('div', { class: 'modal' }, E('h4', {}, title)), children)]));
		},
		hideModal() {
			document.querySelectorAll('#modal_overlay').forEach((n) => n.remove());
		},
		createHandlerFn: (self, fn, ...args) => (ev) => {
			const button = ev.currentTarget;
			button.disabled = true;
			Promise.resolve(fn.call(self, ...args, ev)).finally(() => { button.disabled = false; });
		}
	}
};

// load makes a module from its file, with what it requires.
async function load(name) {
	if (modules[name])
		return modules[name];
	const source = await (await fetch(name === 'form' ? '/luci-static/host/form.js' : '/luci-static/resources/' + name.replace(/\./g, '/') + '.js')).text();
	const names = [], values = [];
	for (const m of source.matchAll(/^'require ([\w.]+)(?: as (\w+))?';$/gm)) {
		names.push(m[2] || m[1]);
		values.push(await load(m[1]));
	}
	const made = new Function(...names, source + '\n//# sourceURL=' + name)(...values);
	return modules[name] = new made();
}

window.addEventListener('DOMContentLoaded', async () => {
	await load('form');
	const page = await load('view.' + L.env.view.replace('/', '.'));
	const node = append(document.getElementById('view'), [await page.render(await page.load())]);
	if (page.handleSaveApply)
		node.append(E('div', { class: 'cbi-page-actions' }, [
			E('button', { class: 'btn cbi-button-apply important', click: modules.ui.createHandlerFn(page, page.handleSaveApply) }, [_('Save & Apply')])
		]));
});
