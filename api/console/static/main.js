/** The frame: which page is shown, the keyboard, the theme, the key, and whether anything runs at all. */

import { get, onUnauthorized } from "./api.js";
import { h } from "./dom.js";
import { entityPath, tick } from "./format.js";
import { keepFollowing, keepLooking } from "./live.js";
import { dialog, labelled, problemBox } from "./ui.js";

const PAGES = {
  home: () => import("./home.js"),
  entities: () => import("./entities.js"),
  entity: () => import("./entity.js"),
  worklist: () => import("./worklist.js"),
  schedules: () => import("./schedules.js"),
  letters: () => import("./letters.js"),
  types: () => import("./types.js"),
  hosts: () => import("./hosts.js"),
  audit: () => import("./audit.js"),
};
const KEYS = { h: "home", e: "entities", w: "worklist", s: "schedules", d: "letters", t: "types", o: "hosts", a: "audit" };
const READY_MS = 10_000;

const main = document.getElementById("main");
const banner = document.getElementById("banner");

// --- Pages ---

let leaving = new AbortController();

/** What a page is given: where it is, where to draw, and how to stay up to date. */
function context(parts, query) {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  return {
    parts,
    query,
    root: main,
    signal,
    /** Call `look` now and then every so many ms while the page is seen; the function that it gives looks at once. */
    live: (look, everyMs = 2_000) => keepLooking(look, () => everyMs, signal, told),
    /** The same, and at each change that the stream at `where` tells; `say` hears "live", "polling" or "unreachable". */
    follow: (look, where, everyMs, say) => keepFollowing(look, where, everyMs, signal, told, say),
  };
}

/** Above the page: why it could not be looked at; nothing if it could. */
function told(error) {
  const box = main.querySelector(":scope > .problem");
  if (!error) box?.remove();
  else if (box) box.replaceWith(problemBox(error));
  else main.prepend(problemBox(error));
}

let shown = "";

async function show() {
  const [where, search = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const parts = where.split("/").map(decodeURIComponent);
  const name = PAGES[parts[0] || "home"] ? parts[0] || "home" : "home";
  const here = context(parts.slice(1), new URLSearchParams(search));
  for (const link of document.querySelectorAll("[data-page]")) {
    const isHere = link.dataset.page === name || (name === "entity" && link.dataset.page === "entities");
    if (isHere) link.setAttribute("aria-current", name === "entity" ? "true" : "page");
    else link.removeAttribute("aria-current");
  }
  const page = await PAGES[name]();
  if (here.signal.aborted) return;
  const isSamePlace = page.place && page.place(here.parts) === shown;
  shown = page.place ? page.place(here.parts) : "";
  try {
    await page.show(here);
  } catch (error) {
    if (here.signal.aborted) return;
    if (!("status" in error)) console.error(error);
    main.replaceChildren(problemBox(error));
  }
  document.title = `${main.querySelector("h1")?.textContent ?? "Console"} · Perdure`;
  if (!isSamePlace && hasNavigated) main.focus({ preventScroll: true });
  if (!isSamePlace) scrollTo(0, 0);
  hasNavigated = true;
}

let hasNavigated = false;
addEventListener("hashchange", show);

document.querySelector("[data-skip]").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

// --- Go to ---

document.getElementById("goto").addEventListener("submit", (event) => {
  event.preventDefault();
  const input = document.getElementById("goto-text");
  const text = input.value.trim();
  const slash = text.indexOf("/");
  if (slash < 1 || slash === text.length - 1) location.hash = `#/entities?prefix=${encodeURIComponent(text)}`;
  else location.hash = entityPath(text.slice(0, slash), text.slice(slash + 1));
  input.value = "";
});

// --- Keyboard ---

let afterG = 0;

document.addEventListener("keydown", (event) => {
  const target = event.target;
  const isTyping = target.closest("input:not([type=checkbox], [type=radio], [type=range]), textarea, select");
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (isTyping) {
    if (event.key === "Escape") target.blur();
    return;
  }
  if (Date.now() - afterG < 1_500 && KEYS[event.key]) {
    afterG = 0;
    location.hash = KEYS[event.key] === "home" ? "#/" : `#/${KEYS[event.key]}`;
  } else if (event.key === "g") {
    afterG = Date.now();
  } else if (event.key === "j" || event.key === "k") {
    moveRow(event.key === "j" ? 1 : -1);
  } else if (event.key === "/") {
    (main.querySelector("[data-search]") ?? document.getElementById("goto-text")).focus();
  } else if (event.key === "?") {
    showKeys();
  } else {
    return;
  }
  event.preventDefault();
});

function moveRow(by) {
  const rows = [...main.querySelectorAll("[data-row]")].filter((row) => row.querySelector("a, button"));
  if (!rows.length) return;
  const at = rows.findIndex((row) => row.contains(document.activeElement));
  const row = rows[Math.min(rows.length - 1, Math.max(0, at + by))];
  row.querySelector("a, button").focus();
  row.scrollIntoView({ block: "nearest" });
}

const showKeys = () =>
  dialog({
    title: "Keys",
    body: h("dl", { class: "keys" },
      [["j, k", "next, previous row; Enter opens it"], ["/", "search on this page"], ["Esc", "leave a field"], ["?", "these keys"],
        ...Object.entries(KEYS).map(([key, page]) => [`g ${key}`, document.querySelector(`[data-page=${page}]`).textContent])]
        .map(([keys, what]) => [h("dt", null, keys.split(" ").map((key) => h("kbd", null, key))), h("dd", null, what)])),
  });

document.getElementById("help").addEventListener("click", showKeys);

// --- Theme ---

const THEMES = { auto: "light", light: "dark", dark: "auto" };
const themeButton = document.getElementById("theme");
const paintTheme = () => { themeButton.textContent = `Theme: ${document.documentElement.dataset.theme}`; };
themeButton.addEventListener("click", () => {
  const next = THEMES[document.documentElement.dataset.theme] ?? "auto";
  document.documentElement.dataset.theme = next;
  localStorage.setItem("perdure-theme", next);
  paintTheme();
});
paintTheme();

// --- Credentials ---

onUnauthorized(async (wasRefused) => {
  const input = h("input", { type: "password", required: true, autocomplete: "off", name: "key" });
  let key = null;
  await dialog({
    title: "This gateway needs a key",
    about: wasRefused ? "The key was refused. Try another one." : "It is kept in this browser tab until you close it.",
    body: labelled("API key or token", input),
    verb: "Use it",
    onSubmit: () => { key = input.value.trim(); },
  });
  return key;
});

// --- Does anything run? ---

async function lookForHosts() {
  try {
    await get("readyz");
    banner.hidden = true;
  } catch (error) {
    const missing = error.body?.missing ?? [error.message];
    const text = missing.includes("no host is alive")
      ? "No host is running. What you see is answered from Postgres and is true; nothing goes on until a host starts (perdure up)."
      : error.status === 0 ? "The gateway cannot be reached. What you see may be old; this page keeps trying."
        : `Not everything is served now: ${missing.join("; ")}.`;
    if (banner.textContent !== text) banner.textContent = text;
    banner.hidden = false;
  }
  setTimeout(lookForHosts, READY_MS);
}

setInterval(() => tick(document), 1_000);
await show();
lookForHosts();
