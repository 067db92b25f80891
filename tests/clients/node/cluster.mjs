// Real daemons for one scenario of conformance.json: a writer, readers, and what makes them fail.

import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

const program = (name) => join(process.env.DRIFTDB_BIN, name);
const running = new Set();
// A program that fails, or is stopped for taking too long, stops its daemons, too.
process.on("exit", () => running.forEach((child) => child.kill("SIGKILL")));
process.on("SIGTERM", () => process.exit(1));

// A daemon on a port of its own, which it has again when it is started again.
class Daemon {
  address = "127.0.0.1:0";
  #args;
  #child;

  constructor(name, data, options) {
    this.name = name;
    this.#args = ["--data", data, "--log", "error", ...options];
  }

  async start() {
    const child = spawn(program(`driftdb-${this.name}`), [...this.#args, "--listen", this.address], { stdio: ["ignore", "pipe", "inherit"] });
    this.#child = child;
    running.add(child);
    const [said] = await Promise.race([once(createInterface(child.stdout), "line"), once(child, "exit")]);
    const [, address] = /^listening on (.+)$/.exec(said) ?? [];
    if (!address) throw new Error(`${this.name} printed ${said} instead of its address`);
    this.address = address;
    return this;
  }

  /** Stops the process with its connections open: it says nothing any more. */
  async freeze() {
    this.#child.kill("SIGSTOP");
    while (!/\) T /.test(readFileSync(`/proc/${this.#child.pid}/stat`, "utf8"))) await sleep(5);
  }

  thaw() {
    this.#child.kill("SIGCONT");
  }

  async kill() {
    if (!running.delete(this.#child)) return;
    const ended = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await ended;
  }
}

// Passes a connection on. If it is armed, it keeps the next answer back for a while, and then breaks the connection.
class Proxy {
  armed = false;
  #server;

  constructor(target) {
    const port = Number(target.split(":")[1]);
    this.#server = createServer((client) => {
      const daemon = connect(port, "127.0.0.1");
      let isLost = false;
      const end = () => [client, daemon].forEach((socket) => socket.destroy());
      client.on("data", (data) => {
        daemon.write(data);
        if (!this.armed) return;
        // From here on nothing comes back. The request arrives, and has time to be done.
        this.armed = false;
        isLost = true;
        setTimeout(end, 500);
      });
      daemon.on("data", (data) => isLost || client.write(data));
      for (const socket of [client, daemon]) socket.on("close", end).on("error", end);
    });
  }

  async listen() {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    this.address = `127.0.0.1:${this.#server.address().port}`;
    return this;
  }

  close() {
    this.#server.close();
  }
}

// The daemons of a scenario. All of them are killed at the end.
export class Cluster {
  tokens = {};
  readers = [];
  #directory = mkdtempSync(join(tmpdir(), "driftdb-"));
  #options = {};
  #starting = [];

  static async start(options = {}) {
    const cluster = new Cluster();
    const { readers = 2, tls = false, tokens = {}, proxy = false, poll_interval: poll } = options;
    cluster.#options = { tls };
    const secure = tls ? cluster.#secure(tokens) : [];
    const data = cluster.path("data");
    cluster.writer = await new Daemon("writer", data, secure).start();
    const slow = poll ? ["--follow", "poll", "--poll-interval", poll] : [];
    for (let count = 0; count < readers; count++) cluster.readers.push(await new Daemon("reader", data, [...secure, ...slow]).start());
    if (proxy) cluster.proxy = await new Proxy(cluster.writer.address).listen();
    return cluster;
  }

  path(name) {
    return join(this.#directory, name);
  }

  #secure(tokens) {
    for (const name of ["certs", "other"]) execFileSync(program("driftctl"), ["cert", "new", this.path(name)], { stdio: "ignore" });
    let rules = "";
    for (const [name, grants] of Object.entries(tokens)) {
      const file = this.path(`${name}.token`);
      rules += execFileSync(program("driftctl"), ["token", "new", name, ...grants, "--out", file], { stdio: ["ignore", "pipe", "ignore"] });
      this.tokens[name] = readFileSync(file, "utf8");
    }
    writeFileSync(this.path("auth.toml"), rules);
    const [cert, key] = ["server.pem", "server-key.pem"].map((name) => join(this.path("certs"), name));
    return ["--tls-cert", cert, "--tls-key", key, "--auth-file", this.path("auth.toml")];
  }

  url({ tls = this.#options.tls, ca = "certs" } = {}) {
    const hosts = [this.proxy ?? this.writer, ...this.readers].map(({ address }) => address).join(",");
    return tls ? `driftdbs://${hosts}?ca=${this.path(ca)}/ca.pem` : `driftdb://${hosts}`;
  }

  startWriterAfter(millis) {
    this.#starting.push(sleep(millis).then(() => this.writer.start()));
  }

  async close() {
    await Promise.all(this.#starting);
    this.proxy?.close();
    for (const daemon of [...this.readers, this.writer]) await daemon.kill();
    rmSync(this.#directory, { recursive: true });
  }
}
