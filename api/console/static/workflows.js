/** Runs: where each stands, what it waits for, and what a person can do about it. */

import { button, capital, complete, fail, onRun, retry } from "./actions.js";
import { h, refresh } from "./dom.js";
import { nothing } from "./entity.js";
import { addressLink, badge, clock, entityPath, errorLine, full, when } from "./format.js";
import { causes } from "./timeline.js";
import { empty, json, table, traceback, value } from "./ui.js";

const JOURNAL = 300;
const DECISION = "decision:";

export async function make(entity, place) {
  const list = h("div", { class: "stack" });
  place.append(list);
  return async (now) => {
    if (!now) return void refresh(list, "nothing", nothing);
    const found = now.runs.length ? await entity.history({ limit: JOURNAL }) : { events: [] };
    const journal = found.events.filter((event) => event.run_id);
    refresh(list, [now.runs, journal.length, now.version], () => now.runs.length
      ? now.runs.map((run) => runCard(entity, run, journal.filter((event) => event.run_id === run.run_id)))
      : empty("No workflow of this entity was ever started. ", h("a", { href: entityPath(entity.type, entity.key, "try") }, "Start one"), "."));
  };
}

function runCard(entity, run, journal) {
  const about = { type: entity.type, key: entity.key, workflow: run.workflow };
  const isLive = run.status === "running" || run.status === "parked";
  const look = () => entity.look();
  const actions = isLive ? [run.paused || run.status === "parked" ? "resume" : "pause", "cancel", "terminate", "rerun"] : ["rerun"];
  return h("section", { class: "card", "aria-label": `Workflow ${run.workflow}` },
    h("div", { class: "head" },
      h("h2", null, run.workflow), badge(run.status), run.paused && badge("paused"),
      h("div", { class: "buttons" }, actions.map((one) => button(capital(one), () => onRun(about, one), look, { key: `${run.workflow}-${one}`, tone: one === "terminate" ? "danger" : one === "resume" ? "primary" : null })))),
    run.paused && h("p", null, `Paused by ${run.paused}`),
    h("dl", { class: "facts" },
      fact("started", when(run.started_at)), run.ended_at && fact("ended", when(run.ended_at)),
      fact("run", h("code", null, run.run_id)), run.parent && fact("started by", addressLink(run.parent)),
      run.chain.length > 0 && fact("waited for by", run.chain.map(addressLink)), run.children.length > 0 && fact("children", run.children.map(addressLink))),
    h("div", null, h("span", { class: "soft" }, "in "), value(run.input, `${run.run_id}-in`)),
    outcome(run),
    isLive && h("h3", null, run.operations.length ? "It waits for" : "It waits for nothing that is known: it has its turn to come."),
    isLive && run.operations.map((one) => operationBox(entity, about, one, run.status === "parked", look)),
    failedActivities(run, journal),
    h("details", { "data-key": `${run.run_id}-journal` }, h("summary", null, `Journal: ${journal.length} events`),
      h("div", { class: "scroll" }, table(`Journal of ${run.workflow}`, [
        ["Time", (event) => h("time", { datetime: event.at, title: full(event.at) }, clock(event.at)), "tight"],
        ["What", (event) => event.what.replaceAll("_", " "), "tight"],
        ["Operation", (event) => [event.operation !== undefined && `#${event.operation} `, event.kind !== event.name && event.kind, " ", event.name]],
        ["Value", (event) => (event.error ? [h("span", { class: "error" }, errorLine(event.error)), traceback(event.error, `${run.run_id}-${event.what}-${event.operation}`)] : value(event.output ?? event.input ?? undefined, `${event.version}-${event.what}-${event.operation}`))],
      ], journal))));
}

const fact = (name, ...content) => h("div", null, h("dt", null, name), h("dd", null, content));

function outcome(run) {
  if (run.outcome === null) return null;
  if (run.status === "completed") return h("div", null, h("span", { class: "soft" }, "out "), value(run.outcome, `${run.run_id}-out`));
  return h("div", { class: "error" }, errorLine(run.outcome), causes(run.outcome),
    run.outcome.details && h("details", { "data-key": `${run.run_id}-why` }, h("summary", null, "Details"), json(run.outcome.details)));
}

/** Activities that have no further attempt, whether the workflow's code could do without them or not. */
function failedActivities(run, journal) {
  const failed = journal.filter((event) => event.what === "failed" && event.kind === "activity");
  return failed.length > 0 && [
    h("h3", null, "Failed for good"),
    failed.map((event) => h("div", { class: "operation" },
      h("div", { class: "head" }, h("strong", null, `activity ${event.name}`), h("span", { class: "soft" }, `#${event.operation}`), when(event.at)),
      h("div", { class: "error" }, errorLine(event.error), causes(event.error), traceback(event.error, `${run.run_id}-failed-${event.operation}`)))),
  ];
}

function operationBox(entity, about, one, isParked, look) {
  const key = `${about.workflow}-${one.number}`;
  const label = one.name || one.kind;
  const isDecision = label.startsWith(DECISION);
  const canRetry = one.status === "retrying" || one.status === "paused";
  return h("div", { class: "operation", "data-row": key },
    h("div", { class: "head" },
      h("strong", null, one.kind === label ? label : `${one.kind} ${label}`), h("span", { class: "soft" }, `#${one.number}`), badge(one.status),
      isDecision && h("div", { class: "buttons" }, h("a", { href: `#/worklist?group=${encodeURIComponent(label.slice(DECISION.length))}` }, "Decide on the work list")),
      one.kind === "activity" && !isDecision && !isParked && h("div", { class: "buttons" },
        canRetry && button("Retry now", () => retry(about, one.number, label), look, { tone: "primary", key: `${key}-retry` }),
        button("Complete with…", () => complete(about, one.number, label), look, { key: `${key}-complete` }),
        button("Fail…", () => fail(about, one.number, label), look, { tone: "danger", key: `${key}-fail` })),
      one.kind === "receive" && h("div", { class: "buttons" }, h("a", { href: `${entityPath(entity.type, entity.key, "try")}/${encodeURIComponent(one.name)}` }, `Send to ${one.name}`))),
    h("dl", { class: "facts" },
      one.since && fact("since", when(one.since)),
      one.attempts > 0 && fact("failed attempts", one.attempts),
      one.next_at && fact(one.kind === "timer" ? "due" : one.status === "outside" ? "limit" : "next try", when(one.next_at))),
    one.last_error && h("div", { class: "error" }, errorLine(one.last_error), causes(one.last_error), traceback(one.last_error, key)),
    one.heartbeat !== null && h("div", null, h("span", { class: "soft" }, "heartbeat "), value(one.heartbeat, `${key}-beat`)),
    one.input !== null && h("div", null, h("span", { class: "soft" }, "in "), value(one.input, `${key}-in`)));
}
