// Daemons for the programs beside it: on free ports, ended by the process that was started.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

const running = new Set();
// A program that fails, or is ended for taking too long, ends its daemons.
process.on("exit", () => running.forEach((child) => child.kill("SIGKILL")));
process.on("SIGTERM", () => process.exit(1));

async function start(directory, name, ...options) {
  const args = ["--data", join(directory, "data"), "--listen", "127.0.0.1:0", "--log", "error", ...options];
  const child = spawn(join(process.env.DRIFTDB_BIN, `driftdb-${name}`), args, { stdio: ["ignore", "pipe", "inherit"] });
  const ended = once(child, "exit");
  running.add(child);
  const [said] = await Promise.race([once(createInterface(child.stdout), "line"), ended]);
  const [, address] = /^listening on (.+)$/.exec(said) ?? [];
  if (!address) throw new Error(`${name} says ${said} instead of where it listens`);
  const end = async (signal) => {
    child.kill(signal);
    await ended;
    running.delete(child);
  };
  // What kill -9 does: nothing is said. What an operator does: streams are told to go on elsewhere.
  return { address, kill: () => end("SIGKILL"), stop: () => end("SIGTERM") };
}

// Runs a step with a writer, and readers as it needs them, on a directory of its own.
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
