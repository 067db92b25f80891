// Where a database is: driftdb://WRITER,READER[,READER…][?OPTION=VALUE&…], or driftdbs:// with TLS.

import { readFileSync } from "node:fs";
import { isIP } from "node:net";
import { errors } from "./errors.js";
import { checkedTimeout } from "./pauses.js";

const [WRITER_PORT, READER_PORT] = [7401, 7402];
// The options by their names in an address.
const NAMES = {
  ca: "ca",
  cert: "cert",
  key: "key",
  server_name: "serverName",
  token_file: "tokenFile",
  time_zone: "timeZone",
  stale: "stale",
  retry_timeout: "retryTimeout",
  timeout: "timeout",
};
const KNOWN = new Set([...Object.values(NAMES), "token"]);
const invalid = (message) => new errors.ARGUMENT_INVALID(message);

/** The address in a text, and options that take precedence over those in the text. ARGUMENT_INVALID if it is wrong. */
export function parseAddress(url, options = {}) {
  const [, scheme, hosts, query] = /^([a-z]+):\/\/([^?]*)\??(.*)$/.exec(url) ?? [];
  if (scheme !== "driftdb" && scheme !== "driftdbs") throw invalid(`"${url}" is not an address: it must begin with driftdb:// or driftdbs://`);
  const { given, standby } = readOptions(query);
  const names = hosts.replace(/\/+$/, "").split(",").map((name) => name.trim());
  if (names.some((name) => !name)) throw invalid(`"${url}" is not an address: a host is missing; for example driftdb://writer:7401,reader:7402`);
  const writers = [names[0], ...standby].map((name) => host(name, WRITER_PORT));
  const readers = names.slice(1).map((name) => host(name, READER_PORT));
  if (names.length === 1 && !portOf(names[0])) readers.push(host(names[0], READER_PORT));
  const defaults = { stale: false, retryTimeout: 30, timeout: Infinity, timeZone: "" };
  const unknown = Object.keys(options).find((name) => !KNOWN.has(name));
  if (unknown) throw invalid(`there is no option ${unknown}; the options are ${[...KNOWN].join(", ")}`);
  // It takes precedence over the file in the address, too.
  if (options.token) delete given.tokenFile;
  return checked({ ...defaults, ...given, ...options, writers, readers, tls: scheme === "driftdbs" });
}

/** A token without the white space around it. The error for a bad one does not contain it. */
export function checkedToken(text) {
  const token = text.trim();
  if (!/^[!-~]+$/.test(token)) throw invalid("not a token: it must be one line of letters, digits and punctuation, and not be empty");
  return token;
}

/** Whether nobody else can read what is sent to an address: it is encrypted, or stays on this machine. */
export function isSafe(address, tls) {
  const name = address.replace(/:[0-9]+$/, "").replace(/^\[|\]$/g, "").toLowerCase();
  if (tls || name === "localhost") return true;
  if (isIP(name) === 4) return name.startsWith("127.");
  return isIP(name) === 6 && (/^(0*:)*0*1$/.test(name) || /^::ffff:127\./.test(name));
}

function readOptions(query) {
  const given = {};
  const standby = [];
  for (const pair of query.split("&").filter(Boolean)) {
    const [name, ...rest] = pair.split("=");
    const value = unescaped(rest.join("="));
    if (name === "standby") standby.push(value);
    else if (name === "token") throw invalid("a token is no part of an address, which others can see: use token_file, or the option token");
    else if (!Object.hasOwn(NAMES, name)) throw invalid(`an address has no option ${name}; its options are standby, ${Object.keys(NAMES).join(", ")}`);
    else if (NAMES[name] in given) throw invalid(`the address has the option ${name} twice`);
    else given[NAMES[name]] = typed(name, value);
  }
  return { given, standby };
}

function unescaped(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    throw invalid(`"${text}" has a % without two hexadecimal digits; a % itself is %25`);
  }
}

function typed(name, value) {
  if (name === "stale") {
    if (value !== "true" && value !== "false") throw invalid(`stale must be true or false; got ${value}`);
    return value === "true";
  }
  if (name !== "retry_timeout" && name !== "timeout") return value;
  if (!/^[0-9.]+$/.test(value) || !(Number(value) >= 0)) throw invalid(`${name} must be a number of seconds; got ${value}`);
  return Number(value);
}

function checked(address) {
  const { tls, ca, cert, key, serverName } = address;
  if (!tls && (ca || cert || key || serverName)) throw invalid("the options ca, cert, key and serverName need TLS: use driftdbs://");
  if (tls && !ca) throw invalid("driftdbs:// needs ca=FILE with the certificates of the CAs to trust, for example ca.pem of `driftctl cert new`");
  if (Boolean(cert) !== Boolean(key)) throw invalid("a certificate needs its key: give both cert=FILE and key=FILE");
  checkedTimeout(address.timeout);
  address.token = bearer(address);
  for (const name of address.token ? [...address.writers, ...address.readers] : []) {
    if (!isSafe(name, tls)) {
      throw invalid(`the token was not sent to ${name}: the connection is not encrypted, and leaves this machine; use driftdbs://`);
    }
  }
  return address;
}

function bearer({ token, tokenFile }) {
  if (!tokenFile) return token ? checkedToken(token) : "";
  try {
    return checkedToken(readFileSync(tokenFile, "utf8"));
  } catch (error) {
    if (error.code !== undefined && !error.reason) throw invalid(`cannot read the token file ${tokenFile}: ${error.code}`);
    throw error;
  }
}

// The port of a host, which can be an IPv6 address in brackets; empty if it has none.
const portOf = (name) => /:([^:\]]*)$/.exec(name.replace(/^\[.*\]/, ""))?.[1] ?? "";

function host(name, fallback) {
  const port = portOf(name);
  if (!port && !name.endsWith(":")) return `${name}:${fallback}`;
  if (!/^[0-9]+$/.test(port) || Number(port) < 1 || Number(port) > 65535) throw invalid(`"${name}" has no valid port: it must be from 1 to 65535`);
  return name;
}
