// Pictures of each page in light, dark and on a phone, of a data set as an operator has it: into docs/screenshots.
import { mkdirSync, statSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { join } from "node:path";
import { launch, signIn, visitor } from "./browser.js";
import { ADMIN, Quickstart } from "./quickstart.js";

const folder = process.env.SCREENSHOTS ?? fileURLToPath(new URL("../../docs/screenshots", import.meta.url));
mkdirSync(folder, { recursive: true });

const LOOKS = {
  light: { viewport: { width: 1280, height: 860 }, colorScheme: "light" },
  dark: { viewport: { width: 1280, height: 860 }, colorScheme: "dark" },
  phone: { viewport: { width: 390, height: 844 }, colorScheme: "light", isMobile: true, hasTouch: true },
};

const server = await new Quickstart().seeded();
const browser = await launch();
try {
  await server.lived();
  for (const [look, options] of Object.entries(LOOKS)) {
    const page = await visitor(browser, server, { ...options, reducedMotion: "reduce" });
    const shot = async (name, whole = false) => {
      // Nothing is under the pointer.
      await page.mouse.move(0, 0);
      const path = join(folder, `${name}-${look}.png`);
      await page.screenshot({ path, fullPage: whole });
      console.log(`${name}-${look}.png ${Math.round(statSync(path).size / 1024)} KB`);
    };
    await page.goto("/dashboard");
    await shot("sign-in");
    await signIn(page, ADMIN);
    await page.getByRole("link", { name: "acme", exact: true }).waitFor();
    // All of them have been looked at once the snapshots are taken.
    await page.waitForFunction(() => document.querySelectorAll(".workspaces tbody tr").length >= 16, null, { timeout: 60_000 });
    await shot("workspaces");
    await page.getByRole("link", { name: "acme", exact: true }).click();
    await page.locator("#type-segments").waitFor();
    await shot("workspace", true);
    await page.locator("li", { has: page.locator("#type-segments") }).locator("summary").click();
    await page.locator("#limit-segments").getByLabel("New limit").fill("75");
    await page.locator("#limit-segments").getByLabel("Reason").fill("Two more markets in spring");
    await shot("limit");
    // One that was full for days, and has refused.
    await page.goto("/dashboard/workspaces/initech-production");
    await page.evaluate(() => document.getElementById("trend").scrollIntoView());
    await shot("trend");
    for (const name of ["requests", "plans", "webhooks", "modes", "audit"]) {
      await page.goto(`/dashboard/${name}`);
      await shot(name);
    }
    await page.goto("/dashboard/webhooks");
    await page.locator("#endpoints a.id", { hasText: "alerts.example.com" }).click();
    await page.getByRole("link", { name: "Delivered" }).click();
    await page.waitForURL(/status=delivered/);
    await page.locator("#deliveries").waitFor();
    await shot("deliveries");
    await page.goto("/dashboard?q=nobody-of-that-name");
    await shot("nothing");
    await page.close_();
  }
} finally {
  await browser.close();
  await server.end();
}
