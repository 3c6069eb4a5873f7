// Makes pages live that work without it: brings regions up to date, and sends forms in place. It keeps its hands off what
// somebody is at: a region with the focus in it, and what is typed in a form.
"use strict";

(() => {
  const EVERY = 3000;
  const SLOWEST = 60000;
  const main = document.querySelector("main[data-page]");
  const status = document.getElementById("status");

  // Where a link of another site has led to this page, the browser kept the session's cookie to itself.
  const resume = document.querySelector("[data-resume]")?.dataset.resume;
  if (resume) {
    fetch(resume, { headers: { "X-Live": "1" } }).then((answer) => {
      if (answer.ok && !answer.redirected) location.replace(resume);
    }, () => {});
  }
  if (!main) return;

  const parsed = async (answer) => new DOMParser().parseFromString(await answer.text(), "text/html");
  const said = (page) => [...page.querySelectorAll("[data-say]")].map((of) => of.textContent.trim()).join(". ");
  const regions = (page) => page.querySelectorAll("[data-live][id]");
  let before = said(document);

  const say = (text) => {
    status.textContent = "";
    // Of a text that is set at once nothing would be read out.
    setTimeout(() => { status.textContent = text; }, 50);
  };

  // Takes over the regions of a page that are other than here.
  const update = (page) => {
    for (const fresh of regions(page)) {
      const here = document.getElementById(fresh.id);
      if (!here || here.innerHTML === fresh.innerHTML) continue;
      const busy = here.contains(document.activeElement) && document.activeElement.matches("input, select, textarea");
      const filled = [...here.querySelectorAll("input:not([type=hidden])")].some((field) => field.value !== field.defaultValue);
      if (busy || filled) continue;
      const link = here.contains(document.activeElement) && document.activeElement.getAttribute("href");
      const open = [...here.querySelectorAll("details[open][id]")].map((of) => of.id);
      const words = here.textContent;
      here.replaceChildren(...fresh.childNodes);
      for (const id of open) document.getElementById(id)?.setAttribute("open", "");
      if (link) [...here.querySelectorAll("a[href]")].find((of) => of.getAttribute("href") === link)?.focus();
      // A time that goes on is no news.
      if (here.classList.contains("level") && words !== here.textContent) {
        here.classList.remove("fresh");
        void here.offsetWidth;
        here.classList.add("fresh");
      }
    }
    const now = said(page);
    if (now !== before) say(now);
    before = now;
  };

  // Whether the session is over, and the browser on its way to sign in.
  const over = (answer) => {
    const asked = new URL(answer.url);
    if (!answer.redirected || !asked.pathname.endsWith("/sign-in")) return false;
    asked.searchParams.set("then", location.pathname + location.search);
    location.assign(asked);
    return true;
  };

  let timer;
  let wait = EVERY;
  let asking = false;
  const poll = async () => {
    clearTimeout(timer);
    if (document.hidden || asking) return;
    asking = true;
    try {
      const answer = await fetch(location.href, { headers: { "X-Live": "1" } });
      if (over(answer)) return;
      if (answer.ok) update(await parsed(answer));
      wait = answer.ok ? EVERY : Math.min(wait * 2, SLOWEST);
    } catch {
      wait = Math.min(wait * 2, SLOWEST);
    } finally {
      asking = false;
    }
    timer = setTimeout(poll, wait);
  };
  if (regions(document).length > 0) {
    timer = setTimeout(poll, EVERY);
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) poll();
      else clearTimeout(timer);
    });
  }

  // What a form was answered with, in the place of what is here.
  const show = (page, form) => {
    const flash = page.getElementById("flash");
    const failed = flash?.querySelector(".failed");
    if (failed) {
      // What was typed stays, and the form stands for what is there now.
      for (const fresh of page.querySelectorAll("form[id]")) {
        const here = document.getElementById(fresh.id)?.elements.namedItem("version");
        if (here) here.value = fresh.elements.namedItem("version").value;
      }
      update(page);
    } else {
      const open = [...document.querySelectorAll("main details[open][id]")].map((of) => of.id);
      document.title = page.title;
      main.replaceChildren(...page.querySelector("main").childNodes);
      for (const id of open) document.getElementById(id)?.setAttribute("open", "");
      before = said(document);
    }
    const told = document.getElementById("flash");
    if (failed) told.replaceChildren(...flash.childNodes);
    const text = told.textContent.trim();
    if (text) {
      told.tabIndex = -1;
      told.focus({ preventScroll: true });
      told.scrollIntoView({ block: "nearest" });
    } else if (form.id) {
      document.getElementById(form.id)?.querySelector("button")?.focus();
    }
  };

  document.addEventListener("submit", async (event) => {
    const form = event.target;
    if (!form.matches("[data-send], [data-live-form]") || event.defaultPrevented) return;
    event.preventDefault();
    const button = event.submitter ?? form.querySelector("button");
    if (button.getAttribute("aria-busy") === "true") return;
    button.setAttribute("aria-busy", "true");
    const to = event.submitter?.getAttribute("formaction") ?? form.getAttribute("action");
    try {
      const answer = await fetch(to, { method: "POST", body: new URLSearchParams(new FormData(form)) });
      if (over(answer)) return;
      const page = await parsed(answer);
      if (!page.querySelector("main[data-page]")) {
        // A page that tells what is wrong stands for itself.
        document.documentElement.replaceChildren(...page.documentElement.childNodes);
        return;
      }
      const at = new URL(answer.url);
      if (at.pathname !== location.pathname) {
        history.pushState(null, "", answer.url);
        addEventListener("popstate", () => location.reload(), { once: true });
      }
      show(page, form);
    } catch {
      const told = document.createElement("p");
      told.className = "flash failed";
      told.setAttribute("role", "alert");
      told.textContent = "The server can't be reached now. Nothing is lost: try again.";
      document.getElementById("flash").replaceChildren(told);
    } finally {
      button.removeAttribute("aria-busy");
    }
  });
})();
