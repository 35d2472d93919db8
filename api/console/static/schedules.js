/** Schedules: when each is due next, how its last run went; pause, trigger. */

import { path, post } from "./api.js";
import { button, capital } from "./actions.js";
import { h } from "./dom.js";
import { addressLink, badge, entityPath, when } from "./format.js";
import { listPage } from "./lists.js";
import { act, table } from "./ui.js";

const TYPE = "PerdureSchedule";

export const show = (here) => listPage(here, {
  title: "Schedules",
  about: "What is started at times. Made in code, with perdure schedule create, or over HTTP.",
  route: "schedules",
  rowsOf: (answer) => answer.schedules,
  none: "There are no schedules.",
  draw: (rows, look) => h("div", { class: "scroll" }, table("Schedules", [
    ["Schedule", (one) => [h("a", { href: entityPath(TYPE, one.name), "data-key": one.name }, one.name), " ", one.is_paused && badge("paused")]],
    ["When", (one) => h("code", null, one.when)],
    ["Starts", (one) => targetOf(one.target)],
    ["Next", (one) => (one.is_paused ? h("span", { class: "soft" }, one.paused_reason || "paused") : when(one.next_at)), "tight"],
    ["Last", (one) => [when(one.last_at), " ", one.last_status && badge(one.last_status), one.last_error && h("div", { class: "error" }, one.last_error)]],
    ["Running", (one) => one.running, "right tight"],
    ["", (one) => h("div", { class: "buttons" }, [one.is_paused ? "unpause" : "pause", "trigger"].map((action) =>
      button(capital(action), () => change(one, action), look, { key: `${action}-${one.name}` }))), "tight"],
  ], rows, (one) => one.name)),
});

/** `Type/key.member`: a key may hold dots, a member may not. */
function targetOf(target) {
  const dot = target.lastIndexOf(".");
  return [addressLink(target.slice(0, dot)), h("span", { class: "soft" }, target.slice(dot))];
}

const change = (one, action) =>
  act({
    title: `${capital(action)} the schedule ${one.name}`,
    verb: capital(action),
    about: action === "trigger" ? "Starts it once, now; its times stay as they are." : "",
    run: ({ reason }) => post(path(["entities", TYPE, one.name, action]), action === "trigger" ? {} : { note: reason }),
  });
