/** Parts that several pages use: messages, dialogs, tables, JSON, problems. */

import { h } from "./dom.js";

const TOAST_MS = 6_000;
const NAME = "perdure-operator";

/** Say what has happened, also to screen readers. */
export function say(text, tone = "good") {
  const toast = h("p", { class: `toast ${tone}` }, text);
  document.getElementById("toasts").append(toast);
  setTimeout(() => toast.remove(), TOAST_MS);
}

/** A problem as a box. */
export const problemBox = (problem) =>
  h("div", { class: "problem", role: "alert" },
    h("strong", null, problem.code ? problem.code.replaceAll("_", " ") : "Something went wrong"),
    h("p", null, problem.message),
    problem.errors?.length > 0 && h("ul", null, problem.errors.map((one) => h("li", null, `${one.field || one.pointer || "body"}: ${one.message}`))));

export const empty = (...text) => h("p", { class: "empty" }, text);

let ids = 0;
export const newId = (name) => `${name}-${(ids += 1)}`;

/** A labelled control. */
export function labelled(label, control, hint) {
  control.id ||= newId("field");
  const about = hint && h("small", { id: `${control.id}-hint` }, hint);
  if (about) control.setAttribute("aria-describedby", about.id);
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, about);
}

/** A dialog; its promise gives what `onSubmit` returned, or null if it was closed. Errors stay in it, to try again. */
export function dialog({ title, about, body = [], verb, tone = "primary", onSubmit }) {
  return new Promise((done) => {
    const trouble = h("div");
    const button = verb && h("button", { type: "submit", class: tone }, verb);
    const titleId = newId("title");
    const form = h("form", { method: "dialog" },
      h("h2", { id: titleId }, title), about && h("p", { class: "soft" }, about), body, trouble,
      h("p", { class: "buttons" }, h("button", { type: "button", on: { click: () => box.close() } }, verb ? "Back" : "Close"), button));
    const box = h("dialog", { "aria-labelledby": titleId }, form);
    let result = null;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (!onSubmit) return;
      button.disabled = true;
      try {
        result = (await onSubmit()) ?? true;
        box.close();
      } catch (error) {
        trouble.replaceChildren(problemBox(error));
      } finally {
        button.disabled = false;
      }
    });
    box.addEventListener("close", () => { box.remove(); done(result); });
    document.body.append(box);
    box.showModal();
  });
}

/** Who does it and why: two fields, and what they say. */
export function whyFields() {
  const reason = h("input", { required: true, maxlength: 1000, autocomplete: "off", name: "reason" });
  const name = h("input", { maxlength: 200, autocomplete: "name", name: "operator", value: sessionStorage.getItem(NAME) ?? "" });
  return {
    fields: [
      labelled("Reason", reason, "Kept in the audit, and in the history of the entity."),
      labelled("Your name", name, "Counts only where there are no credentials."),
    ],
    read() {
      sessionStorage.setItem(NAME, name.value);
      return { reason: reason.value.trim(), ...(name.value && { operator: name.value }) };
    },
  };
}

/** Ask for a reason (where one is kept), then act. True if it was done. */
export async function act({ title, about, verb, tone, more = [], done, run, keepsReason = true }) {
  const why = whyFields();
  const ok = await dialog({ title, about, verb, tone, body: [more, keepsReason && why.fields], onSubmit: () => run(keepsReason ? why.read() : {}) });
  if (ok) say(done ?? `${verb}: done`);
  return Boolean(ok);
}

/** `columns`: [heading, cell(row), class?]. Rows are reached with j and k. On a phone they become cards. */
export const table = (caption, columns, rows, keyOf = (_, at) => String(at)) =>
  h("table", null,
    h("caption", { class: "hidden" }, caption),
    h("thead", null, h("tr", null, columns.map(([heading, , kind]) => (heading ? h("th", { scope: "col", class: kind }, heading) : h("td", { class: kind }))))),
    h("tbody", null, rows.map((row, at) => h("tr", { "data-row": keyOf(row, at) },
      columns.map(([heading, cell, kind]) => dataCell(typeof heading === "string" ? heading : "", kind, [cell(row)].flat(Infinity).filter(isShown)))))));

const isShown = (one) => one !== null && one !== undefined && one !== false && one !== "";

/** One element inside, so that a narrow window can put the label beside it. */
const dataCell = (label, kind, content) =>
  content.some((one) => one !== " ") ? h("td", { class: kind, "data-label": label }, h("div", null, content)) : h("td", { class: kind });

/** JSON as a foldable tree. */
export function json(value, name, depth = 0) {
  const label = name === undefined ? null : h("span", { class: "json-name" }, `${name}: `);
  if (value === null || typeof value !== "object") return h("div", { class: "json" }, label, scalar(value));
  const entries = Object.entries(value);
  const [open, close] = Array.isArray(value) ? ["[", "]"] : ["{", "}"];
  if (!entries.length) return h("div", { class: "json" }, label, open + close);
  const children = entries.slice(0, 500).map(([key, one]) => json(one, Array.isArray(value) ? undefined : key, depth + 1));
  if (entries.length > 500) children.push(h("div", { class: "soft" }, `… ${entries.length - 500} more`));
  return h("details", { class: "json", open: depth < 2 || undefined },
    h("summary", null, label, open, h("span", { class: "soft" }, ` ${entries.length} `), close), children);
}

function scalar(value) {
  const kind = value === null ? "null" : typeof value;
  return h("span", { class: `json-${kind}` }, kind === "string" ? JSON.stringify(value) : String(value));
}

/** A value, short in its line, whole when unfolded. */
export function value(data, key) {
  const text = typeof data === "string" ? data : JSON.stringify(data);
  if (text === undefined) return null;
  if (text.length <= 80) return h("code", null, text);
  return h("details", { class: "value", "data-key": key }, h("summary", null, h("code", null, `${text.slice(0, 72)}…`)), json(data));
}

/** Where an error was raised, if that is stored. */
export const traceback = (error, key) =>
  error?.traceback && h("details", { "data-key": `${key}-trace` }, h("summary", null, "Where it was raised"), h("pre", { class: "trace" }, error.traceback));

/** Save text as a file. */
export function download(name, text, type = "application/json") {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1_000);
}

/** "More" below a list with a cursor. */
export const more = (onClick) => h("p", { class: "more" }, h("button", { type: "button", on: { click: onClick }, "data-key": "more" }, "Show more"));
