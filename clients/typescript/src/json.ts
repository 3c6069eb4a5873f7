/**
 * JSON with integers of 64 bits: those beyond what a `number` holds exactly are a `bigint`.
 *
 * `JSON.parse` rounds them, and has told what was written (`context.source`) only since 2025 everywhere.
 */

/** A string, or a number with all that belongs to it. In valid JSON, what it finds first is what is there. */
const TOKENS = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

/** Integers with fewer digits are all exact. */
const MAYBE_LARGE = /\d{16}/;

export function parse(text: string): unknown {
  const plain: unknown = JSON.parse(text);
  if (!MAYBE_LARGE.test(text)) {
    return plain;
  }
  // All strings get a letter in front, so that those that stand for integers can't be mistaken for others.
  const tagged = text.replace(TOKENS, (token) => {
    if (token.startsWith('"')) {
      return `"s${token.slice(1)}`;
    }
    return /^-?\d+$/.test(token) && !Number.isSafeInteger(Number(token)) ? `"n${token}"` : token;
  });
  return untag(JSON.parse(tagged));
}

function untag(value: unknown): unknown {
  if (typeof value === "string") {
    return value.startsWith("n") ? BigInt(value.slice(1)) : value.slice(1);
  }
  if (Array.isArray(value)) {
    return value.map(untag);
  }
  if (typeof value === "object" && value !== null) {
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key.slice(1), untag(inner)]));
  }
  return value;
}

/**
 * Writes what `parse` reads.
 *
 * @throws TypeError for a number that isn't what it seems to be: `JSON.stringify` would make `null` of `NaN`, which is
 * "unlimited" here, and an integer beyond 2^53 has been rounded already.
 */
export function stringify(value: unknown): string {
  switch (typeof value) {
    case "bigint":
      return value.toString();
    case "number":
      if (!Number.isFinite(value) || (Number.isInteger(value) && !Number.isSafeInteger(value))) {
        throw new TypeError(`${value} is not exact: write integers beyond 2^53 - 1 as a bigint, such as 9223372036854775807n`);
      }
      return JSON.stringify(value);
    case "string":
    case "boolean":
      return JSON.stringify(value);
    case "object":
      break;
    default:
      throw new TypeError(`a ${typeof value} has no form in JSON`);
  }
  if (value === null) {
    return "null";
  }
  if (value instanceof Date) {
    return JSON.stringify(value.toISOString());
  }
  if (Array.isArray(value)) {
    return `[${value.map(stringify).join(",")}]`;
  }
  const fields = Object.entries(value).filter(([, inner]) => inner !== undefined);
  return `{${fields.map(([key, inner]) => `${JSON.stringify(key)}:${stringify(inner)}`).join(",")}}`;
}
