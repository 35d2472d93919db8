/** A downloaded history against the classes that this gateway has: choose or drop a file, see which runs still fit. */

import { path, post } from "./api.js";
import { h } from "./dom.js";
import { badge } from "./format.js";
import { empty, labelled, problemBox, table } from "./ui.js";

const VERDICTS = {
  fits: ["fits", "good"], differs: ["differs", "bad"], unknown_type: ["unknown type", "bad"], unknown_workflow: ["unknown workflow", "bad"],
  unreadable: ["unreadable", "bad"], incomplete: ["journal not kept", "calm"],
};

export function replaySection(type) {
  const file = h("input", { type: "file", accept: ".json,application/json" });
  const result = h("div", { role: "status", "aria-live": "polite" });
  const check = async (chosen) => {
    if (!chosen) return;
    result.replaceChildren(h("p", { class: "soft" }, `Replaying ${chosen.name}…`));
    try {
      const text = await chosen.text();
      result.replaceChildren(report(chosen.name, await post(path(["replay"], { type }), parsed(text))));
    } catch (error) {
      result.replaceChildren(problemBox(error));
    } finally {
      file.value = ""; // the same file again, after a deploy
    }
  };
  file.addEventListener("change", () => check(file.files[0]));
  const section = h("section", { class: "card stack", "aria-label": "Replay a history" },
    h("h2", null, "Replay a history"),
    labelled(`History of a ${type}, as downloaded`, file, "Or drop it here. Its runs are rebuilt by the code that this gateway has; nothing is executed, and nothing is stored."),
    result);
  section.addEventListener("dragover", (event) => event.preventDefault());
  section.addEventListener("drop", (event) => { event.preventDefault(); check(event.dataTransfer.files[0]); });
  return section;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Error("This file is not JSON.");
  }
}

function report(name, { key, runs, is_whole: isWhole, type }) {
  return h("div", { class: "stack" },
    h("p", null, `${name}: ${type}/${key}, ${runs.length} run${runs.length === 1 ? "" : "s"}, ${runs.filter((one) => one.verdict === "fits").length} of them fit this code`),
    !isWhole && h("p", { class: "error" }, "It took too long: the runs below are those that were replayed in time."),
    runs.length ? h("div", { class: "scroll" }, table("What this code makes of each run", [
      ["Workflow", (one) => one.workflow], ["Run", (one) => h("code", null, one.run_id)], ["Was", (one) => one.status && badge(one.status), "tight"],
      ["Verdict", (one) => verdict(one.verdict), "tight"], ["Entries", (one) => one.entries, "right tight"], ["Where it differs", where],
    ], runs)) : empty("No workflow of it was ever started: there is nothing to replay."));
}

function verdict(name) {
  const [text, tone] = VERDICTS[name] ?? [name, "calm"];
  return h("span", { class: `badge ${tone}` }, text);
}

function where(one) {
  if (one.verdict !== "differs") return one.reason;
  return [h("div", null, `journal entry ${one.entries}`), h("div", null, h("span", { class: "soft" }, "recorded "), h("code", null, one.recorded)), h("div", null, h("span", { class: "soft" }, "this code asks for "), h("code", null, one.expected))];
}
