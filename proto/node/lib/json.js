// JSON with exact integers: those beyond 2^53 are bigint, in both directions.

import { errors } from "./errors.js";

const LONG_NUMBER = /[0-9]{16}/;
const NUMBER = /-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?/y;
const STRING = /"[^"\\]*(?:\\.[^"\\]*)*"/y;
const BLANK = /[ \t\n\r]*/y;

/** The value of a JSON text. Integers beyond Number.MAX_SAFE_INTEGER are bigint. */
export function parseJson(text) {
  // Only a text with a long run of digits can have such an integer.
  if (!LONG_NUMBER.test(text)) return JSON.parse(text);
  return new ExactParser(text).whole();
}

/** JSON text of a value; bigint is an integer. DOCUMENT_INVALID if JSON, or DriftDB, has no such value. */
export function toJson(value) {
  const text = encode(value);
  if (text === undefined) throw invalid(`${typeof value} has no counterpart in JSON`);
  return text;
}

function encode(value) {
  if (value !== null && typeof value === "object" && typeof value.toJSON === "function") value = value.toJSON();
  switch (typeof value) {
    case "bigint":
      return value.toString();
    case "number":
      if (!Number.isFinite(value)) throw invalid(`${value} has no counterpart in JSON`);
      return JSON.stringify(value);
    case "object":
      if (value === null) return "null";
      if (Array.isArray(value)) return `[${value.map((item) => encode(item) ?? "null").join(",")}]`;
      if (value instanceof Map || value instanceof Set) throw invalid("a Map or a Set has no counterpart in JSON");
      return `{${fields(value).join(",")}}`;
    default:
      return JSON.stringify(value);
  }
}

function* pairs(value) {
  for (const [name, field] of Object.entries(value)) {
    const text = encode(field);
    // As in JSON.stringify, a field without a value is left out.
    if (text !== undefined) yield `${JSON.stringify(name)}:${text}`;
  }
}

const fields = (value) => [...pairs(value)];
const invalid = (message) => new errors.DOCUMENT_INVALID(`cannot send a value as JSON: ${message}`);

class ExactParser {
  constructor(text) {
    this.text = text;
    this.at = 0;
  }

  whole() {
    const value = this.value();
    this.skip();
    if (this.at !== this.text.length) throw new SyntaxError(`unexpected text at ${this.at}`);
    return value;
  }

  skip() {
    BLANK.lastIndex = this.at;
    this.at += BLANK.exec(this.text)[0].length;
  }

  take(pattern) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (!found) throw new SyntaxError(`unexpected text at ${this.at}`);
    this.at += found[0].length;
    return found;
  }

  accept(character) {
    this.skip();
    if (this.text[this.at] !== character) return false;
    this.at++;
    return true;
  }

  expect(character) {
    if (!this.accept(character)) throw new SyntaxError(`expected ${character} at ${this.at}`);
  }

  value() {
    this.skip();
    const first = this.text[this.at];
    if (first === "{") return this.object();
    if (first === "[") return this.array();
    if (first === '"') return JSON.parse(this.take(STRING)[0]);
    for (const [word, value] of [["true", true], ["false", false], ["null", null]]) {
      if (this.text.startsWith(word, this.at)) {
        this.at += word.length;
        return value;
      }
    }
    const [text, fraction, exponent] = this.take(NUMBER);
    const number = Number(text);
    return fraction || exponent || Number.isSafeInteger(number) ? number : BigInt(text);
  }

  object() {
    const found = {};
    this.expect("{");
    if (this.accept("}")) return found;
    do {
      this.skip();
      const name = JSON.parse(this.take(STRING)[0]);
      this.expect(":");
      // Not by assignment, which gives `__proto__` a meaning.
      Object.defineProperty(found, name, { value: this.value(), enumerable: true, writable: true, configurable: true });
    } while (this.accept(","));
    this.expect("}");
    return found;
  }

  array() {
    const found = [];
    this.expect("[");
    if (this.accept("]")) return found;
    do found.push(this.value());
    while (this.accept(","));
    this.expect("]");
    return found;
  }
}
