// Starts daemons on free ports for the programs in this directory, and stops them at the end.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

const running = new Set();
// A program that fails, or is stopped for taking too long, stops its daemons, too.
process.on("exit", () => running.forEach((child) => child.kill("SIGKILL")));
process.on("SIGTERM", () => process.exit(1));

async function start(directory, name, ...options) {
  const args = ["--data", join(directory, "data"), "--listen", "127.0.0.1:0", "--log", "error", ...options];
  const child = spawn(join(process.env.DRIFTDB_BIN, `driftdb-${name}`), args, { stdio: ["ignore", "pipe", "inherit"] });
  const ended = once(child, "exit");
  running.add(child);
  const [said] = await Promise.race([once(createInterface(child.stdout), "line"), ended]);
  const [, address] = /^listening on (.+)$/.exec(said) ?? [];
  if (!address) throw new Error(`${name} printed ${said} instead of its address`);
  const end = async (signal) => {
    child.kill(signal);
    await ended;
    running.delete(child);
  };
  // SIGKILL ends the daemon without a message. After SIGTERM it ends its streams with a reason.
  return { address, kill: () => end("SIGKILL"), stop: () => end("SIGTERM") };
}

// Runs a step with a writer, and readers on demand, on an empty directory.
export async function withDaemons(step, ...options) {
  const directory = mkdtempSync(join(tmpdir(), "driftdb-"));
  try {
    const daemon = (name, ...options) => start(directory, name, ...options);
    const holder = await daemon("writer", ...options);
    await step({ holder, writer: holder.address, start: daemon, reader: () => daemon("reader") });
  } finally {
    const ended = [...running].map((child) => once(child, "exit"));
    for (const child of running) child.kill("SIGKILL");
    await Promise.all(ended);
    running.clear();
    rmSync(directory, { recursive: true });
  }
}
