/** Calls between entities: who sent to this one, and to whom it sent, as a tree that unfolds, and in their order. */

import { get, path } from "./api.js";
import { h, refresh, s } from "./dom.js";
import { nothing } from "./entity.js";
import { addressLink, badge, clock } from "./format.js";
import { empty } from "./ui.js";

const EVENTS = 500;
const DEPTH_MAX = 6;
const ADDRESS = /^[A-Za-z_]\w*\//;
const ROW = 24;

/** What an entity has sent and been sent: `{ out, from, to, name, at, ok, state }`, oldest first. */
export function exchanges(address, events) {
  const calls = new Map();
  const found = [];
  for (const event of events) {
    if (event.what === "message") found.push({ isOut: false, other: ADDRESS.test(event.sender ?? "") ? event.sender : "outside", name: event.name, at: event.at, state: event.ok === false ? "failed" : "completed" });
    else if ((event.what === "scheduled" || event.what === "sent") && event.details?.target) {
      const call = { isOut: true, other: event.details.target, name: event.name.split(".").at(-1), at: event.at, state: event.what === "sent" ? "completed" : "waiting" };
      calls.set(`${event.run_id}/${event.operation}`, call);
      found.push(call);
    } else if (event.what === "completed" || event.what === "failed") {
      const call = calls.get(`${event.run_id}/${event.operation}`);
      if (call) call.state = event.what;
    }
  }
  return found.filter((one) => one.other !== address);
}

export async function make(entity, place) {
  const tree = h("section", { class: "card tree", "aria-label": "Tree of calls" });
  const sequence = h("section", { class: "card picture", "aria-label": "Sequence of messages", tabindex: 0 });
  place.append(tree, sequence);
  const address = `${entity.type}/${entity.key}`;
  return async (now) => {
    if (!now) return void refresh(tree, "nothing", nothing);
    const found = await entity.history({ limit: EVENTS });
    const some = exchanges(address, found.events.toReversed());
    refresh(tree, [some, now.runs.map((run) => [run.parent, run.chain, run.children])], () => {
      const callers = [...new Set(some.filter((one) => !one.isOut && one.other !== "outside").map((one) => one.other))];
      return [
        h("h2", null, "Calls"),
        callers.length > 0 && h("p", null, h("span", { class: "soft" }, "called by "), callers.map((one) => [addressLink(one), " "])),
        node(address, some, 0, entity.signal),
      ];
    });
    refresh(sequence, some, () => (some.length ? sequenceOf(address, some) : h("p", { class: "empty" }, "No messages to or from other entities are retained.")));
  };
}

function node(address, some, depth, signal) {
  const out = some.filter((one) => one.isOut);
  if (!out.length) return empty("It has called no other entity (as far as is retained).");
  return h("ul", null, grouped(out).map(([other, calls]) => h("li", null,
    addressLink(other), h("span", { class: "soft" }, ` ${calls.map((one) => one.name).slice(-3).join(", ")}${calls.length > 3 ? ` (${calls.length} calls)` : ""} `), badge(calls.at(-1).state),
    depth < DEPTH_MAX && below(other, depth + 1, signal))));
}

const grouped = (calls) => [...Map.groupBy(calls, (one) => one.other)];

function below(address, depth, signal) {
  const content = h("div");
  const [type, ...rest] = address.split("/");
  const details = h("details", { "data-key": `${depth}-${address}` }, h("summary", { class: "soft" }, "what it called"), content);
  details.addEventListener("toggle", async () => {
    if (!details.open || content.hasChildNodes()) return;
    const found = await get(path(["entities", type, rest.join("/"), "-", "history"], { limit: EVENTS, newest_first: true }), signal).catch(() => ({ events: [] }));
    content.append(node(address, exchanges(address, found.events.toReversed()), depth, signal));
  });
  return details;
}

function sequenceOf(address, some) {
  const shown = some.slice(-40);
  const others = [...new Set(shown.map((one) => one.other))].slice(0, 6);
  const width = Math.max(640, 190 * (others.length + 1));
  const step = width / (others.length + 1);
  const columns = [address, ...others].sort((a, b) => (b === "outside") - (a === "outside"));
  const x = (name) => step * (columns.indexOf(name) + 0.5);
  const height = 40 + shown.length * ROW + 10;
  return s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `The last ${shown.length} messages between ${address} and ${others.length} others, in order` },
    columns.map((name) => [
      s("text", { x: x(name), y: 18, "text-anchor": "middle", "font-weight": 650 }, name.length > 24 ? `${name.slice(0, 23)}…` : name),
      s("line", { x1: x(name), x2: x(name), y1: 26, y2: height, class: "grid" })]),
    shown.filter((one) => columns.includes(one.other)).map((one, at) => {
      const y = 46 + at * ROW;
      const [from, to] = one.isOut ? [x(address), x(one.other)] : [x(one.other), x(address)];
      const tip = to > from ? -6 : 6;
      return s("g", { class: one.state === "failed" ? "bad" : null },
        s("title", null, `${clock(one.at)} ${one.name}`),
        s("path", { class: one.state === "failed" ? "cross" : "arrow", d: `M${from} ${y}H${to}m${tip} -4l${-tip} 4l${tip} 4`, fill: "none" }),
        s("text", { x: (from + to) / 2, y: y - 4, "text-anchor": "middle", class: "soft" }, one.name));
    }));
}
