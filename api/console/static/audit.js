/** What operators have done, with their reasons. */

import { h } from "./dom.js";
import { entityLink, when } from "./format.js";
import { listPage } from "./lists.js";
import { table } from "./ui.js";

const ACTIONS = ["edit", "fork", "pause", "resume", "retry", "complete", "fail", "cancel", "terminate", "restart", "rerun", "decide", "replay_letter", "discard_letter", "drain"];
const HOST = "PerdureHost";

const link = (one) => (one.type === HOST ? h("a", { href: "#/hosts", class: "address", "data-key": `host ${one.key}` }, h("span", { class: "soft" }, "host "), one.key) : entityLink(one.type, one.key));


export const show = (here) => listPage(here, {
  title: "Audit",
  about: "Every action of an operator, as far as history is retained.",
  route: "audit",
  rowsOf: (answer) => answer.actions,
  filters: [["operator", "Operator"], ["action", "Action", ACTIONS], ["type", "Type"], ["key", "Key (with a type)"]],
  none: "No operator has done anything that is retained.",
  draw: (rows) => h("div", { class: "scroll" }, table("Actions, newest first", [
    ["When", (one) => when(one.at), "tight"],
    ["Who", (one) => one.operator || h("span", { class: "soft" }, "somebody")],
    ["Did", (one) => one.action, "tight"],
    ["To", (one) => [link(one), one.target && h("span", { class: "soft" }, ` ${one.target}`)]],
    ["Reason", (one) => one.reason],
    ["Outcome", (one) => (one.ok ? "applied" : h("span", { class: "error" }, one.error))],
  ], rows, (one) => `${one.type}/${one.key} ${one.message_id}`)),
});
