import assert from "node:assert/strict";
import { test } from "node:test";

import { parse, stringify } from "../src/json.js";

test("integers that a number can't hold are a bigint, all else is as JSON.parse has it", () => {
  const text = String.raw`{
    "small": 9007199254740991, "over": 9007199254740992, "most": [9223372036854775807, -9223372036854775808],
    "float": 1234567890123456.5, "exponent": 1e300, "negative": -1, "zero": 0,
    "9223372036854775807": "9223372036854775807", "text": "n5", "quoted \" 9223372036854775807": "\\\" 9223372036854775807 \u0031",
    "s": "s", "": "", "literals": [true, false, null], "nested": {"deep": [{"n1": 18446744073709551615}]}
  }`;
  const expected = {
    ...(JSON.parse(text) as object),
    over: 9007199254740992n,
    most: [9223372036854775807n, -9223372036854775808n],
    nested: { deep: [{ n1: 18446744073709551615n }] },
  };
  assert.deepEqual(parse(text), expected);
});

test("a key that JavaScript has a meaning for is a key like others", () => {
  const value = parse('{"__proto__": {"polluted": 9223372036854775807}}') as object;
  assert.ok(Object.hasOwn(value, "__proto__"));
  assert.equal(({} as { polluted?: unknown }).polluted, undefined);
});

test("what is no JSON is refused", () => {
  for (const text of ["", "{", "9223372036854775807 1", '"9223372036854775807', "01234567890123456789", "<h1>"]) {
    assert.throws(() => parse(text), SyntaxError, text);
  }
});

test("long texts", () => {
  const long = JSON.stringify({ text: `\\"${"a\"".repeat(500_000)}`, most: 1 }).replace(/1\}$/, "9223372036854775807}");
  assert.equal((parse(long) as { most: unknown }).most, 9223372036854775807n);
});

test("what is written is read back", () => {
  const value = { most: 9223372036854775807n, list: [1, "two", null, true, { "a \"b\"": 0.5 }] };
  assert.deepEqual(parse(stringify(value)), value);
  assert.equal(stringify({ at: new Date(0), left: undefined }), '{"at":"1970-01-01T00:00:00.000Z"}');
});

test("what would not arrive as it is, is not written", () => {
  for (const wrong of [Number.NaN, Number.NEGATIVE_INFINITY, 2 ** 53, undefined, () => 1, Symbol("x")]) {
    assert.throws(() => stringify({ list: [wrong] }), TypeError);
  }
  assert.throws(() => stringify({ at: new Date(Number.NaN) }), RangeError);
});
