/** Dead letters of all entities. */

import { button, discard, resend } from "./actions.js";
import { h } from "./dom.js";
import { entityLink, errorLine, when } from "./format.js";
import { listPage } from "./lists.js";
import { causes } from "./timeline.js";
import { table, traceback, value } from "./ui.js";

export const show = (here) => listPage(here, {
  title: "Dead letters",
  about: "One-way messages that were given up after their last attempt. They stay until somebody sends them again or discards them.",
  route: "dead-letters",
  rowsOf: (answer) => answer.letters,
  filters: [["type", "Type"], ["key", "Key (with a type)"]],
  none: "No message was given up.",
  draw: (rows, look) => h("div", { class: "scroll" }, table("Dead letters, oldest first", [
    ["Entity", (one) => entityLink(one.type, one.key, "pending")],
    ["Message", (one) => one.name],
    ["Given up", (one) => when(one.died_at), "tight"],
    ["Error", (one) => [h("span", { class: "error" }, errorLine(one.error)), causes(one.error), traceback(one.error, one.message_id)]],
    ["Arguments", (one) => value(one.args, one.message_id)],
    ["", (one) => h("div", { class: "buttons" }, button("Send again", () => resend(one), look, { tone: "primary", key: `again-${one.message_id}` }), button("Discard", () => discard(one), look, { tone: "danger", key: `discard-${one.message_id}` })), "tight"],
  ], rows, (one) => one.message_id)),
});
