'use strict';
'require baseclass';

// Amounts are in millionths of a USD, as decimal text, since a number cannot hold
// all of them; sizes are in bytes, as carriers count: 1 GB is 1,000,000,000.

const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];

function scaled(n, suffix) {
	let i = 0;
	for (n = Math.max(0, +n || 0); n >= 1000 && i < units.length - 1; i++)
		n /= 1000;
	// Cut, not rounded: what is left is never shown as more than it is.
	const text = i === 0 ? String(Math.floor(n)) : (Math.floor(n * 10) / 10).toFixed(1);
	return text + ' ' + (suffix || units)[i];
}

// locale is the page's language; LuCI has names that are not of the web's form.
function locale() {
	try {
		return Intl.getCanonicalLocales(document.documentElement.lang.replace(/_/g, '-'))[0];
	} catch (e) {
		return undefined; // the browser's own
	}
}

return baseclass.extend({
	// usd is an amount with two decimals at least, and more if it has them.
	usd(amount) {
		let n = BigInt(amount || 0);
		const sign = n < 0n ? '-' : '';
		n = n < 0n ? -n : n;
		const part = String(n % 1000000n).padStart(6, '0').replace(/0{1,4}$/, '');
		return sign + String(n / 1000000n) + '.' + part;
	},

	// atomic is the amount that a text such as "4.00" means, null if none.
	atomic(text) {
		const m = /^(\d{1,12})(?:\.(\d{1,6}))?$/.exec((text || '').trim());
		return m ? BigInt(m[1]) * 1000000n + BigInt((m[2] || '').padEnd(6, '0')) : null;
	},

	size: (bytes) => scaled(bytes),

	rate: (bytesPerSecond) => scaled(8 * bytesPerSecond, ['bit/s', 'kbit/s', 'Mbit/s', 'Gbit/s', 'Tbit/s', 'Pbit/s']),

	// bytes is the size that a text such as "12.5 GB" or "300 MB" means, null if none.
	bytes(text) {
		const m = /^(\d{1,6}(?:\.\d{1,3})?) ?([MGT]B)$/i.exec((text || '').trim());
		return m ? Math.round(+m[1] * { MB: 1e6, GB: 1e9, TB: 1e12 }[m[2].toUpperCase()]) : null;
	},

	day: (unix) => new Date(unix * 1000).toLocaleDateString(locale(), { day: 'numeric', month: 'short', year: 'numeric' }),

	// short is an address or hash by its ends.
	short: (hex) => hex.length > 14 ? hex.slice(0, 8) + '…' + hex.slice(-4) : hex
});
