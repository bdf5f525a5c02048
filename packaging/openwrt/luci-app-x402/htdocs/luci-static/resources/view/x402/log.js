'use strict';
'require view';
'require poll';
'require x402.agent as agent';
'require x402.node as node';

const el = node.el;
const most = 500; // lines shown
const levels = ['DEBUG', 'INFO', 'WARN', 'ERROR'];

// level is the place of a line's own in levels. What is not the agent's, such as
// the service's words, counts as a warning, so that it is not filtered away.
function level(line) {
	const m = / level=(DEBUG|INFO|WARN|ERROR) /.exec(line);
	return m ? levels.indexOf(m[1]) : 2;
}

return view.extend({
	handleSaveApply: null,
	handleSave: null,
	handleReset: null,

	load: () => agent.log().catch((e) => e),

	show(lines) {
		if (lines instanceof Error) {
			node.fill(this.list, el('div', { class: 'x402-bad' }, lines.message));
			return;
		}
		this.lines = lines;
		const least = +this.least.value, words = this.words.value.toLowerCase();
		const fits = lines.filter((l) => level(l) >= least && l.toLowerCase().includes(words)).slice(-most).reverse();
		node.fill(this.list, fits.length
			? fits.map((l) => el('div', level(l) === 3 ? { class: 'x402-bad' } : {}, l.replace(/^.*? x402-agent(\[\d+\])?: (?=time=)/, '')))
			: el('em', {}, _('No lines')));
	},

	render(lines) {
		const again = () => this.show(this.lines || []);
		this.least = el('select', { class: 'cbi-input-select', 'aria-label': _('Level'), change: again },
			[_('Everything'), _('Information'), _('Warnings'), _('Errors')].map((name, i) => el('option', i === 1 ? { value: i, selected: '' } : { value: i }, name)));
		this.words = el('input', { type: 'text', class: 'cbi-input-text', placeholder: _('Search'), 'aria-label': _('Search'), input: again });
		this.list = el('div', { class: 'x402-log', id: 'x402-log' });
		this.show(lines);
		poll.add(() => agent.log().catch((e) => e).then((l) => this.show(l)), 5);
		return node.page([
			el('h2', {}, _('Log of the agent')),
			el('p', {}, _('The newest line is first. Numbers of SIMs are never in it.')),
			el('div', { class: 'x402-inline', style: 'margin-bottom:.5rem' }, [this.least, this.words]),
			this.list
		]);
	}
});
