// The dashboard in a real browser, on the real quickstart.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, before, test } from "node:test";
import { AxeBuilder } from "@axe-core/playwright";
import { launch, signIn, visitor } from "./browser.js";
import { ACME, ADMIN, Quickstart } from "./quickstart.js";

const server = new Quickstart();
let browser;

before(async () => {
  await server.seeded();
  await server.lived();
  browser = await launch();
  // All of them have been looked at once the first snapshots are taken.
  const page = await visitor(browser, server);
  await signIn(page, ADMIN);
  await page.waitForFunction(() => document.querySelectorAll(".workspaces tbody tr").length >= 16, null, { timeout: 60_000 });
  await page.close_();
});

after(async () => {
  await browser?.close();
  await server.end();
});

// A page that is only brought up to date keeps what a script has left in it.
const mark = (page) => page.evaluate(() => { globalThis.marked = true; });
const isMarked = (page) => page.evaluate(() => globalThis.marked === true);
const level = (page, type) => page.locator(`#type-${type}`);
const fill = (page, type) => level(page, type).locator("svg.bar .fill").getAttribute("width");
const create = (workspace, name) => server.api("POST", `/workspaces/${workspace}/segments`, { name });

test("an operator finds who is above 90 %, raises the limit, and decides a request", async () => {
  const page = await visitor(browser, server);
  await signIn(page, ADMIN);
  assert.equal(await page.title(), "Workspaces · Quotas");
  const rows = page.locator(".workspaces tbody tr");
  const percents = await rows.locator(".percent").allInnerTexts();
  const numbers = percents.map((text) => Number.parseInt(text, 10));
  assert.deepEqual(numbers, [...numbers].sort((one, other) => other - one), "the fullest come first");
  assert.match(await rows.first().innerText(), /initech-production[\s\S]*Over limit/);

  await page.getByRole("link", { name: "near a limit" }).click();
  await page.getByPlaceholder("Find a workspace").fill("ACM");
  await page.getByRole("button", { name: "Find" }).click();
  await page.waitForURL(/q=ACM/);
  assert.equal(await rows.count(), 1);
  await page.getByRole("link", { name: "acme", exact: true }).click();

  await page.waitForURL(/\/dashboard\/workspaces\/acme$/);
  assert.match(await level(page, "segments").innerText(), /48 \/ 50[\s\S]*96 %[\s\S]*Critical/);
  assert.equal(await fill(page, "segments"), "96.00");
  await mark(page);
  await page.locator("li", { has: level(page, "segments") }).locator("summary").click();
  const form = page.locator("#limit-segments");
  await form.getByLabel("New limit").fill("1,60");
  await form.getByLabel("Reason").fill("Two new markets");
  await form.getByRole("button", { name: "Save" }).click();
  await page.locator("#flash").getByText("The limit of segments is 160 now.").waitFor();
  assert.equal(await fill(page, "segments"), "30.00");
  assert.match(await level(page, "segments").innerText(), /48 \/ 160/);
  assert.ok(await isMarked(page), "the page was loaded anew");
  assert.equal((await server.api("GET", "/workspaces/acme/quota")).quota.maxSegments, 160);

  const request = page.locator("#requests li", { hasText: "+25 segments" });
  await request.getByLabel("Note on the request").fill("Granted until the review");
  await request.getByRole("button", { name: "Approve" }).click();
  await page.locator("#flash").getByText("Approved: 25 more segments for acme.").waitFor();
  assert.match(await request.innerText(), /Approved[\s\S]*Granted until the review/);
  assert.match(await level(page, "segments").innerText(), /48 \/ 185/);
  assert.ok(await isMarked(page));

  const log = page.locator("#audit li");
  assert.match(await log.filter({ hasText: "Two new markets" }).innerText(), /Limit set\s+Segments[\s\S]*160[\s\S]*by way of dashboard 127\.0\.0\.1/);
  assert.equal(await log.filter({ hasText: "Request approved" }).count(), 1);
  const { entries } = await server.api("GET", "/workspaces/acme/quota/audit?limit=5");
  const changed = entries.find((entry) => entry.reason === "Two new markets");
  assert.deepEqual([changed.action, changed.new, changed.origin], ["limit_set", 160, "dashboard 127.0.0.1"]);
  await page.close_();
});

test("what others do is seen without a reload, and read out", async () => {
  const page = await visitor(browser, server);
  await signIn(page, ADMIN, "/dashboard/workspaces/wonka");
  await server.api("PUT", "/workspaces/wonka/quota", { maxSegments: 100 });
  await page.waitForFunction(() => /\/ 100/.test(document.querySelector("#type-segments .figures").innerText));
  await mark(page);
  const { usage } = await server.api("GET", "/workspaces/wonka/quota");
  for (let made = usage.segments; made < 95; made += 1) await create("wonka", `made ${made}`);
  await page.waitForFunction(() => document.getElementById("type-segments").innerText.includes("95 / 100"));
  await page.waitForFunction(() => document.getElementById("status").textContent.includes("Segments: critical"));
  assert.equal(await fill(page, "segments"), "95.00");
  assert.ok(await isMarked(page));

  // The list goes by what was seen last, which is soon.
  await page.getByRole("link", { name: "Workspaces" }).first().click();
  await page.waitForFunction(() =>
    [...document.querySelectorAll(".workspaces tr")].some((row) => /wonka[\s\S]*95 \/ 100/.test(row.innerText)));
  await page.close_();
});

test("what somebody types isn't lost while the page brings itself up to date", async () => {
  const page = await visitor(browser, server);
  await signIn(page, ADMIN, "/dashboard/workspaces/soylent");
  await page.locator("li", { has: level(page, "users") }).locator("summary").click();
  const form = page.locator("#limit-users");
  await form.getByLabel("New limit").fill("2000");
  await form.getByLabel("Reason").fill("They grow");
  await server.api("PUT", "/workspaces/soylent/quota", { maxUsers: 1500 });
  await page.waitForFunction(() => document.getElementById("type-users").innerText.includes("/ 1,500"));
  assert.equal(await form.getByLabel("Reason").inputValue(), "They grow");

  // And what others have changed meanwhile isn't overwritten before it was seen.
  await form.getByRole("button", { name: "Save" }).click();
  await page.locator("#flash .failed").getByText("Somebody else has changed this workspace meanwhile").waitFor();
  assert.equal((await server.api("GET", "/workspaces/soylent/quota")).quota.maxUsers, 1500);
  assert.equal(await form.getByLabel("New limit").inputValue(), "2000");
  await form.getByRole("button", { name: "Save" }).click();
  await page.locator("#flash").getByText("The limit of users is 2,000 now.").waitFor();
  assert.equal((await server.api("GET", "/workspaces/soylent/quota")).quota.maxUsers, 2000);
  await page.close_();
});

test("a bad limit is told, and changes nothing", async () => {
  const page = await visitor(browser, server);
  await signIn(page, ADMIN, "/dashboard/workspaces/tyrell");
  await page.locator("li", { has: level(page, "users") }).locator("summary").click();
  const form = page.locator("#limit-users");
  await form.getByLabel("New limit").fill("-5");
  await form.getByLabel("Reason").fill("A slip");
  await form.getByRole("button", { name: "Save" }).click();
  await page.locator("#flash [role=alert]").getByText("A limit is a whole number of 0 or more").waitFor();
  assert.equal(await form.getByLabel("Reason").inputValue(), "A slip");
  assert.equal((await server.api("GET", "/workspaces/tyrell/quota")).quota.maxUsers, 1000);
  await page.close_();
});

test("a wrong token opens nothing", async () => {
  const page = await visitor(browser, server);
  page.expected.push("401");
  await page.goto("/dashboard/plans");
  await page.getByLabel("Token").fill("wrong-token");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("alert").getByText("This token is not valid.").waitFor();
  assert.deepEqual(await page.context().cookies(), []);
  await page.getByLabel("Token").fill(ADMIN);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.waitForURL(/\/dashboard\/plans$/);
  const [cookie] = await page.context().cookies();
  assert.deepEqual([cookie.httpOnly, cookie.sameSite, cookie.path], [true, "Strict", "/dashboard"]);
  assert.ok(!cookie.value.includes(ADMIN));
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByLabel("Token").waitFor();
  await page.goto("/dashboard/plans");
  await page.getByLabel("Token").waitFor();
  await page.close_();
});

test("who is signed out by the end of the session comes back to the same page", async () => {
  const page = await visitor(browser, server);
  await signIn(page, ADMIN, "/dashboard/workspaces/vandelay");
  const [cookie] = await page.context().cookies();
  await page.context().addCookies([{ ...cookie, value: "0".repeat(64) }]);
  // The page finds out by itself.
  await page.getByText("Your session has ended.").waitFor();
  await page.getByLabel("Token").fill(ADMIN);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.waitForURL(/\/dashboard\/workspaces\/vandelay$/);
  await page.close_();
});

test("forms of other sites change nothing", async () => {
  const page = await visitor(browser, server);
  await signIn(page, ADMIN);
  // Another site, on which somebody follows a link or a script sends a form.
  const evil = createServer((_, answer) => {
    answer.setHeader("content-type", "text/html");
    answer.end(`<form method="post" action="${server.url}/dashboard/modes"><input name="mode" value="off"><button>Win</button></form>`);
  });
  await new Promise((resolve) => evil.listen(0, "127.0.0.1", resolve));
  try {
    const context = page.context();
    const other = await context.newPage();
    await other.goto(`http://localhost:${evil.address().port}/`);
    await other.getByRole("button").click();
    await other.getByText("This form was not sent by a page of this site").waitFor();
    assert.match(await other.locator("h1").innerText(), /Not allowed/);
    await other.close();
  } finally {
    evil.close();
    evil.closeAllConnections();
  }
  // A form of the same site without the session's token, or with another's.
  page.expected.push("403");
  for (const form of ["", "0".repeat(64)]) {
    const status = await page.evaluate(async (form) => {
      const body = new URLSearchParams({ mode: "off", form });
      return (await fetch("/dashboard/modes", { method: "POST", body })).status;
    }, form);
    assert.equal(status, 403);
  }
  assert.equal((await server.api("GET", "/system/config/quota-enforcement")).mode, "enforce");
  // The same form with the token goes through: it was not refused for something else.
  const status = await page.evaluate(async () => {
    const form = document.querySelector("input[name=form]").value;
    return (await fetch("/dashboard/modes", { method: "POST", body: new URLSearchParams({ mode: "enforce", form }) })).status;
  });
  assert.equal(status, 200);
  await page.close_();
});

test("a member sees its own workspace only, and asks for more", async () => {
  const page = await visitor(browser, server);
  page.expected.push("403");
  await signIn(page, ACME);
  assert.deepEqual(await page.locator(".workspaces tbody th").allInnerTexts(), ["acme"]);
  assert.deepEqual(await page.locator(".top nav a").allInnerTexts(), ["Workspaces", "Requests", "Plans", "Modes"]);
  for (const path of ["workspaces/globex", "webhooks", "audit", "audit?workspace=globex"]) {
    const answer = await page.goto(`/dashboard/${path}`);
    assert.equal(answer.status(), 403, path);
  }
  await page.goto("/dashboard/workspaces/acme");
  assert.equal(await page.getByText("Change", { exact: true }).count(), 0);
  assert.equal(await page.locator("#audit, #settings").count(), 0);
  await page.getByText("Ask for more").click();
  await page.getByLabel("Of what").selectOption("journeys");
  await page.getByLabel("How many more").fill("5");
  await page.locator("#ask").getByLabel("Reason").fill("A new product");
  await page.getByRole("button", { name: "Send the request" }).click();
  await page.locator("#flash").getByText("Asked for 5 more of journeys.").waitFor();
  const request = page.locator("#requests li", { hasText: "+5 journeys" });
  assert.equal(await request.getByRole("button", { name: "Approve" }).count(), 0);
  await request.getByRole("button", { name: "Withdraw" }).click();
  await page.locator("#flash").getByText("Withdrawn: 5 more journeys for acme.").waitFor();
  await page.close_();
});

test("plans are made, changed, assigned and deleted", async () => {
  const page = await visitor(browser, server);
  await signIn(page, ADMIN, "/dashboard/plans");
  await page.getByText("Make a plan").click();
  const form = page.locator("#put-new");
  await form.getByLabel("Name").fill("trial");
  await form.getByLabel("Users").fill("25");
  await form.getByLabel("Segments").fill("unlimited");
  await form.getByRole("button", { name: "Make the plan" }).click();
  await page.locator("#flash").getByText("The plan trial is saved.").waitFor();
  const card = page.locator("section.plan", { has: page.getByRole("heading", { name: "trial" }) });
  await card.locator("summary").click();
  await card.getByLabel("Users").fill("30");
  await card.getByRole("button", { name: "Save the plan" }).click();
  await page.waitForFunction(() => /Users\s*30/.test(document.querySelector("[aria-labelledby=plan-trial] dl").innerText));
  assert.deepEqual((await server.api("GET", "/plans/trial")).plan.limits, { maxUsers: 30, maxSegments: null });

  await page.goto("/dashboard/workspaces/pied-piper");
  await page.locator("#settings").getByLabel("Plan").selectOption("trial");
  await page.locator("#settings").getByRole("button").click();
  await page.locator("#flash").getByText("The settings are saved.").waitFor();
  assert.match(await level(page, "users").innerText(), /by the plan trial/);
  await page.locator("#settings").getByLabel("Plan").selectOption("");
  await page.locator("#settings").getByRole("button").click();
  await page.waitForFunction(() => /the default/.test(document.getElementById("type-users").innerText));

  await page.goto("/dashboard/plans");
  await card.locator("summary").click();
  await card.getByLabel("No workspace needs it any more").check();
  await card.getByRole("button", { name: "Delete the plan" }).click();
  await page.locator("#flash").getByText("The plan trial is deleted.").waitFor();
  assert.equal(await card.count(), 0);
  await page.close_();
});

test("webhooks and their deliveries", async () => {
  const page = await visitor(browser, server);
  await signIn(page, ADMIN, "/dashboard/webhooks");
  await page.getByRole("link", { name: "https://alerts.example.com/hooks/quota" }).click();
  const dead = page.locator("#deliveries li", { hasText: "Dead" });
  assert.match(await dead.innerText(), /quota\.warning\s+hooli[\s\S]*5 tries[\s\S]*connection refused/);
  await dead.getByText("What is sent").click();
  assert.match(await dead.locator("pre").innerText(), /"workspace_id": "hooli"/);
  await dead.getByRole("button", { name: "Send it again" }).click();
  await page.locator("#flash").getByText("The delivery is on its way again.").waitFor();
  assert.equal(await page.locator("#deliveries .pill", { hasText: "Dead" }).count(), 0);
  await page.close_();
});

test("the keyboard is enough", async () => {
  const page = await visitor(browser, server);
  await page.goto("/dashboard");
  const press = async (...keys) => { for (const key of keys) await page.keyboard.press(key); };
  // Tabs on until what has the focus is called that; each step has to be seen.
  const reach = async (name) => {
    for (let steps = 0; steps < 120; steps += 1) {
      const found = await page.evaluate((name) => {
        const here = document.activeElement;
        const text = [here.labels?.[0]?.textContent, here.getAttribute("aria-label"), here.textContent].map((of) => of?.trim());
        const seen = getComputedStyle(here).outlineStyle !== "none";
        return here !== document.body && text.includes(name) ? { seen } : undefined;
      }, name);
      if (found) {
        assert.ok(found.seen, `${name} has the focus, and nobody can see it`);
        return;
      }
      await press("Tab");
    }
    assert.fail(`${name} can't be reached`);
  };
  await page.keyboard.type(ADMIN);
  await press("Enter");
  await page.waitForURL(/\/dashboard$/);
  await press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to content");
  await press("Enter");
  await reach("hooli");
  await press("Enter");
  await page.waitForURL(/workspaces\/hooli/);
  await reach("Change the limit of email templates");
  await press("Enter");
  await press("Tab");
  await press("Control+A");
  await page.keyboard.type("200");
  await press("Tab");
  await page.keyboard.type("By keyboard");
  await press("Enter");
  await page.locator("#flash").getByText("The limit of email templates is 200 now.").waitFor();
  assert.ok(await page.evaluate(() => document.activeElement.id === "flash"), "what became of it has the focus, to be read out");
  await page.close_();
});

test("without scripts the same is done by forms", async () => {
  const page = await visitor(browser, server, { javaScriptEnabled: false });
  await page.goto("/dashboard/workspaces/cyberdyne");
  await page.getByLabel("Token").fill(ADMIN);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.waitForURL(/workspaces\/cyberdyne$/);
  await page.locator("li", { has: level(page, "webhooks") }).locator("summary").click();
  await page.locator("#limit-webhooks").getByLabel("New limit").fill("77");
  await page.locator("#limit-webhooks").getByLabel("Reason").fill("No scripts here");
  await page.locator("#limit-webhooks").getByRole("button", { name: "Save" }).click();
  await page.locator("#flash").getByText("The limit of webhooks is 77 now.").waitFor();
  await page.reload();
  assert.equal(await page.locator("#flash").innerText(), "", "it is told once");
  assert.match(await level(page, "webhooks").innerText(), /\/ 77/);
  await page.close_();
});

for (const colorScheme of ["light", "dark"]) {
  test(`no serious fault of accessibility on any page, ${colorScheme}`, async () => {
    const sizes = [{ width: 1280, height: 900 }, { width: 390, height: 844 }];
    for (const viewport of sizes) {
      const page = await visitor(browser, server, { colorScheme, viewport, reducedMotion: "reduce" });
      page.expected.push("404");
      const check = async (what) => {
        const { violations } = await new AxeBuilder({ page }).analyze();
        const serious = violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
        const told = serious.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(" ")}`);
        assert.deepEqual(told, [], `${what}, ${viewport.width} px`);
        const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
        assert.ok(wide <= 0, `${what} is ${wide} px wider than ${viewport.width}`);
      };
      await page.goto("/dashboard");
      await check("sign-in");
      await signIn(page, ADMIN);
      for (const path of ["", "?show=full", "?q=nobody", "/workspaces/acme", "/workspaces/initech-production?type=broadcasts",
        "/requests", "/requests?show=all", "/plans", "/webhooks", "/modes", "/audit", "/no-such-page"]) {
        await page.goto(`/dashboard${path}`);
        await page.evaluate(() => document.querySelectorAll("details").forEach((of) => { of.open = true; }));
        await check(path);
      }
      await page.goto("/dashboard/webhooks");
      await page.locator("#endpoints a.id").first().click();
      await page.locator("#deliveries").waitFor();
      await page.evaluate(() => document.querySelectorAll("details").forEach((of) => { of.open = true; }));
      await check("deliveries");
      await page.close_();
    }
  });
}
