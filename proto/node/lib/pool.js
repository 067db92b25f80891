// Interchangeable daemons, and calls to each of them.

import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import grpc from "@grpc/grpc-js";
import { isSafe } from "./address.js";
import { ClientClosed, ConnectionLost, errors } from "./errors.js";
import { methods } from "./messages.js";
import { errorOf, late } from "./status.js";

// How long a daemon that failed or was behind is used only after the others, in milliseconds.
const ASIDE = 5_000;
const OPTIONS = {
  // A connection with open calls that is silent for this long gets a ping, and is broken if that is not answered in time.
  "grpc.keepalive_time_ms": 5_000,
  "grpc.keepalive_timeout_ms": 5_000,
  // The pauses after connecting failed.
  "grpc.initial_reconnect_backoff_ms": 50,
  "grpc.max_reconnect_backoff_ms": 500,
  // The limit of the daemons.
  "grpc.max_receive_message_length": 64 << 20,
  "grpc.max_send_message_length": 64 << 20,
  // A token for this machine must not pass through a proxy, and daemons are not behind one.
  "grpc.enable_http_proxy": 0,
  // A connection is not shared with other clients of the process, which may have other keepalive.
  "grpc.use_local_subchannel_pool": 1,
};

/** Whether a client is in use: what it has under way, and that it was closed. */
export class Lifetime {
  closed = false;
  #calls = new Set();

  /** A call is under way until it has a status. */
  begin(call) {
    this.#calls.add(call);
    call.on("status", () => this.#calls.delete(call));
  }

  /** Throws ClientClosed if nothing may be sent any more. */
  check() {
    if (this.closed) throw this.error();
  }

  /** What a call says that the end of the client has cut off. */
  error(writes = false) {
    if (writes) return new errors.OUTCOME_UNKNOWN("the client was closed before the answer, so the outcome of the write is unknown");
    return new ClientClosed("the client was closed");
  }

  /** Ends all calls. */
  end() {
    this.closed = true;
    for (const call of this.#calls) call.cancel();
  }
}

/** A daemon: its address, and a connection that is opened when it is first needed. */
export class Backend {
  #settings;
  #secrets;
  #client;
  #aside = 0;

  constructor(what, address, settings, secrets, lifetime) {
    this.what = what;
    this.address = address;
    this.lifetime = lifetime;
    this.#settings = settings;
    this.#secrets = secrets;
  }

  /** A call with one answer. `writes`: if the answer is lost, something may have been done. */
  unary(name, request, limit, writes = false) {
    const { signal, deadline } = limit;
    const { path, requestSerialize, responseDeserialize } = methods[name];
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      const [client, metadata] = [this.#connection(), this.#metadata()];
      const call = client.makeUnaryRequest(path, requestSerialize, responseDeserialize, request, metadata, { deadline }, (error, answer) => {
        signal?.removeEventListener("abort", abort);
        if (!error) resolve(answer);
        else reject(signal?.aborted ? signal.reason : this.#failureIn(limit, error, writes));
      });
      const abort = () => call.cancel();
      this.lifetime.begin(call);
      signal?.addEventListener("abort", abort, { once: true });
    });
  }

  /** A call with many answers. Without a request it also takes many. */
  stream(name, request, limit, writes = false) {
    limit.signal?.throwIfAborted();
    const { path, requestSerialize, responseDeserialize } = methods[name];
    const [client, metadata] = [this.#connection(), this.#metadata()];
    const call = request
      ? client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, request, metadata)
      : client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize, metadata);
    this.lifetime.begin(call);
    // A call that takes many is sent at the pace of its caller: each answer of it has the whole time.
    return new Answers(this, call, writes, limit, !request);
  }

  close() {
    this.#client?.close();
    this.#client = undefined;
  }

  /** Notes that the daemon failed or is behind, so that others are preferred for some seconds. */
  setAside() {
    this.#aside = Date.now() + ASIDE;
  }

  setHealthy() {
    this.#aside = 0;
  }

  get isAside() {
    return Date.now() < this.#aside;
  }

  failure(error, writes) {
    if (this.lifetime.closed && error.code === grpc.status.CANCELLED) return this.lifetime.error(writes);
    const failure = errorOf(error, this, writes);
    // The library would wait for a while before it tries again, and fail all calls meanwhile. A new connection is tried at once, and
    // reads the files again: the certificate may have been renewed. Calls on the old one continue.
    if (failure instanceof errors.TLS_FAILED || failure instanceof errors.UNREACHABLE) this.close();
    return failure;
  }

  /** As `failure`, of a call with a deadline: the daemon can end it a moment earlier. */
  #failureIn(limit, error, writes) {
    const failure = this.failure(error, writes);
    return failure instanceof ConnectionLost && limit.isOver ? late(this, writes) : failure;
  }

  #metadata() {
    const metadata = new grpc.Metadata();
    const { token } = this.#secrets;
    if (!token) return metadata;
    if (!isSafe(this.address, this.#settings.tls)) {
      throw new errors.ARGUMENT_INVALID(
        `the token was not sent to ${this.address}: the connection is not encrypted, and leaves this machine; use driftdbs://`,
      );
    }
    metadata.set("authorization", `Bearer ${token}`);
    return metadata;
  }

  #connection() {
    this.lifetime.check();
    const { serverName } = this.#settings;
    const name = serverName ? { "grpc.ssl_target_name_override": serverName, "grpc.default_authority": serverName } : {};
    this.#client ??= new grpc.Client(this.address, credentials(this.#settings), { ...OPTIONS, ...name });
    return this.#client;
  }
}

function credentials({ tls, ca, key, cert }) {
  if (!tls) return grpc.credentials.createInsecure();
  const pem = (path) => {
    if (!path) return null;
    try {
      return readFileSync(path);
    } catch (error) {
      throw new errors.TLS_FAILED(`cannot read "${path}": ${error.code}`);
    }
  };
  return grpc.credentials.createSsl(pem(ca), pem(key), pem(cert));
}

/** The answers of one call, with errors of this package. */
class Answers {
  #call;
  #answers;
  #writes;
  #signal;
  #limit;
  #begun;
  #abort;

  constructor(backend, call, writes, limit, begun) {
    this.backend = backend;
    this.#call = call;
    this.#answers = call[Symbol.asyncIterator]();
    this.#writes = writes;
    this.#limit = limit;
    this.#begun = begun;
    this.#signal = limit.signal;
    this.#abort = () => this.#call.cancel();
    this.#signal?.addEventListener("abort", this.#abort, { once: true });
    // A call that nobody reads any more must not end the process.
    call.on("error", () => {});
  }

  /**
   * The next message; undefined at the end. If none comes in the time that the call has, the error is that of `late`; if none comes
   * within `silence` milliseconds, it is ConnectionLost.
   */
  async read(silence) {
    const limit = silence ?? (this.#begun ? this.#limit.each : this.#limit.remaining);
    const timer = new AbortController();
    try {
      const next = this.#answers.next();
      const silent = limit === undefined ? [] : [sleep(limit, "silent", { signal: timer.signal, ref: silence === undefined })];
      const found = await Promise.race([next, ...silent]);
      if (found === "silent") {
        next.catch(() => {});
        this.cancel();
        if (silence === undefined) throw late(this.backend, this.#writes);
        const { what, address } = this.backend;
        throw new ConnectionLost(`the ${what} at ${address} has not responded for ${limit} ms`);
      }
      this.#begun = true;
      if (found.done) this.#detach();
      return found.value;
    } catch (error) {
      this.#detach();
      throw this.#signal?.aborted ? this.#signal.reason : this.backend.failure(error, this.#writes);
    } finally {
      timer.abort();
      // The timer was ended, not missed.
    }
  }

  /** Sends a message, if the call takes many. */
  send(message) {
    this.#call.write(message);
  }

  end() {
    this.#call.end();
  }

  cancel() {
    this.#detach();
    this.#call.cancel();
  }

  #detach() {
    this.#signal?.removeEventListener("abort", this.#abort);
  }
}

/** Interchangeable daemons. */
export class Pool {
  #first = 0;

  constructor(what, all) {
    this.what = what;
    this.all = all;
  }

  /** The daemon to use first, and its index. */
  inTurn() {
    if (!this.all.length) throw new errors.ARGUMENT_INVALID(`the address names no ${this.what}; for example driftdb://writer:7401,reader:7402`);
    const index = this.#first % this.all.length;
    return { index, backend: this.all[index] };
  }

  /** Makes the next daemon the first one, unless another call has already chosen one. */
  passOver(index) {
    if (this.#first % this.all.length === index) this.#first = index + 1;
  }

  /** All daemons, starting with the next one in turn; those set aside come last. */
  round() {
    const { index } = this.inTurn();
    this.#first = index + 1;
    const turned = [...this.all.slice(index), ...this.all.slice(0, index)];
    return turned.sort((one, other) => Number(one.isAside) - Number(other.isAside));
  }
}
