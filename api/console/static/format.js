/** How things are written. */

import { h } from "./dom.js";

export const entityPath = (type, key, tab) =>
  `#/entity/${encodeURIComponent(type)}/${encodeURIComponent(key)}${tab ? `/${tab}` : ""}`;

export const entityLink = (type, key, tab) =>
  h("a", { href: entityPath(type, key, tab), class: "address", "data-key": `${type}/${key}` }, h("span", { class: "soft" }, `${type}/`), key);

/** `Type/key` (or `Type/key#workflow/…`) as a link if it is one, else as text. */
export function addressLink(text) {
  const [address] = text.split("#");
  const slash = address.indexOf("/");
  const isEntity = slash > 0 && /^[A-Za-z_]\w*$/.test(address.slice(0, slash)) && slash < address.length - 1;
  return isEntity ? entityLink(address.slice(0, slash), address.slice(slash + 1)) : h("span", { class: "soft" }, text);
}

const UNITS = [[86_400, "d"], [3_600, "h"], [60, "min"], [1, "s"]];

/** 93784 → "1 d 2 h"; 0.25 → "250 ms". */
export function duration(seconds) {
  if (seconds === 0) return "0 s";
  if (seconds < 1) return `${Math.max(1, Math.round(seconds * 1000))} ms`;
  if (seconds < 10) return `${(Math.round(seconds * 10) / 10).toString()} s`;
  const at = UNITS.findIndex(([unit]) => seconds >= unit);
  const [unit, name] = UNITS[at];
  const whole = Math.floor(seconds / unit);
  const [below, nameBelow] = UNITS[at + 1] ?? [];
  const rest = below && whole < 10 ? Math.floor((seconds - whole * unit) / below) : 0;
  return rest ? `${whole} ${name} ${rest} ${nameBelow}` : `${whole} ${name}`;
}

const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** "5 min ago", "in 12 s": kept up to date by `tick`. */
export function when(time) {
  if (!time) return h("span", { class: "soft" }, "–");
  return h("time", { datetime: time, title: FULL.format(new Date(time)), "data-since": time }, relative(time));
}

export function relative(time) {
  const seconds = (Date.parse(time) - Date.now()) / 1000;
  if (Math.abs(seconds) < 1) return "now";
  return seconds > 0 ? `in ${duration(Math.max(1, Math.round(seconds)))}` : `${duration(Math.max(1, Math.round(-seconds)))} ago`;
}

/** Once a second: whatever `when` has made tells the present difference. */
export function tick(root) {
  for (const one of root.querySelectorAll("time[data-since]")) {
    const text = relative(one.dataset.since);
    if (one.textContent !== text) one.textContent = text;
  }
}

export const clock = (time) => new Date(time).toLocaleTimeString(undefined, { hour12: false });
export const full = (time) => FULL.format(new Date(time));

export const number = (value) => new Intl.NumberFormat().format(value);

/** A `Count` of the overview. */
export const count = (value) =>
  value.is_exact ? number(value.value) : value.is_at_least ? `${number(value.value)}+` : `≈ ${number(value.value)}`;

/** JSON in one line, cut. */
export function brief(value, characters = 120) {
  if (value === undefined) return "";
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.length > characters ? `${text.slice(0, characters - 1)}…` : text;
}

/** An ErrorBody in one line. */
export const errorLine = (error) => (error ? `${error.type || error.code || "error"}: ${error.message ?? brief(error)}` : "");

const TONES = {
  running: "live", waiting: "calm", retrying: "warn", paused: "warn", outside: "calm", held: "warn", parked: "bad",
  failed: "bad", completed: "good", cancelled: "calm", terminated: "calm", idle: "calm", damaged: "bad", poisoned: "bad",
  wedged: "bad", exhausted: "bad", dead_letter: "bad", late_reminder: "warn", old_message: "warn", alive: "good",
  draining: "warn", lost: "bad", fenced: "bad", stopped: "calm",
};

export const badge = (text) => h("span", { class: `badge ${TONES[text] ?? "calm"}` }, text.replaceAll("_", " "));
