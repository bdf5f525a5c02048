'use strict';
'require baseclass';
'require uci';

// Forms on settings, as the app uses them: named sections whose options have a
// title, a help, a placeholder and a check. A list is a field with a line for each.

class Option {
	constructor(section, name, title, hint) {
		Object.assign(this, { section, name, title, hint });
	}

	read(value) { return value == null ? '' : value; }
	write(text) { return text.trim(); }
	values() { return [this.write(this.input.value)].filter((v) => v !== ''); }

	make() {
		return E('input', { type: 'text', value: this.read(uci.get('x402', this.section.name, this.name)), placeholder: this.placeholder || '' });
	}

	render() {
		this.input = this.make();
		this.wrong = E('div', { class: 'cbi-value-error' });
		return E('div', { class: 'cbi-value', 'data-name': this.name }, [
			E('label', { class: 'cbi-value-title' }, [this.title]),
			E('div', { class: 'cbi-value-field' }, [this.input, E('div', { class: 'cbi-value-description' }, [this.hint || '']), this.wrong])
		]);
	}

	save() {
		for (const v of this.values()) {
			const said = this.validate ? this.validate(this.section.name, v) : true;
			if (said !== true) {
				this.wrong.textContent = said;
				throw new Error(said);
			}
		}
		this.wrong.textContent = '';
		uci.set('x402', this.section.name, this.name, this.result());
	}

	result() { return this.values()[0]; }
}

class List extends Option {
	make() {
		return E('textarea', { placeholder: this.placeholder || '' }, [[].concat(uci.get('x402', this.section.name, this.name) || []).join('\n')]);
	}

	values() { return this.input.value.split('\n').map((v) => v.trim()).filter((v) => v); }

	result() {
		const all = this.values();
		return all.length ? all : null;
	}
}

class Flag extends Option {
	make() {
		const box = E('input', { type: 'checkbox' });
		box.checked = uci.get('x402', this.section.name, this.name) === '1';
		return box;
	}

	values() { return this.input.checked ? ['1'] : []; }
}

class Section {
	constructor(name, type, title, hint) {
		Object.assign(this, { name, type, title, hint, options: [] });
	}

	option(kind, ...args) {
		const o = new kind(this, ...args);
		this.options.push(o);
		return o;
	}

	render() {
		return E('div', { class: 'cbi-section', id: 'cbi-x402-' + this.name }, [E('h3', {}, [this.title]), E('p', {}, [this.hint || ''])].concat(this.options.map((o) => o.render())));
	}
}

class Map {
	constructor(conf, title, hint) {
		Object.assign(this, { conf, title, hint, sections: [] });
	}

	section(kind, ...args) {
		const s = new kind(...args);
		this.sections.push(s);
		return s;
	}

	async save() {
		this.sections.flatMap((s) => s.options).forEach((o) => o.save());
		await uci.save();
	}

	render() {
		const node = E('div', { class: 'cbi-map' }, [E('h2', {}, [this.title]), E('p', {}, [this.hint])].concat(this.sections.map((s) => s.render())));
		node.map = this;
		return node;
	}
}

return baseclass.extend({ Map, NamedSection: Section, Value: Option, DynamicList: List, Flag });
