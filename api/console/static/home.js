/** Home: what needs a person first, then how much there is and how fast it goes. */

import { button, onRun, resend, retry } from "./actions.js";
import { get } from "./api.js";
import { h, refresh, s } from "./dom.js";
import { badge, count, entityLink, entityPath, number, when } from "./format.js";
import { empty, table } from "./ui.js";

const BAD = new Set(["damaged", "parked", "poisoned", "wedged", "exhausted", "dead_letter", "failed"]);
const EVERY_MS = 3_000;

export async function show(here) {
  const attention = h("div", { class: "stack" });
  const figures = h("div");
  const rest = h("div", { class: "two" });
  here.root.replaceChildren(h("h1", null, "Home"), figures, attention, rest);
  const look = here.live(async () => {
    const found = await get("overview", here.signal);
    refresh(figures, [found.hosts, found.decisions_open, found.last_hour, found.attention_counts], () => figureList(found));
    refresh(attention, [found.attention, found.attention_counts], () => attentionList(found, look));
    refresh(rest, [found.types, found.last_hour], () => [typeTable(found.types), pace(found.last_hour)]);
  }, EVERY_MS);
}

function figureList(found) {
  const { hosts, last_hour: hour } = found;
  const waiting = Object.values(found.attention_counts).reduce((sum, one) => sum + one.value, 0);
  return h("dl", { class: "figures" },
    figure("Need a person", number(waiting), waiting ? "bad" : ""),
    figure("Decisions open", h("a", { href: "#/worklist" }, count(found.decisions_open))),
    figure("Hosts alive", [number(hosts.alive), hosts.lost > 0 && h("small", { class: "error" }, ` ${hosts.lost} lost`), hosts.draining > 0 && h("small", { class: "soft" }, ` ${hosts.draining} draining`)], hosts.alive ? "" : "bad"),
    hosts.shards_without_host > 0 && figure("Shards without a host", `${hosts.shards_without_host} of ${hosts.shards}`, "bad"),
    figure("Turns per second", number(Math.round(hour.turns_per_s * 10) / 10)),
    figure("Commit, median", hour.commit_ms_p50 === null ? "–" : [number(Math.round(hour.commit_ms_p50 * 10) / 10), h("small", { class: "soft" }, " ms")]));
}

const figure = (name, content, tone = "") => h("div", { class: `figure ${tone}` }, h("dt", null, name), h("dd", null, content));

function attentionList(found, look) {
  if (!found.attention.length) return empty("Nothing needs a person now.");
  const more = Object.entries(found.attention_counts).filter(([kind, one]) => one.value > found.attention.filter((row) => row.kind === kind).length);
  return [
    h("h2", null, "Needs a person"),
    h("ul", { class: "attention" }, found.attention.map((one) => {
      const key = `${one.kind} ${one.type}/${one.key} ${one.message_id || one.operation || one.name}`;
      return h("li", { class: BAD.has(one.kind) ? "bad" : null, "data-row": key },
        h("div", { class: "what" }, badge(one.kind), entityLink(one.type, one.key, tabOf(one)), h("span", { class: "soft" }, [one.workflow, one.name].filter(Boolean).join(" · ")),
          one.attempts > 0 && h("span", { class: "soft" }, `${number(one.attempts)} ${one.attempts === 1 ? "attempt" : "attempts"}`), one.since && h("span", { class: "soft" }, "since ", when(one.since)),
          one.next_at && h("span", { class: "soft" }, "next try ", when(one.next_at))),
        h("div", { class: "error" }, one.reason),
        h("div", { class: "buttons" }, remedy(one, look, key)));
    })),
    more.map(([kind, one]) => h("p", { class: "soft" }, `${count(one)} ${kind.replaceAll("_", " ")} in all. `, kind === "dead_letter" ? h("a", { href: "#/letters" }, "Show them") : kind === "parked" || kind === "failed" || kind === "damaged" ? h("a", { href: `#/entities?status=${kind}` }, "Show them") : null)),
  ];
}

const tabOf = (one) => (one.kind === "dead_letter" || one.kind === "old_message" || one.kind === "late_reminder" ? "pending" : one.workflow ? "workflows" : undefined);

/** What helps, where one thing most often does; else the page of the entity. */
function remedy(one, look, key) {
  const run = { type: one.type, key: one.key, workflow: one.workflow };
  const options = { tone: "primary", key: `${key} remedy` };
  switch (one.kind) {
    case "wedged":
    case "exhausted":
      return button("Retry now", () => retry(run, one.operation, one.name), look, options);
    case "parked":
    case "paused":
      return button("Resume", () => onRun(run, "resume"), look, options);
    case "failed":
      return button("Rerun", () => onRun(run, "rerun"), look, options);
    case "dead_letter":
      return button("Send again", () => resend(one), look, options);
    default:
      return one.workflow ? button("Resume", () => onRun(run, "resume"), look, options) : h("a", { href: entityPath(one.type, one.key, tabOf(one)) }, "Look");
  }
}

const typeTable = (types) =>
  h("section", { class: "stack", "aria-label": "Types" }, h("h2", null, "Types"),
    types.length ? h("div", { class: "scroll" }, table("Entities and runs by type", [
      ["Type", (one) => h("a", { href: `#/entities?type=${encodeURIComponent(one.type)}` }, one.type)],
      ["Entities", (one) => count(one.entities), "right"],
      ["Runs", (one) => h("div", { class: "buttons" }, Object.entries(one.runs).map(([status, some]) => h("a", { href: `#/entities?type=${encodeURIComponent(one.type)}&status=${status}`, title: status }, badge(status), ` ${count(some)}`)))],
    ], types)) : empty("There are no entities yet."));

function pace(hour) {
  const minutes = hour.minutes;
  return h("section", { class: "stack", "aria-label": "The last hour" }, h("h2", null, "The last hour"),
    minutes.length < 2 ? empty("Hosts note their figures once a minute.")
      : h("div", { class: "card stack" }, spark("Turns per second", minutes.map((one) => one.turns / 60)), spark("Commit time, slowest 1 %, in ms", minutes.map((one) => one.commit_ms_p99))));
}

function spark(name, values) {
  const top = Math.max(...values, 1e-9);
  const points = values.map((one, at) => `${(at / (values.length - 1)) * 300},${46 - (one / top) * 42}`);
  const last = values.at(-1);
  return h("figure", null,
    h("figcaption", null, name, h("span", { class: "soft" }, ` now ${number(Math.round(last * 10) / 10)}, at most ${number(Math.round(top * 10) / 10)}`)),
    s("svg", { viewBox: "0 0 300 48", class: "spark", preserveAspectRatio: "none", role: "img", "aria-label": `${name}: at most ${top.toFixed(1)}, last ${last.toFixed(1)}` },
      s("path", { class: "area", d: `M0,48L${points.join("L")}L300,48Z` }), s("path", { d: `M${points.join("L")}` })));
}
