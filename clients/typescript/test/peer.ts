/** A server of the tests: an API with faults that the quickstart can't be brought to, or an endpoint that is sent notices. */

import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { TestContext } from "node:test";

import { type ClientOptions, QuotaClient } from "tower-quota-client";

export interface Seen {
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingMessage["headers"];
  readonly body: string;
}

export type Reply = (response: ServerResponse) => void;

export interface Peer {
  /** What was asked for, in order. */
  readonly seen: Seen[];
  readonly address: string;
  client(options?: Partial<ClientOptions>): QuotaClient;
}

/** Answers the first request as the first of `replies` says, and so on; from then on as the last one says. */
export async function peer(test: TestContext, ...replies: Reply[]): Promise<Peer> {
  const seen: Seen[] = [];
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      const { method = "", url: path = "", headers } = request;
      const reply = replies[Math.min(seen.length, replies.length - 1)];
      seen.push({ method, path, headers, body: Buffer.concat(chunks).toString() });
      reply?.(response);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  test.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    seen,
    address,
    client: (options) => new QuotaClient({ baseUrl: `${address}/api/`, token: "the-token", timeout: 30_000, ...options }),
  };
}

export function json(body: unknown, status = 200, headers: Record<string, string> = {}): Reply {
  return text(JSON.stringify(body), "application/json", status, headers);
}

export function text(body: string, type: string, status = 200, headers: Record<string, string> = {}): Reply {
  return (response) => response.writeHead(status, { "content-type": type, ...headers }).end(body);
}

/** Breaks the connection. */
export const reset: Reply = (response) => response.socket?.resetAndDestroy();

/** Never answers. */
export const hang: Reply = () => {};
