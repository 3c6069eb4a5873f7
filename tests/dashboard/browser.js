// Debian's Chromium, and what is watched in all its pages.
import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];

export const launch = () =>
  chromium.launch({ executablePath: process.env.TEST_CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });

// A browser of its own for somebody, in which nothing may go wrong unseen.
export async function visitor(browser, server, options = {}) {
  const context = await browser.newContext({ baseURL: server.url, ...options });
  const page = await context.newPage();
  const troubles = [];
  page.expected = [];
  page.on("pageerror", (error) => troubles.push(`error: ${error}`));
  page.on("console", (message) => {
    if (!["error", "warning"].includes(message.type())) return;
    if (!page.expected.some((text) => message.text().includes(text))) troubles.push(`${message.type()}: ${message.text()}`);
  });
  page.on("request", (request) => {
    const url = new URL(request.url());
    if (url.protocol !== "data:" && url.host !== server.address) troubles.push(`another host: ${url}`);
  });
  page.close_ = async () => {
    await context.close();
    assert.deepEqual(troubles, []);
  };
  return page;
}

export async function signIn(page, token, path = "/dashboard") {
  await page.goto(path);
  await page.getByLabel("Token").fill(token);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.locator("main[data-page]").waitFor();
}
