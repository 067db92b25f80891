// Runs all JavaScript code of docs/node.md, in order, as a reader of the guide would. Run by run.sh.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { withDaemons } from "./daemons.mjs";

const guide = readFileSync("docs/node.md", "utf8");
const example = readFileSync("docs/examples/watch.mjs", "utf8");
const needsTls = (piece) => piece.includes("createSsl");
const allPieces = [...guide.matchAll(/^```js\n(.*?)^```$/gms)].map(([, piece]) => piece).filter((piece) => piece !== example);
const pieces = allPieces.filter((piece) => !needsTls(piece));
if (pieces.length < 6) throw new Error(`only ${pieces.length} pieces of JavaScript are found in the guide`);

await withDaemons(async (daemons) => {
  const [one, two] = [await daemons.reader(), await daemons.reader()];
  const addresses = { "127.0.0.1:7401": daemons.writer, "127.0.0.1:7402": one.address, "127.0.0.1:7403": two.address };
  // What the guide expects its reader to have: a table, and an error.
  const program = [
    `import { watch } from "./watch.mjs";`,
    pieces[0],
    `await new Promise((resolve) => writer.createTable({ table: "orders", primaryKey: "id" }, resolve));`,
    ...pieces.slice(1),
    `const wrong = await call(reader, "get", { table: "ordes", keys: ["o1"] }).catch((error) => error);`,
    `if (reasonOf(wrong) !== "TABLE_NOT_FOUND") throw wrong;`,
    `writer.close(); reader.close();`,
  ].join("\n");
  const replaced = Object.entries(addresses).reduce((text, [usual, address]) => text.replaceAll(usual, address), program);
  writeFileSync(new URL("./followed.mjs", import.meta.url), replaced);
  await import("./followed.mjs");
});

// The pieces about TLS, with daemons that ask for certificates.
const certs = mkdtempSync(join(tmpdir(), "driftdb-certs-"));
execFileSync(join(process.env.DRIFTDB_BIN, "driftctl"), ["cert", "new", certs]);
const pem = (name) => join(certs, name);
const options = ["--tls-cert", pem("server.pem"), "--tls-key", pem("server-key.pem"), "--tls-client-ca", pem("ca.pem")];
await withDaemons(async (daemons) => {
  const reader = await daemons.start("reader", ...options);
  const usual = { "127.0.0.1:7401": daemons.writer, "127.0.0.1:7402": reader.address, "certs/": `${certs}/` };
  const program = [
    pieces[0],
    ...allPieces.filter(needsTls),
    `for (const client of [secureWriter, secureReader]) {`,
    `  const status = await new Promise((resolve, reject) =>`,
    `    client.status({}, (error, answer) => (error ? reject(error) : resolve(answer))));`,
    `  if (!status.security.clientCertificates) throw new Error("the daemon asks for no certificate");`,
    `  client.close();`,
    `}`,
    `writer.close(); reader.close();`,
  ].join("\n");
  const replaced = Object.entries(usual).reduce((text, [from, to]) => text.replaceAll(from, to), program);
  writeFileSync(new URL("./followed-tls.mjs", import.meta.url), replaced);
  await import("./followed-tls.mjs");
}, ...options);
rmSync(certs, { recursive: true });
console.log(`docs/node.md: ${allPieces.length} pieces of JavaScript run`);
