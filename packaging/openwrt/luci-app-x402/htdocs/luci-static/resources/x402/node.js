'use strict';
'require baseclass';

// Elements whose texts are texts. LuCI's E takes a lone text for HTML, and much of
// what is shown comes from outside: names of networks, of relays, of buyers. The
// views make elements by these functions only.

const some = (children) => (children == null ? [] : [].concat(children));

return baseclass.extend({
	el: (tag, attrs, children) => E(tag, attrs || {}, some(children)),

	svg(tag, attrs, children) {
		const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
		for (const name in attrs)
			node.setAttribute(name, attrs[name]);
		node.append(...some(children));
		return node;
	},

	// fill replaces what is in an element.
	fill(node, children) {
		node.replaceChildren(...some(children).filter((c) => c != null && c !== ''));
	},

	// page is a whole view: its parts, and the style sheet.
	page(parts) {
		return E('div', { class: 'x402' }, [E('link', { rel: 'stylesheet', href: L.resource('x402/x402.css') })].concat(parts));
	}
});
