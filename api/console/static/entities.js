/** All entities: by type, key, status, what they wait for, and fields of their state; and actions on many at once. */

import { get, path, post } from "./api.js";
import { types } from "./catalogue.js";
import { capital } from "./actions.js";
import { h, refresh } from "./dom.js";
import { badge, brief, entityLink, number, when } from "./format.js";
import { act, empty, labelled, more, say, table } from "./ui.js";

const PAGE = 50;
const BULK_MAX = 1_000;
const PREVIEW = 20;
const STATUSES = ["running", "parked", "failed", "completed", "cancelled", "terminated", "idle", "damaged"];
const OPERATORS = { "": "=", ne: "≠", lt: "<", le: "≤", gt: ">", ge: "≥" };
const BULK = ["pause", "resume", "cancel", "terminate", "rerun"];

export const place = () => "entities";

export async function show(here) {
  const known = await types();
  const query = here.query;
  const type = select("All types", known.map((one) => one.type), query.get("type"));
  const prefix = h("input", { value: query.get("prefix") ?? "", "data-search": true, autocomplete: "off", spellcheck: "false" });
  const status = select("Any status", STATUSES, query.get("status"));
  const waiting = h("input", { value: query.get("waiting") ?? "", autocomplete: "off" });
  const fields = h("div", { class: "filters" });
  const list = h("div", { class: "stack" });
  const bar = h("div", { class: "buttons", role: "group", "aria-label": "Selected entities" });
  const state = { rows: [], next: undefined, examined: 0, chosen: new Map(), isSearch: false };

  const byPrefix = labelled("Key begins with", prefix);
  byPrefix.classList.add("wide");
  const form = h("form", { class: "filters", role: "search", "aria-label": "Entities" },
    labelled("Type", type), byPrefix, labelled("Status", status), labelled("Waits for", waiting),
    h("button", { type: "submit" }, "Search"));
  here.root.replaceChildren(h("div", { class: "head" }, h("h1", null, "Entities"), bar), form, fields, list);

  function drawFields() {
    const found = known.find((one) => one.type === type.value);
    const names = Object.keys(found?.state?.properties ?? {}).filter((name) => name !== "key");
    const given = query.getAll("where");
    fields.replaceChildren(...(names.length ? [...given, ""].map((one) => condition(names, one)) : []));
  }

  function goTo() {
    const where = [...fields.querySelectorAll(".condition")].map(conditionText).filter(Boolean);
    const wanted = path(["x"], { type: type.value, prefix: where.length ? "" : prefix.value, status: where.length ? "" : status.value, waiting: where.length ? "" : waiting.value, where });
    location.hash = `#/entities${wanted.slice(1)}`;
  }
  form.addEventListener("submit", (event) => { event.preventDefault(); goTo(); });
  type.addEventListener("change", () => { for (const one of fields.querySelectorAll("input")) one.value = ""; goTo(); });
  status.addEventListener("change", goTo);
  fields.addEventListener("change", (event) => { if (event.target.matches("input")) goTo(); });
  drawFields();

  const source = query.getAll("where").length ? search(query, known) : listing(query);
  async function page(after) {
    const found = await source(after, here.signal);
    state.rows = after ? [...state.rows, ...found.rows] : found.rows;
    state.next = found.next;
    state.note = found.note;
  }
  function draw() {
    refresh(bar, [...state.chosen.keys()], () => bulkBar(state, known, () => { state.chosen.clear(); draw(); look(); }));
    refresh(list, [state.rows, state.next, state.note, [...state.chosen.keys()]], () => [
      state.note && h("p", { class: "soft" }, state.note),
      state.rows.length ? h("div", { class: "scroll" }, rowsTable(state, draw)) : empty(state.next ? "Nothing so far; there is more to look at." : "No entity fits."),
      state.next && more(async () => { await page(state.next); draw(); }),
      state.rows.length > 0 && state.next && h("p", { class: "more" }, h("button", { type: "button", "data-key": "all", on: { click: () => selectAll(state, page, draw) } }, `Select all that fit (at most ${number(BULK_MAX)})`)),
    ]);
  }
  // Once more pages are shown they stay as they are: a list that moves under the reader is of no use.
  const look = here.live(async () => { if (state.rows.length <= PAGE) await page(); draw(); }, 5_000);
}

const select = (label, values, value) =>
  h("select", null, h("option", { value: "" }, label), values.map((one) => h("option", { value: one, selected: one === value }, one)));

function condition(names, text) {
  const [, name = "", operator = "", value = ""] = /^(\w+?)(?:__(ne|lt|le|gt|ge))?=(.*)$/s.exec(text) ?? [];
  return h("span", { class: "condition filters" },
    h("select", { "aria-label": "Field of the state" }, names.map((one) => h("option", { value: one, selected: one === name }, one))),
    h("select", { "aria-label": "Comparison" }, Object.entries(OPERATORS).map(([key, sign]) => h("option", { value: key, selected: key === operator }, sign))),
    h("input", { value, "aria-label": "Value", placeholder: "state field is…" }));
}

function conditionText(element) {
  const [field, operator] = [...element.querySelectorAll("select")].map((one) => one.value);
  const { value } = element.querySelector("input");
  return value === "" ? null : `${field}${operator && `__${operator}`}=${value}`;
}

const listing = (query) => async (after, signal) => {
  const asked = Object.fromEntries(["type", "prefix", "status", "waiting"].map((name) => [name, query.get(name)]));
  const found = await get(path(["all-entities"], { ...asked, limit: PAGE, after }), signal);
  return { rows: found.entities, next: found.next, note: !found.entities.length && found.next ? `${number(found.examined)} were looked at.` : "" };
};

const search = (query, known) => async (after, signal) => {
  const type = query.get("type");
  const conditions = Object.fromEntries(query.getAll("where").map((one) => [one.slice(0, one.indexOf("=")), one.slice(one.indexOf("=") + 1)]));
  const found = await get(path(["entities", type], { ...conditions, limit: PAGE, after }), signal);
  const [workflow = ""] = known.find((one) => one.type === type)?.members.filter((one) => one.kind === "workflow").map((one) => one.name) ?? [];
  return {
    rows: found.matches.map((match) => ({ type, key: match.key, version: match.version, updated_at: match.updated_at, state: match.state, workflow })),
    next: found.next,
    note: [found.indexed ? "" : `No index for this: ${number(found.examined)} entities were looked at.`, found.unreadable.length ? `${found.unreadable.length} could not be read: ${found.unreadable.slice(0, 5).join(", ")}` : ""].join(" ").trim(),
  };
};

function rowsTable(state, draw) {
  const isSearch = state.rows[0].state !== undefined;
  const id = (row) => `${row.type}/${row.key}`;
  const all = h("input", { type: "checkbox", "aria-label": "Select all shown", "data-key": "select-all", on: { change: () => {
    for (const row of state.rows) if (all.checked) state.chosen.set(id(row), row); else state.chosen.delete(id(row));
    draw();
  } } });
  all.checked = state.rows.every((row) => state.chosen.has(id(row)));
  const box = (row) => h("input", { type: "checkbox", checked: state.chosen.has(id(row)), "aria-label": `Select ${id(row)}`, "data-key": `select-${id(row)}`, on: { change: (event) => {
    if (event.target.checked) state.chosen.set(id(row), row); else state.chosen.delete(id(row));
    draw();
  } } });
  return table("Entities", [
    [all, box, "tight"],
    ["Entity", (row) => entityLink(row.type, row.key)],
    isSearch ? ["State", (row) => h("code", { class: "soft" }, brief(withoutKey(row.state)))] : ["Status", (row) => [badge(row.paused ? "paused" : row.status), " ", row.workflow], "tight"],
    !isSearch && ["Waits for", (row) => row.paused || row.waiting],
    ["Changed", (row) => when(row.updated_at), "tight"],
    ["Version", (row) => row.version, "right tight"],
  ].filter(Boolean), state.rows, id);
}

function withoutKey({ key, ...state }) { return state; }

async function selectAll(state, page, draw) {
  while (state.next && state.rows.length < BULK_MAX) await page(state.next);
  for (const row of state.rows.slice(0, BULK_MAX)) state.chosen.set(`${row.type}/${row.key}`, row);
  draw();
}

// --- Many at once -----------------------------------------------------------------------------------------------------

function bulkBar(state, known, done) {
  if (!state.chosen.size) return null;
  return [h("span", { class: "badge live" }, `${number(state.chosen.size)} selected`),
    BULK.map((action) => h("button", { type: "button", class: action === "terminate" ? "danger" : null, "data-key": `bulk-${action}`, on: { click: () => bulk(action, [...state.chosen.values()], done) } }, capital(action)))];
}

/** One request for each entity; what they will hit is shown first, what failed afterwards. */
async function bulk(action, rows, done) {
  const hits = rows.filter((row) => row.workflow);
  const failures = [];
  const ok = await act({
    title: `${capital(action)} ${number(hits.length)} runs`,
    about: hits.length < rows.length ? `${rows.length - hits.length} of the selected entities have no workflow run and are left out.` : "One request for each.",
    verb: `${capital(action)} ${number(hits.length)}`,
    keepsReason: action !== "cancel",
    tone: action === "pause" || action === "resume" ? "primary" : "danger",
    done: `${capital(action)}: sent to ${number(hits.length)} runs`,
    more: [h("ul", { class: "card mono", "aria-label": "What this hits" }, hits.slice(0, PREVIEW).map((row) => h("li", null, `${row.type}/${row.key}.${row.workflow}`)), hits.length > PREVIEW && h("li", { class: "soft" }, `… and ${number(hits.length - PREVIEW)} more`))],
    async run(why) {
      const body = action === "terminate" ? { reason: why.reason } : why;
      for (const row of hits) {
        try {
          await post(path(["entities", row.type, row.key, row.workflow, action]), body);
        } catch (error) {
          failures.push(`${row.type}/${row.key}: ${error.message}`);
        }
      }
    },
  });
  if (!ok) return;
  if (failures.length) say(`${failures.length} of ${hits.length} were refused. ${failures[0]}`, "bad");
  done();
}
