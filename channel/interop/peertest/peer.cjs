// Clients, servers and facilitators made of the unmodified npm packages, driven by
// a line of JSON a request on the standard input, each answered by a line of JSON.
// X402_MODULES is the folder in which the packages are installed.
"use strict";

const { createRequire } = require("node:module");
const readline = require("node:readline");

const use = createRequire(process.env.X402_MODULES + "/package.json");
const { wrapFetchWithPayment, x402Client } = use("@x402/fetch");
const { toClientEvmSigner, toFacilitatorEvmSigner } = use("@x402/evm");
const exactClient = use("@x402/evm/exact/client");
const exactServer = use("@x402/evm/exact/server");
const batchClient = use("@x402/evm/batch-settlement/client");
const batchServer = use("@x402/evm/batch-settlement/server");
const exactFacilitator = use("@x402/evm/exact/facilitator");
const batchFacilitator = use("@x402/evm/batch-settlement/facilitator");
const { x402Facilitator } = use("@x402/core/facilitator");
const { paymentMiddleware, setSettlementOverrides, x402ResourceServer } = use("@x402/express");
const { HTTPFacilitatorClient } = use("@x402/core/server");
const { decodePaymentRequiredHeader, decodePaymentResponseHeader } = use("@x402/core/http");
const { appendPaymentIdentifierToExtensions, isPaymentIdentifierExtension } = use("@x402/extensions/payment-identifier");
const { validateDiscoveryExtension, validateDiscoveryExtensionSpec } = use("@x402/extensions/bazaar");
const { createPublicClient, createWalletClient, http, nonceManager, publicActions } = use("viem");
const { generatePrivateKey, privateKeyToAccount } = use("viem/accounts");
const { baseSepolia } = use("viem/chains");
const express = use("express");

const clients = new Map();
const servers = new Map();

// answerOf tells what came of a request.
async function answerOf(response) {
	const settled = response.headers.get("PAYMENT-RESPONSE");
	const required = response.headers.get("PAYMENT-REQUIRED");
	return {
		status: response.status,
		body: await response.text(),
		settled: settled ? decodePaymentResponseHeader(settled) : undefined,
		required: required ? decodePaymentRequiredHeader(required) : undefined,
	};
}

// remembering is a fetch that keeps the last payment, so that it can be sent again as it was.
function remembering(state) {
	return async (input, init) => {
		const request = new Request(input, init);
		const payment = request.headers.get("PAYMENT-SIGNATURE");
		if (payment) state.payment = payment;
		return fetch(request);
	};
}

// authorizerOf is an account as the packages want one that signs for a receiver.
function authorizerOf(key) {
	const account = privateKeyToAccount(key);
	return { address: account.address, signTypedData: (message) => account.signTypedData(message) };
}

// listen serves an application on loopback.
async function listen(app) {
	const listener = await new Promise((resolve, reject) => {
		const l = app.listen(0, "127.0.0.1", (err) => (err ? reject(err) : resolve(l)));
	});
	return `http://127.0.0.1:${listener.address().port}`;
}

const operations = {
	// client makes a payer. With rpc it can look at the chain.
	client({ name, key, network, scheme, rpc, spendControls, identifier }) {
		const account = privateKeyToAccount(key);
		const reader = rpc ? createPublicClient({ transport: http(rpc) }) : undefined;
		const signer = toClientEvmSigner(account, reader);
		const state = { network, identifier };
		state.scheme = scheme === "exact"
			? new exactClient.ExactEvmScheme(signer)
			: new batchClient.BatchSettlementEvmScheme(signer, {});
		const client = x402Client.fromConfig({ schemes: [{ network, client: state.scheme }], spendControls: spendControls ?? undefined });
		if (identifier) {
			client.registerExtension({
				key: "payment-identifier",
				enrichPaymentPayload: async (payload) => {
					appendPaymentIdentifierToExtensions(payload.extensions, identifier);
					return payload;
				},
			});
		}
		state.fetch = wrapFetchWithPayment(remembering(state), client);
		clients.set(name, state);
		return {};
	},

	// get fetches a URL count times, one after the other.
	async get({ name, url, count }) {
		const answers = [];
		for (let i = 0; i < (count ?? 1); i++) {
			answers.push(await answerOf(await clients.get(name).fetch(url)));
		}
		return answers;
	},

	// post sends JSON to a URL.
	async post({ name, url, body }) {
		const headers = { "Content-Type": "application/json" };
		return answerOf(await clients.get(name).fetch(url, { method: "POST", headers, body: JSON.stringify(body) }));
	},

	// both fetches a URL twice at once.
	async both({ name, url }) {
		const one = clients.get(name).fetch(url), other = clients.get(name).fetch(url);
		return [await answerOf(await one), await answerOf(await other)];
	},

	// again sends the last payment once more, to any URL.
	async again({ name, url }) {
		return answerOf(await fetch(url, { headers: { "PAYMENT-SIGNATURE": clients.get(name).payment } }));
	},

	async refund({ name, url, amount }) {
		return clients.get(name).scheme.refund(url, amount ? { amount } : undefined);
	},

	// extensions checks what a server announces by their own rules.
	async extensions({ url }) {
		const { required } = await answerOf(await fetch(url));
		const bazaar = required.extensions.bazaar;
		return {
			identifier: isPaymentIdentifierExtension(required.extensions["payment-identifier"]),
			schema: validateDiscoveryExtension(bazaar),
			spec: validateDiscoveryExtensionSpec(bazaar),
		};
	},

	// serve makes a server that is paid through a facilitator.
	async serve({ name, facilitator, key, network, asset, payTo, price, charge, extra }) {
		const batch = new batchServer.BatchSettlementEvmScheme(payTo, {
			receiverAuthorizerSigner: authorizerOf(key),
			withdrawDelay: 86400,
		});
		const client = new HTTPFacilitatorClient({ url: facilitator });
		const resource = new x402ResourceServer(client)
			.register(network, batch)
			.register(network, new exactServer.ExactEvmScheme());
		const accepts = (scheme) => [{ scheme, network, payTo, price: { asset, amount: price, extra } }];
		const app = express();
		app.use(paymentMiddleware({
			"GET /batch": { accepts: accepts("batch-settlement"), description: "paid from a channel" },
			"POST /batch": { accepts: accepts("batch-settlement"), description: "paid from a channel" },
			"GET /exact": { accepts: accepts("exact"), description: "paid by a transfer" },
		}, resource));
		let served = 0;
		const handler = (req, res) => {
			if (charge) setSettlementOverrides(res, { amount: charge });
			res.json({ served: ++served });
		};
		app.get("/batch", handler);
		app.post("/batch", handler);
		app.get("/exact", (req, res) => res.json({ served: ++served }));
		const url = await listen(app);
		servers.set(name, { manager: batch.createChannelManager(client, network, asset), batch });
		return { url };
	},

	// facilitate makes a facilitator on the chain behind rpc, as their example does,
	// but one that does not wait four seconds for each receipt.
	async facilitate({ rpc, key }) {
		const account = privateKeyToAccount(key, { nonceManager });
		const chain = createWalletClient({
			account, chain: baseSepolia, transport: http(rpc), pollingInterval: 20,
		}).extend(publicActions);
		const signer = toFacilitatorEvmSigner({
			address: account.address,
			getCode: (args) => chain.getCode(args),
			readContract: (args) => chain.readContract({ ...args, args: args.args ?? [] }),
			verifyTypedData: (args) => chain.verifyTypedData(args),
			writeContract: (args) => chain.writeContract(args),
			sendTransaction: (args) => chain.sendTransaction(args),
			waitForTransactionReceipt: (args) => chain.waitForTransactionReceipt(args),
		});
		const facilitator = new x402Facilitator();
		const network = `eip155:${baseSepolia.id}`;
		facilitator.register(network, new batchFacilitator.BatchSettlementEvmScheme(signer, authorizerOf(generatePrivateKey())));
		facilitator.register(network, new exactFacilitator.ExactEvmScheme(signer));
		const app = express();
		app.use(express.json());
		const answer = (work) => async (req, res) => {
			try {
				res.json(await work(req.body));
			} catch (err) {
				res.status(500).json({ error: String(err.message ?? err) });
			}
		};
		app.post("/verify", answer((b) => facilitator.verify(b.paymentPayload, b.paymentRequirements)));
		app.post("/settle", answer((b) => facilitator.settle(b.paymentPayload, b.paymentRequirements)));
		app.get("/supported", answer(() => facilitator.getSupported()));
		return { url: await listen(app) };
	},

	// claim has a server claim what it is owed.
	async claim({ name }) {
		return servers.get(name).manager.claim();
	},

	// lose makes a server forget its channels.
	async lose({ name }) {
		const storage = servers.get(name).batch.getStorage();
		for (const channel of await storage.list()) await storage.updateChannel(channel.channelId, () => undefined);
		return {};
	},
};

async function main() {
	for await (const line of readline.createInterface({ input: process.stdin })) {
		const { op, ...args } = JSON.parse(line);
		let answer;
		try {
			answer = { result: await operations[op](args) };
		} catch (err) {
			answer = { error: String(err.cause?.message ?? err.message ?? err) };
		}
		process.stdout.write(JSON.stringify(answer) + "\n");
	}
	process.exit(0);
}

main();
