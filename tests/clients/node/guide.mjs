// Runs what the guides show: the JavaScript of docs/node.md, in order, as a reader would, and the programs in docs/examples.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { connect } from "driftdb";
import { Cluster } from "./cluster.mjs";

const [guidePath, examples] = process.argv.slice(2);
// Programs are written beside this one, where they find the package.
const here = (name) => new URL(`./${name}`, import.meta.url);
const guide = readFileSync(guidePath, "utf8");
const pieces = [...guide.matchAll(/^```js\n(.*?)^```$/gms)].map(([, piece]) => piece);
const needsTls = (piece) => piece.includes("driftdbs://");
const read = (name) => readFileSync(`${examples}/${name}`, "utf8");

// A text with the addresses of real daemons in place of the usual ones.
function withAddresses(text, { writer, readers }) {
  const usual = ["127.0.0.1:7401", "127.0.0.1:7402", "127.0.0.1:7403"];
  return [writer, ...readers].reduce((replaced, { address }, at) => replaced.replaceAll(usual[at], address), text);
}

async function run(name, cluster, lines) {
  writeFileSync(here(name), withAddresses(lines.join("\n"), cluster));
  await import(here(name));
}

async function runGuide() {
  const cluster = await Cluster.start();
  const chosen = pieces.filter((piece) => !needsTls(piece));
  const checks = [
    `import assert from "node:assert/strict";`,
    `assert.deepEqual(seen.slice(0, 3).map((change) => change[2]), ["o1", "o1", "n50"]);`,
    `db.close();`,
  ];
  await run("followed.mjs", cluster, [...chosen, ...checks]);
  await cluster.close();
  return chosen.length;
}

async function runWithTls() {
  const cluster = await Cluster.start({ tls: true });
  const chosen = pieces.filter(needsTls).map((piece) => piece.replaceAll("certs/", `${cluster.path("certs")}/`));
  const checks = [
    `import { connect, errors } from "driftdb";`,
    // It has arrived.
    `await secure.tables().then(() => { throw new Error("the daemons serve everyone"); }, (error) => { if (!(error instanceof errors.UNAUTHENTICATED)) throw error; });`,
    `secure.close();`,
  ];
  await run("followed_tls.mjs", cluster, [...checks.slice(0, 1), ...chosen, ...checks.slice(1)]);
  await cluster.close();
  return chosen.length;
}

// A program of docs/examples while it runs.
function start(name, cluster, env = {}) {
  writeFileSync(here(`example_${name}`), withAddresses(read(name), cluster));
  const child = spawn(process.execPath, [here(`example_${name}`).pathname], { env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "inherit"] });
  process.on("exit", () => child.kill());
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  const take = async (count) => {
    const said = [];
    while (said.length < count) said.push((await lines.next()).value);
    return said;
  };
  return { take, end: () => child.kill() };
}

// Runs the program of the README, and kills the reader that its watch uses, whichever that is.
async function runQuickstart() {
  assert.ok(read("quickstart.mjs").trimEnd().split("\n").length <= 15, "the quick start is too long");
  const cluster = await Cluster.start();
  const db = connect(cluster.url());
  const program = start("quickstart.mjs", cluster);
  const said = await program.take(3);
  const orders = db.table("orders");
  await cluster.readers[0].kill();
  await orders.put({ id: "o2", amount: 75 });
  said.push(...(await program.take(1)));
  await cluster.readers[0].start();
  await cluster.readers[1].kill();
  await orders.put({ id: "o3", amount: 1 });
  await orders.put({ id: "o4", amount: 76 });
  await orders.delete("o2");
  said.push(...(await program.take(2)));
  program.end();
  db.close();
  await cluster.close();
  assert.deepEqual(said, [
    "{ id: 'o1', status: 'paid', amount: 100 } was { id: 'o1', status: 'pending', amount: 100 }",
    "2 insert o1 { id: 'o1', status: 'pending', amount: 100 }",
    "3 patch o1 { id: 'o1', status: 'paid', amount: 100 }",
    "4 insert o2 { id: 'o2', amount: 75 }",
    "6 insert o4 { id: 'o4', amount: 76 }",
    "7 delete o2 undefined",
  ]);
}

// Runs docs/examples/watch.mjs, and kills its readers in turn.
async function runCopy() {
  const cluster = await Cluster.start();
  const db = connect(cluster.url());
  const orders = await db.createTable("orders");
  const put = (...ids) => db.commit((commit) => ids.forEach((id) => commit.put("orders", { id })));
  await put("o1", "o2");
  const readers = cluster.readers.map(({ address }) => address).join(",");
  const program = start("watch.mjs", cluster, { DRIFTDB_WRITER: cluster.writer.address, DRIFTDB_READER: readers });
  const said = await program.take(1);
  await put("o3", "o4", "o5");
  said.push(...(await program.take(1)));
  await cluster.readers[0].kill();
  await orders.delete("o1");
  said.push(...(await program.take(1)));
  await cluster.readers[0].start();
  await cluster.readers[1].kill();
  await db.dropTable("orders");
  said.push(...(await program.take(1)));
  program.end();
  db.close();
  await cluster.close();
  const expected = [[2, 2], [3, 5], [4, 4], [5, 0]];
  assert.deepEqual(said, expected.map(([seq, count]) => `as of commit ${seq}: ${count} orders`));
}

const count = (await runWithTls()) + (await runGuide());
assert.ok(count >= 8, `only ${count} pieces of JavaScript are found in the guide`);
await runQuickstart();
await runCopy();
console.log(`${guidePath}: ${count} pieces of JavaScript run, and the examples`);
process.exit(0);
