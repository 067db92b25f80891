// Runs all JavaScript code of docs/node.md, in order, as a reader of the guide would. Run by run.sh.

import { readFileSync, writeFileSync } from "node:fs";
import { withDaemons } from "./daemons.mjs";

const guide = readFileSync("docs/node.md", "utf8");
const example = readFileSync("docs/examples/watch.mjs", "utf8");
const pieces = [...guide.matchAll(/^```js\n(.*?)^```$/gms)].map(([, piece]) => piece).filter((piece) => piece !== example);
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
console.log(`docs/node.md: ${pieces.length} pieces of JavaScript run`);
