/** How calls fail. */

import { parse } from "./json.js";
import type { Count } from "./types.js";

/** What all errors of this package are. */
export class QuotaError extends Error {
  override name = "QuotaError";
}

/** The API could not be reached, or the connection broke before the answer was there. `cause` says more. */
export class Unreachable extends QuotaError {
  override name = "Unreachable";
}

/** There was no answer within the call's `timeout`. Whether a change was made is not known. */
export class TimedOut extends QuotaError {
  override name = "TimedOut";
}

/** Something answered, but not as the API does: a proxy's page, a redirect, another service. */
export class UnexpectedAnswer extends QuotaError {
  override name = "UnexpectedAnswer";

  constructor(
    message: string,
    readonly status: number,
    /** Seconds after which the server says that trying again may help. */
    readonly retryAfter?: number,
  ) {
    super(message);
  }
}

/** The API refused. `code` is the contract's, such as `INVALID_REQUEST`; `message` says what to write instead. */
export class ApiError extends QuotaError {
  override name = "ApiError";

  constructor(
    message: string,
    readonly status: number,
    readonly code: string,
    /** What belongs to the code, if anything. */
    readonly details: unknown,
    /** Seconds after which trying again may help, where it may. */
    readonly retryAfter?: number,
  ) {
    super(message);
  }
}

/** By which numbers a creation was refused. */
export interface Exceeded {
  readonly resourceType: string;
  /** Rows that exist. */
  readonly currentUsage: Count;
  readonly limit: Count;
  readonly requested: Count;
  /** What is left, beside rows and requests in flight. */
  readonly remaining: Count;
  /** Units of requests that are in flight: only these stand in the way, and `retryAfter` is set. */
  readonly reserved?: Count;
  /** The workspace above, whose cap is reached. */
  readonly cappedBy?: string;
}

/** The limit is reached (429). Nothing was created. */
export class QuotaExceeded extends ApiError {
  override name = "QuotaExceeded";
  declare readonly details: Exceeded;
}

/** What was sent makes no sense, to this API or to this set-up of it (400, 405, 413). */
export class InvalidRequest extends ApiError {
  override name = "InvalidRequest";
}

/** No token, or one that nobody knows (401). */
export class Unauthenticated extends ApiError {
  override name = "Unauthenticated";
}

/** Not for this token: another workspace, or for admins (403). */
export class Forbidden extends ApiError {
  override name = "Forbidden";
}

/** No such record, plan, override, request or endpoint (404). */
export class NotFound extends ApiError {
  override name = "NotFound";
}

/** `ifMatch` names another version, or what was to be decided or deleted is decided or in use (412). */
export class PreconditionFailed extends ApiError {
  override name = "PreconditionFailed";
}

/** The quota can't be told now (503). */
export class Unavailable extends ApiError {
  override name = "Unavailable";
}

const BY_CODE: Readonly<Record<string, typeof ApiError>> = {
  INVALID_REQUEST: InvalidRequest,
  INVALID_RESOURCE_TYPE: InvalidRequest,
  WORKSPACE_MISMATCH: InvalidRequest,
  PAYLOAD_TOO_LARGE: InvalidRequest,
  METHOD_NOT_ALLOWED: InvalidRequest,
  UNAUTHENTICATED: Unauthenticated,
  INSUFFICIENT_PERMISSIONS: Forbidden,
  NOT_FOUND: NotFound,
  QUOTA_NOT_FOUND: NotFound,
  PRECONDITION_FAILED: PreconditionFailed,
  QUOTA_UNAVAILABLE: Unavailable,
};

/** What an answer says that is no success, by its status, headers and body. */
export function errorOf(status: number, headers: Headers, text: string): ApiError | UnexpectedAnswer {
  const retryAfter = retryAfterOf(headers);
  const body = object(text);
  if (status === 503 && body["status"] === "unavailable") {
    // How `health` says so.
    return new Unavailable("the store of the quota does not answer", status, "QUOTA_UNAVAILABLE", undefined, retryAfter);
  }
  const { error: code, message, details } = body;
  if (typeof code !== "string" || typeof message !== "string") {
    const shown = excerpt(text);
    const said = shown === "" ? "an empty body" : `${headers.get("content-type") ?? "no content type"}: ${shown}`;
    const hint = status === 404 ? "; is `baseUrl` where the API is mounted, such as https://example.com/api?" : "";
    return new UnexpectedAnswer(`the answer is not the quota API's: status ${status}, ${said}${hint}`, status, retryAfter);
  }
  if (code === "QUOTA_EXCEEDED" && isExceeded(details)) {
    return new QuotaExceeded(message, status, code, details, retryAfter);
  }
  const known = Object.hasOwn(BY_CODE, code) ? BY_CODE[code] : undefined;
  return new (known ?? ApiError)(message, status, code, details, retryAfter);
}

/** The fields of a JSON object; none of anything else. */
function object(text: string): Record<string, unknown> {
  try {
    const value = parse(text);
    return typeof value === "object" && value !== null ? { ...value } : {};
  } catch {
    return {};
  }
}

function isExceeded(details: unknown): details is Exceeded {
  const isCount = (value: unknown): boolean => typeof value === "number" || typeof value === "bigint";
  if (typeof details !== "object" || details === null) {
    return false;
  }
  const fields: Record<string, unknown> = { ...details };
  const counts = ["currentUsage", "limit", "requested", "remaining"];
  return typeof fields["resourceType"] === "string" && counts.every((field) => isCount(fields[field]));
}

/** `Retry-After` in seconds: it is a number of them, or a date. */
export function retryAfterOf(headers: Headers): number | undefined {
  const value = headers.get("retry-after")?.trim();
  if (value === undefined) {
    return undefined;
  }
  if (/^\d+$/.test(value)) {
    return Number(value);
  }
  const date = Date.parse(value);
  return Number.isNaN(date) ? undefined : Math.max(0, Math.ceil((date - Date.now()) / 1000));
}

/** The beginning of a body, in one line. */
export function excerpt(text: string): string {
  const line = text.slice(0, 1000).replace(/\s+/g, " ").trim();
  return line.length > 200 ? `${line.slice(0, 200)}…` : line;
}
