export { errorFrom, type Plans, QuotaClient, type System, type Webhooks, type Workspace } from "./client.js";
export {
  ApiError,
  type Exceeded,
  Forbidden,
  InvalidRequest,
  NotFound,
  PreconditionFailed,
  QuotaError,
  QuotaExceeded,
  TimedOut,
  Unauthenticated,
  Unavailable,
  UnexpectedAnswer,
  Unreachable,
} from "./errors.js";
export type { CallOptions, ChangeOptions, ClientOptions } from "./http.js";
export type * from "./types.js";
