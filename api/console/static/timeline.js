/** The timeline: what happened to the entity as a picture over time, and the same as a table. */

import { h, refresh, s } from "./dom.js";
import { nothing } from "./entity.js";
import { addressLink, badge, clock, duration, errorLine, full } from "./format.js";
import { more, table, traceback, value } from "./ui.js";

const PAGE = 200;
const LANE = 26;
const LABEL = 170;
const TOP = 34;
const LANES_MAX = 40;
const OUTCOMES = new Set(["completed", "failed", "timer_fired", "received", "condition_met"]);
const ASKED = new Set(["scheduled", "timer_started", "waiting"]);

export async function make(entity, place) {
  const picture = h("div", { class: "card picture", role: "group", "aria-label": "Picture", tabindex: 0 }); // it scrolls in a narrow window
  const even = h("input", { type: "checkbox" });
  const list = h("div", { class: "scroll events" });
  place.append(picture, h("label", { class: "check" }, even, "Real scale (long waits are shortened otherwise)"), list);
  let pages = 1;
  let last = null;
  even.addEventListener("change", () => { picture.shown = undefined; draw(); });

  function draw() {
    if (!last) return;
    const [now, events, isWhole] = last;
    refresh(picture, [events, even.checked, now.runs.map((run) => run.operations)], () => drawing(now, events, even.checked, picture.clientWidth, choose));
    refresh(list, [events, isWhole], () => [
      eventTable(events),
      !isWhole && more(() => { pages += 1; entity.look(); }),
    ]);
  }

  function choose(at) {
    for (const row of list.querySelectorAll(".chosen")) row.classList.remove("chosen");
    const row = list.querySelector(`[data-row="${at}"]`);
    row?.classList.add("chosen");
    row?.scrollIntoView({ block: "center", behavior: "smooth" });
  }

  return async (now) => {
    if (!now) return void refresh(list, "nothing", nothing);
    const found = await entity.history({ limit: Math.min(1_000, PAGE * pages) });
    last = [now, found.events.toReversed(), found.next === null || PAGE * pages >= 1_000];
    draw();
  };
}

// --- The table --------------------------------------------------------------------------------------------------------

const eventTable = (events) =>
  table("Events, the newest first", [
    ["Time", (event) => h("time", { datetime: event.at, title: full(event.at) }, clock(event.at)), "tight"],
    ["What", (event) => what(event), "tight"],
    ["Name", (event) => [event.name || event.kind, event.operation !== undefined && h("span", { class: "soft" }, ` #${event.operation}`)]],
    ["Details", details],
    ["Version", (event) => event.version, "right tight"],
  ], events.toReversed(), (_, at) => String(events.length - 1 - at));

function what(event) {
  const text = event.what.replaceAll("_", " ");
  if (event.what === "ended") return badge(event.kind);
  return h("span", { class: event.ok === false ? "error" : null }, event.what === "message" || event.what === "operator" ? `${text}: ${event.kind}` : text);
}

function details(event, at) {
  const key = `${event.version}-${event.what}-${event.operation ?? event.name}`;
  const parts = [];
  if (event.details?.attempts) parts.push(h("span", { class: "badge warn" }, `${event.details.attempts} failed attempt${event.details.attempts > 1 ? "s" : ""}`), " ");
  if (event.details?.target) parts.push("to ", addressLink(event.details.target), " ");
  if (event.error) parts.push(h("span", { class: "error" }, errorLine(event.error)), causes(event.error), traceback(event.error, key));
  if (event.input !== undefined && event.input !== null && JSON.stringify(event.input) !== "{}") parts.push(h("div", null, h("span", { class: "soft" }, "in "), value(event.input, `${key}-in`)));
  if (event.output !== undefined && event.output !== null) parts.push(h("div", null, h("span", { class: "soft" }, "out "), value(event.output, `${key}-out`)));
  if (event.sender && /^[A-Za-z_]\w*\//.test(event.sender)) parts.push(h("div", null, h("span", { class: "soft" }, "from "), addressLink(event.sender)));
  return parts;
}

/** The chain of causes of an error. */
export function causes(error) {
  const lines = [];
  for (let one = error.cause; one && lines.length < 10; one = one.cause) lines.push(h("div", { class: "soft" }, `because of ${errorLine(one)}`));
  return lines;
}

// --- The picture ------------------------------------------------------------------------------------------------------

/** Bars and marks in lanes: messages, operators, then each run with one lane for each name of operation. */
export function layOut(now, events) {
  const lanes = new Map();
  const lane = (key, label, kind = "") => {
    if (!lanes.has(key)) lanes.set(key, { label, kind, bars: [], marks: [] });
    return lanes.get(key);
  };
  const present = Date.now();
  const pending = new Set(now.runs.flatMap((run) => run.operations.map((one) => `${run.run_id}/${one.number}`)));
  const open = new Map();
  const runs = new Map();

  events.forEach((event, at) => {
    const time = Date.parse(event.at);
    const operationKey = `${event.run_id}/${event.operation}`;
    if (event.what === "message" || event.what === "transaction") {
      lane("messages", "messages").marks.push({ time, at, ok: event.ok !== false, title: `${event.kind} ${event.name}` });
    } else if (event.what === "operator") {
      lane("operators", "operators").marks.push({ time, at, ok: event.ok !== false, title: event.name });
    } else if (event.what === "started") {
      const bar = { from: time, to: present, at, tone: "live", isOpen: true, title: event.name };
      runs.set(event.run_id, bar);
      lane(`run ${event.workflow}`, event.workflow, "run").bars.push(bar);
    } else if (event.what === "ended") {
      const bar = runs.get(event.run_id);
      if (bar) Object.assign(bar, { to: time, isOpen: false, tone: event.kind === "completed" ? "good" : event.kind === "failed" ? "bad" : "calm" });
    } else if (ASKED.has(event.what)) {
      const name = event.name || event.kind;
      const isPending = pending.has(operationKey);
      const bar = { from: time, to: isPending ? present : null, at, tone: event.kind === "activity" || event.kind === "call" ? "live" : "calm", isOpen: isPending, title: `${event.kind} ${event.name}`.trim(), run: event.run_id };
      open.set(operationKey, bar);
      lane(`op ${event.workflow} ${event.kind} ${name}`, event.name ? `${event.name}` : event.kind, event.kind).bars.push(bar);
    } else if (OUTCOMES.has(event.what)) {
      const bar = open.get(operationKey);
      if (bar) {
        const isWork = event.kind === "activity" || event.kind === "call";
        Object.assign(bar, { to: time, isOpen: false, tone: event.what === "failed" ? "bad" : isWork ? "good" : "calm" });
        open.delete(operationKey);
      }
      for (const other of open.values()) if (other.run === event.run_id && other.to === null && other.from < time) other.to = time; // given up since
    } else if (event.what === "attempt_failed") {
      const bar = open.get(operationKey);
      if (bar) Object.assign(bar, { failed: event.details?.attempts ?? 1, tone: bar.isOpen ? "warn" : bar.tone, title: `${bar.title}: ${event.error?.message ?? "failed"}` });
    }
  });
  for (const bar of open.values()) bar.to ??= bar.from;
  return [...lanes.values()];
}

/** Milliseconds → pixels. Shortened: a gap counts by its logarithm, so that seconds are seen beside months. */
export function scale(lanes, isReal, width) {
  const times = new Set();
  for (const lane of lanes) {
    for (const bar of lane.bars) times.add(bar.from).add(bar.to);
    for (const mark of lane.marks) times.add(mark.time);
  }
  const sorted = [...times].sort((a, b) => a - b);
  const weight = (gap) => (isReal ? gap : gap <= 0 ? 0 : Math.log2(1 + gap / 4));
  let sum = 0;
  const sums = new Map(sorted.map((time, at) => [time, (sum += at ? weight(time - sorted[at - 1]) : 0)]));
  const x = (time) => (sum ? (sums.get(time) / sum) * width : width / 2);
  return { x, sorted };
}

function drawing(now, events, isReal, available, choose) {
  const lanes = layOut(now, events).slice(0, LANES_MAX);
  if (!lanes.length) return h("p", { class: "empty" }, "No events are retained (they are kept for 24 hours by default).");
  const width = Math.max(640, available || 0);
  const inner = width - LABEL - 30;
  const { x, sorted } = scale(lanes, isReal, inner);
  const height = TOP + lanes.length * LANE + 14;
  const left = (time) => LABEL + 12 + x(time);
  const title = `Timeline of ${now.type}/${now.key}: ${events.length} events in ${lanes.length} lanes. The table below has them all.`;
  return s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title },
    axis(sorted, left, height),
    lanes.map((lane, row) => drawLane(lane, TOP + row * LANE, left, width, choose)));
}

function axis(sorted, left, height) {
  const parts = [s("text", { x: left(sorted[0]), y: 14, class: "soft" }, clock(sorted[0]))];
  let lastX = left(sorted[0]) + 70;
  sorted.slice(1).forEach((time, at) => {
    const from = left(sorted[at]);
    const to = left(time);
    if (to - from > 46) parts.push(s("text", { x: (from + to) / 2, y: 28, class: "soft", "text-anchor": "middle" }, duration((time - sorted[at]) / 1000)), s("line", { x1: to, x2: to, y1: 20, y2: height - 10, class: "grid" }));
    if (to - lastX > 70) {
      parts.push(s("text", { x: to, y: 14, class: "soft", "text-anchor": "end" }, clock(time)));
      lastX = to;
    }
  });
  return parts;
}

function drawLane(lane, y, left, width, choose) {
  const middle = y + LANE / 2;
  const label = lane.label.length > 22 ? `${lane.label.slice(0, 21)}…` : lane.label;
  return s("g", null,
    s("line", { x1: 0, x2: width, y1: y + LANE, y2: y + LANE, class: "lane" }),
    s("text", { x: lane.kind && lane.kind !== "run" ? 26 : 12, y: middle + 4, class: lane.kind && lane.kind !== "run" ? "soft" : null, "font-weight": lane.kind === "run" ? 650 : null }, label),
    lane.bars.map((bar) => {
      const from = left(bar.from);
      const size = Math.max(5, left(bar.to) - from);
      const height = lane.kind === "run" ? 6 : 13;
      return s("g", { class: bar.tone, "data-event": bar.at, on: { click: () => choose(bar.at) } },
        s("title", null, `${bar.title}, ${duration(Math.max(0, (bar.to - bar.from) / 1000))}${bar.isOpen ? " so far" : ""}`),
        s("rect", { x: from, y: middle - height / 2, width: size, height, rx: 3, class: bar.isOpen ? "pulse" : null }),
        bar.failed && [s("path", { class: "cross", d: `M${from + size + 5} ${middle - 4}l8 8m0-8l-8 8` }), s("text", { x: from + size + 17, y: middle + 4 }, `${bar.failed}×`)]);
    }),
    lane.marks.map((mark) =>
      s("g", { "data-event": mark.at, on: { click: () => choose(mark.at) } },
        s("title", null, mark.title), s("circle", { cx: left(mark.time), cy: middle, r: 5, class: mark.ok ? "mark" : "mark bad" }))));
}
