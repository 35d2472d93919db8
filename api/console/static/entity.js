/** One entity: what it is, and tabs that are pages of their own (`#/entity/Type/key/state`). */

import { get, path } from "./api.js";
import { h, refresh } from "./dom.js";
import { badge, entityPath, when } from "./format.js";
import { empty } from "./ui.js";

const TABS = {
  timeline: ["Timeline", () => import("./timeline.js")],
  state: ["State", () => import("./state.js")],
  workflows: ["Workflows", () => import("./workflows.js")],
  pending: ["Inbox", () => import("./pending.js")],
  calls: ["Calls", () => import("./calls.js")],
  try: ["Try it", () => import("./tryit.js")],
  history: ["History", () => import("./history.js")],
};
const EVERY_MS = 1_500;
const LIVENESS = { live: ["Live", "live"], polling: [`Looks every ${EVERY_MS / 1_000} s`, "calm"], unreachable: ["Not reachable", "bad"] };

/** How the page stays up to date. One element for all tabs: screen readers are told when it changes, not at each tab. */
const liveness = h("p", { class: "liveness", role: "status", "aria-live": "polite" });
let followed = "";

export const place = ([type, key]) => `${type}/${key}`;

export async function show(here) {
  const [type, key, chosen] = here.parts;
  const tab = TABS[chosen] ? chosen : "timeline";
  const module = await TABS[tab][1]();
  if (here.signal.aborted) return;
  if (followed !== place(here.parts)) refresh(liveness, null, () => []);
  followed = place(here.parts);
  const facts = h("div", { class: "stack" });
  const body = h("div", { class: "stack" });
  here.root.replaceChildren(
    h("div", { class: "head" }, h("h1", null, h("span", { class: "soft" }, `${type}/`), key), facts, liveness),
    h("nav", { class: "tabs", "aria-label": "About this entity" }, Object.entries(TABS).map(([name, [label]]) =>
      h("a", { href: entityPath(type, key, name), "aria-current": name === tab ? "page" : null }, label))),
    body,
  );
  const entity = {
    type,
    key,
    signal: here.signal,
    /** Below the entity: `at("-", "history")`. */
    at: (...rest) => path(["entities", type, key, ...rest]),
    atWith: (conditions, ...rest) => path(["entities", type, key, ...rest], conditions),
    get: (where) => get(where, here.signal),
    /** Its newest events; asked for again only if something has changed since. */
    history: (conditions) => remembered(entity, { newest_first: true, ...conditions }),
    now: null,
  };
  const view = await module.make(entity, body);
  entity.look = here.follow(async () => {
    let now = null;
    try {
      now = await entity.get(entity.at("-", "now"));
    } catch (error) {
      if (error.code !== "no_such_entity") throw error;
    }
    entity.now = now;
    refresh(facts, now && [now.version, now.updated_at, now.runs.map((run) => [run.workflow, run.status, run.paused])], () => head(now));
    await view(now);
  }, entity.at("-", "events"), EVERY_MS, (how) => {
    const [text, tone] = LIVENESS[how];
    refresh(liveness, how, () => h("span", { class: `badge ${tone}` }, text));
  });
}

async function remembered(entity, conditions) {
  const { now, last } = entity;
  const asked = JSON.stringify([conditions, now && [now.version, now.runs, now.inbox.length, now.dead_letters.length]]);
  if (last?.asked === asked) return last.found;
  const found = await entity.get(entity.atWith(conditions, "-", "history"));
  entity.last = { asked, found };
  return found;
}

function head(now) {
  if (!now) return h("p", { class: "soft" }, "Nothing has been committed for it yet.");
  return h("div", { class: "head" },
    now.runs.map((run) => h("span", null, badge(run.paused ? "paused" : run.status), ` ${run.workflow}`)),
    h("span", { class: "soft" }, `version ${now.version} · changed `, when(now.updated_at)));
}

export const nothing = () => empty("Nothing is stored for this entity. It exists from its first message on: send it one under “Try it”.");
