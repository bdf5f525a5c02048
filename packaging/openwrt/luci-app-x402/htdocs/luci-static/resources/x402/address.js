'use strict';
'require baseclass';

// Addresses of Ethereum with their checksum (EIP-55), which is in the case of
// their letters and needs Keccak-256 (the one before SHA-3's padding).

const mask = (1n << 64n) - 1n;
const rotl = (x, n) => n ? ((x << BigInt(n)) | (x >> BigInt(64 - n))) & mask : x;

// constants are those of iota, by the LFSR of FIPS 202, section 3.2.5.
const constants = (() => {
	const all = [];
	let r = 1;
	for (let round = 0; round < 24; round++) {
		let c = 0n;
		for (let j = 0; j < 7; j++) {
			if (r & 1)
				c |= 1n << BigInt((1 << j) - 1);
			r = (r << 1) ^ (r & 0x80 ? 0x171 : 0);
		}
		all.push(c);
	}
	return all;
})();

// permute is Keccak-f[1600] on 25 lanes, lane x, y at x + 5y.
function permute(a) {
	for (const c of constants) {
		const column = [0, 1, 2, 3, 4].map((x) => a[x] ^ a[x + 5] ^ a[x + 10] ^ a[x + 15] ^ a[x + 20]);
		for (let i = 0; i < 25; i++)
			a[i] ^= column[(i + 4) % 5] ^ rotl(column[(i + 1) % 5], 1);
		const b = a.slice();
		let x = 1, y = 0, lane = a[1];
		for (let t = 0; t < 24; t++) {
			[x, y] = [y, (2 * x + 3 * y) % 5];
			b[x + 5 * y] = rotl(lane, ((t + 1) * (t + 2) / 2) % 64);
			lane = a[x + 5 * y];
		}
		b[0] = a[0];
		for (let i = 0; i < 25; i++) {
			const row = i - i % 5;
			a[i] = b[i] ^ (~b[row + (i + 1) % 5] & mask & b[row + (i + 2) % 5]);
		}
		a[0] ^= c;
	}
}

// keccak256 returns the hash, in hexadecimal, of ASCII text shorter than a block.
function keccak256(text) {
	const block = new Uint8Array(136);
	for (let i = 0; i < text.length; i++)
		block[i] = text.charCodeAt(i);
	block[text.length] ^= 0x01;
	block[135] ^= 0x80;
	const lanes = new Array(25).fill(0n);
	block.forEach((v, i) => { lanes[i >> 3] |= BigInt(v) << BigInt(8 * (i & 7)); });
	permute(lanes);
	let hex = '';
	for (let i = 0; i < 32; i++)
		hex += ((lanes[i >> 3] >> BigInt(8 * (i & 7))) & 255n).toString(16).padStart(2, '0');
	return hex;
}

// checksummed is the address as wallets write it.
function checksummed(text) {
	const lower = text.slice(2).toLowerCase();
	const hash = keccak256(lower);
	return '0x' + Array.from(lower, (ch, i) => parseInt(hash[i], 16) >= 8 ? ch.toUpperCase() : ch).join('');
}

return baseclass.extend({
	checksummed,

	// fault says what is wrong with an address: "form", "zero", "checksum", or
	// "bare" when it has none. It is null when nothing is.
	fault(text) {
		if (!/^0x[0-9a-fA-F]{40}$/.test(text))
			return 'form';
		if (/^0x0{40}$/.test(text))
			return 'zero';
		if (text === checksummed(text))
			return null;
		const hex = text.slice(2);
		return hex === hex.toLowerCase() || hex === hex.toUpperCase() ? 'bare' : 'checksum';
	}
});
