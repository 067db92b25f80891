// Parameters of conditions and statements: an array for `$1`, `$2`, …, or an object for `$name`.

import { errors } from "./errors.js";
import { toJson } from "./json.js";

// Text, names in backticks and comments are passed over; what begins with $ is a parameter.
// No group repeats over single characters: that would recurse for each of a long text.
const PIECES =
  /"[^"\\]*(?:\\.[^"\\]*)*"|'[^'\\]*(?:\\.[^'\\]*)*'|`[^`]*`|--[^\r\n]*|\/\*.*?\*\/|\$(?<name>[A-Za-z_][A-Za-z0-9_]*)|(?<position>\$[0-9]+)/gs;

/** A text whose parameters are numbers, and their values as JSON. ARGUMENT_INVALID if names and values do not agree. */
export function bind(text, params = []) {
  if (Array.isArray(params)) return { text, params: params.map(toJson) };
  const names = [];
  const bound = text.replace(PIECES, (piece, ...rest) => {
    const { name, position } = rest.at(-1);
    if (position !== undefined) {
      throw new errors.ARGUMENT_INVALID(`${position} has no value: give parameters by position or by name, not both`);
    }
    if (name === undefined) return piece;
    if (!Object.hasOwn(params, name)) throw new errors.ARGUMENT_INVALID(`the parameter $${name} has no value`);
    if (!names.includes(name)) names.push(name);
    return `$${names.indexOf(name) + 1}`;
  });
  const unused = Object.keys(params).find((name) => !names.includes(name));
  if (unused) throw new errors.ARGUMENT_INVALID(`no parameter $${unused} is in "${text}"`);
  return { text: bound, params: names.map((name) => toJson(params[name])) };
}
