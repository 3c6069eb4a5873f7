/** One call over HTTP: time-out, retries, and what is made of the answer. */

import { ApiError, errorOf, excerpt, QuotaError, TimedOut, UnexpectedAnswer, Unreachable } from "./errors.js";
import { parse, stringify } from "./json.js";

export interface ClientOptions {
  /** Where the API is mounted, such as `https://example.com/api`. */
  readonly baseUrl: string;
  /** Sent as `Authorization: Bearer …`, to `baseUrl` alone. */
  readonly token?: string;
  /** The longest that a call may take, in milliseconds, with its retries and pauses; 10 000 if left out. */
  readonly timeout?: number;
  /** How often a `GET` is tried again, after a broken connection or a 503 with `Retry-After`; 2 if left out. */
  readonly retries?: number;
  /** The largest answer that is read, in bytes; 8 MiB if left out. What is streamed has no bound. */
  readonly maxBody?: number;
  /** In place of the global `fetch`. */
  readonly fetch?: typeof fetch;
}

export interface CallOptions {
  /** Ends the call. It then throws the signal's reason. */
  readonly signal?: AbortSignal;
  /** In place of the client's. */
  readonly timeout?: number;
}

export interface ChangeOptions extends CallOptions {
  /** The `etag` of what was read before: if somebody has changed it since, the call throws `PreconditionFailed`. */
  readonly ifMatch?: string;
}

export type Query = Readonly<Record<string, string | number | boolean | Date | undefined>>;

export interface Call {
  readonly method: "GET" | "PUT" | "POST" | "DELETE";
  /** Its segments, not encoded yet. */
  readonly path: readonly string[];
  readonly query?: Query;
  readonly body?: object;
  readonly accept?: string;
}

export interface Answer {
  /** Its fields. */
  readonly body: Record<string, unknown>;
  readonly etag: string;
}

export const MAX_BODY = 8 * 1024 * 1024;
/** The longest pause before a retry where the server names none, in milliseconds; it doubles from the first of them. */
const FIRST_PAUSE = 100;
/** The longest that `setTimeout` takes. */
const MAX_TIMEOUT = 2 ** 31 - 1;

export class Transport {
  readonly #base: string;
  readonly #headers: Readonly<Record<string, string>>;
  readonly #timeout: number;
  readonly #retries: number;
  readonly #maxBody: number;
  readonly #fetch: typeof fetch;

  constructor(options: ClientOptions) {
    this.#base = base(options.baseUrl);
    this.#headers = options.token === undefined ? {} : { authorization: `Bearer ${checkedToken(options.token)}` };
    this.#timeout = positive("timeout", options.timeout ?? 10_000);
    this.#maxBody = positive("maxBody", options.maxBody ?? MAX_BODY);
    this.#retries = options.retries ?? 2;
    if (!Number.isInteger(this.#retries) || this.#retries < 0) {
      throw new TypeError("`retries` is an integer of 0 or more");
    }
    const given = options.fetch;
    // Browsers want their `fetch` called as a function of the window, not as a method.
    this.#fetch = given === undefined ? (input, init) => fetch(input, init) : (input, init) => given(input, init);
  }

  /** The answer's JSON object. */
  async json(call: Call, options: ChangeOptions = {}): Promise<Answer> {
    return this.#call(call, options, async (response) => {
      const text = await readText(response, this.#maxBody);
      return { body: fieldsOf(response, text), etag: response.headers.get("etag") ?? "" };
    });
  }

  /** The answer's text. */
  async text(call: Call, options: CallOptions = {}): Promise<string> {
    return this.#call(call, options, (response) => readText(response, this.#maxBody));
  }

  /** The answer in pieces, each of which comes within the time-out. */
  async *stream(call: Call, options: CallOptions = {}): AsyncGenerator<Uint8Array, void, undefined> {
    const { url, init } = this.#request(call, options);
    const watch = new Watch(this.#timeoutOf(options), options.signal);
    try {
      const response = await this.#tries(url, init, watch, async (begun) => begun);
      const reader = response.body?.getReader();
      try {
        while (reader !== undefined) {
          watch.restart();
          const { done, value } = await reader.read().catch((error: unknown) => this.#fail(error, url, watch));
          // How long the caller takes with it is the caller's affair.
          watch.hold();
          if (done) {
            return;
          }
          yield value;
        }
      } finally {
        // Who has enough of it doesn't leave the connection behind.
        reader?.cancel().catch(() => {});
      }
    } finally {
      watch.stop();
    }
  }

  async #call<T>(call: Call, options: ChangeOptions, read: (response: Response) => Promise<T>): Promise<T> {
    const { url, init } = this.#request(call, options);
    const watch = new Watch(this.#timeoutOf(options), options.signal);
    try {
      return await this.#tries(url, init, watch, read);
    } finally {
      watch.stop();
    }
  }

  #timeoutOf({ timeout }: CallOptions): number {
    return timeout === undefined ? this.#timeout : positive("timeout", timeout);
  }

  async #tries<T>(url: string, init: RequestInit, watch: Watch, read: (response: Response) => Promise<T>): Promise<T> {
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await this.#attempt(url, init, watch, read);
      } catch (error) {
        // All but a GET may have changed something. A PUT with `If-Match` can't be made twice, but if its answer was lost,
        // its retry would be answered 412, as though somebody else had been there.
        const pause = init.method === "GET" && attempt < this.#retries ? pauseAfter(error, attempt) : undefined;
        if (pause === undefined || pause >= watch.left()) {
          throw error;
        }
        await watch.pause(pause);
      }
    }
  }

  async #attempt<T>(url: string, init: RequestInit, watch: Watch, read: (response: Response) => Promise<T>): Promise<T> {
    try {
      const response = await this.#fetch(url, { ...init, signal: watch.signal });
      if (response.type === "opaqueredirect" || (response.status >= 300 && response.status < 400)) {
        response.body?.cancel().catch(() => {});
        const to = response.headers.get("location");
        throw new UnexpectedAnswer(
          `the answer is a redirect${to === null ? "" : ` to ${excerpt(to)}`}, which is not followed, since the token would ` +
            "go along: set `baseUrl` to where the API is",
          response.status,
        );
      }
      if (!response.ok) {
        throw errorOf(response.status, response.headers, await readText(response, this.#maxBody));
      }
      return await read(response);
    } catch (error) {
      return this.#fail(error, url, watch);
    }
  }

  #fail(error: unknown, url: string, watch: Watch): never {
    watch.rethrow();
    if (error instanceof QuotaError) {
      throw error;
    }
    throw new Unreachable(`no answer from ${new URL(url).origin}: ${reasonOf(error)}`, { cause: error });
  }

  #request({ method, path, query, body, accept }: Call, { ifMatch }: ChangeOptions): { url: string; init: RequestInit } {
    const url = new URL(`${this.#base}/${path.map(segment).join("/")}`);
    for (const [name, value] of Object.entries(query ?? {})) {
      if (value !== undefined) {
        url.searchParams.set(name, value instanceof Date ? value.toISOString() : String(value));
      }
    }
    const headers: Record<string, string> = { accept: accept ?? "application/json", ...this.#headers };
    if (body !== undefined) {
      headers["content-type"] = "application/json";
    }
    if (ifMatch !== undefined) {
      headers["if-match"] = ifMatch;
    }
    const init: RequestInit = { method, headers, redirect: "manual", credentials: "omit", cache: "no-store" };
    return { url: url.href, init: body === undefined ? init : { ...init, body: stringify(body) } };
  }
}

/**
 * Ends a call at its time-out, or when the caller wants. `AbortSignal.any` would do the same, but for some versions of
 * Node that collect such signals while they are needed.
 */
class Watch {
  readonly #controller = new AbortController();
  readonly #caller: AbortSignal | undefined;
  readonly #abort = (): void => this.#controller.abort();
  readonly #timeout: number;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #end = 0;
  #timedOut = false;

  constructor(timeout: number, caller: AbortSignal | undefined) {
    this.#timeout = timeout;
    this.#caller = caller;
    this.restart();
    caller?.addEventListener("abort", this.#abort);
    if (caller?.aborted === true) {
      this.#abort();
    }
  }

  /** From now on, there is all of the time again. */
  restart(): void {
    clearTimeout(this.#timer);
    this.#end = Date.now() + this.#timeout;
    this.#timer = setTimeout(() => {
      this.#timedOut = true;
      this.#abort();
    }, Math.min(this.#timeout, MAX_TIMEOUT));
  }

  /** From now on, time doesn't count. */
  hold(): void {
    clearTimeout(this.#timer);
  }

  left(): number {
    return this.#end - Date.now();
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Throws what has ended the call, if something has. */
  rethrow(): void {
    this.#caller?.throwIfAborted();
    if (this.#timedOut) {
      throw new TimedOut(`no answer within ${this.#timeout} ms`);
    }
  }

  async pause(milliseconds: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.signal.addEventListener(
        "abort",
        () => {
          clearTimeout(timer);
          resolve();
        },
        { once: true },
      );
    });
    this.rethrow();
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#caller?.removeEventListener("abort", this.#abort);
  }
}

/** How long to wait before the next try, in milliseconds; nothing where it would not help. */
function pauseAfter(error: unknown, attempt: number): number | undefined {
  // Not all at once: who was cut off together would come back together.
  const jittered = FIRST_PAUSE * 2 ** attempt * (0.5 + Math.random() / 2);
  if (error instanceof Unreachable) {
    return jittered;
  }
  if ((error instanceof ApiError || error instanceof UnexpectedAnswer) && error.status === 503) {
    return error.retryAfter === undefined ? undefined : error.retryAfter * 1000 + jittered;
  }
  return undefined;
}

/** Reads a body up to a size. */
export async function readText(response: Response, most: number): Promise<string> {
  const reader = response.body?.getReader();
  if (reader === undefined) {
    return "";
  }
  const decoder = new TextDecoder();
  let text = "";
  let size = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) {
      return text + decoder.decode();
    }
    size += value.byteLength;
    if (size > most) {
      reader.cancel().catch(() => {});
      throw new UnexpectedAnswer(`the answer has more than ${most} bytes: ask for less, or set \`maxBody\``, response.status);
    }
    text += decoder.decode(value, { stream: true });
  }
}

function fieldsOf(response: Response, text: string): Record<string, unknown> {
  try {
    const value = parse(text);
    if (typeof value === "object" && value !== null && !Array.isArray(value)) {
      return { ...value };
    }
  } catch (error) {
    // A `RangeError` is one that is nested too deeply.
    if (!(error instanceof SyntaxError || error instanceof RangeError)) {
      throw error;
    }
  }
  const kind = response.headers.get("content-type") ?? "no content type";
  throw new UnexpectedAnswer(`the answer is no JSON object: status ${response.status}, ${kind}: ${excerpt(text)}`, response.status);
}

function base(text: string): string {
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    throw new TypeError("`baseUrl` is a URL such as https://example.com/api");
  }
  const plain = url.username === "" && url.password === "" && url.search === "" && url.hash === "";
  if ((url.protocol !== "https:" && url.protocol !== "http:") || !plain) {
    throw new TypeError("`baseUrl` is an http or https URL such as https://example.com/api, without user, query and fragment");
  }
  return url.href.replace(/\/+$/, "");
}

function checkedToken(token: string): string {
  if (!/^[\x21-\x7e]+$/.test(token)) {
    // Without the token itself: messages end up in logs.
    throw new TypeError("`token` has characters that no token has: spaces, line breaks, or none at all");
  }
  return token;
}

function positive(name: string, value: number): number {
  if (!(value > 0)) {
    throw new TypeError(`\`${name}\` is a number above 0`);
  }
  return value;
}

/** One segment of a path. Dots would be taken for a way up, even where they are encoded. */
function segment(text: string): string {
  if (text === "" || text === "." || text === "..") {
    throw new TypeError(`${JSON.stringify(text)} is not an id or a name: a path can't have it`);
  }
  return encodeURIComponent(text);
}

/** Why `fetch` failed. Node has that in the cause of its error. */
function reasonOf(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  if (!(cause instanceof Error)) {
    return String(cause);
  }
  // Where several addresses were tried, Node's message is empty.
  return cause.message === "" && "code" in cause ? String(cause.code) : cause.message;
}
