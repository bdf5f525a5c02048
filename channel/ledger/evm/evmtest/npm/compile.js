// Compiles the contracts of a folder and prints their ABI and runtime code:
//   NODE_PATH=.../node_modules node compile.js FOLDER
// The same source gives the same output: paths and metadata are left out.
const fs = require("fs");
const path = require("path");
const solc = require("solc");

const folder = process.argv[2];
const sources = {};
for (const name of fs.readdirSync(folder).sort()) {
  sources[name] = { content: fs.readFileSync(path.join(folder, name), "utf8") };
}
const answer = JSON.parse(solc.compile(JSON.stringify({
  language: "Solidity",
  sources,
  settings: {
    evmVersion: "cancun",
    optimizer: { enabled: true, runs: 1000000 },
    metadata: { bytecodeHash: "none", appendCBOR: false },
    outputSelection: { "*": { "*": ["abi", "evm.deployedBytecode.object"] } },
  },
})));
const complaints = (answer.errors || []).filter((e) => e.errorCode !== "2394"); // that transient storage is new
if (complaints.length > 0) {
  console.error(complaints.map((e) => e.formattedMessage).join("\n"));
  process.exit(1);
}
const out = {};
for (const name of Object.keys(sources)) {
  const contract = answer.contracts[name][path.basename(name, ".sol")];
  if (contract.evm.deployedBytecode.object.length > 200) {
    out[path.basename(name, ".sol")] = { abi: contract.abi, runtime: "0x" + contract.evm.deployedBytecode.object };
  }
}
// One entry of an ABI a line, so that a change is seen as what it is.
const artifact = ({ abi, runtime }) =>
  `{\n\t\t"abi": [\n${abi.map((e) => "\t\t\t" + JSON.stringify(e)).join(",\n")}\n\t\t],\n\t\t"runtime": "${runtime}"\n\t}`;
console.log(`{\n${Object.keys(out).map((n) => `\t"${n}": ${artifact(out[n])}`).join(",\n")}\n}`);
