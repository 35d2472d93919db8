/** What waits for the entity: messages, mailbox items, reminders and timers, dead letters. */

import { button, discard, resend } from "./actions.js";
import { h, refresh } from "./dom.js";
import { nothing } from "./entity.js";
import { addressLink, duration, errorLine, when } from "./format.js";
import { causes } from "./timeline.js";
import { empty, table, traceback, value } from "./ui.js";

export async function make(entity, place) {
  const list = h("div", { class: "stack" });
  place.append(list);
  return async (now) => {
    if (!now) return void refresh(list, "nothing", nothing);
    refresh(list, [now.inbox, now.items, now.reminders, now.dead_letters], () => [
      section("Inbox", "Messages that are stored and wait for their turn.", now.inbox, now.rows_max, [
        ["Message", (one) => one.name], ["Kind", (one) => one.kind, "tight"], ["From", (one) => addressLink(one.sender)], ["Arguments", (one) => value(one.input, one.message_id)],
      ]),
      section("Mailboxes", "Items that nobody has received yet.", now.items, now.rows_max, [
        ["Mailbox", (one) => one.mailbox], ["Item", (one) => value(one.item, one.message_id)],
      ]),
      section("Reminders and timers", "What is due, the earliest first.", now.reminders, now.rows_max, [
        ["Due", (one) => when(one.due_at), "tight"], ["Kind", (one) => one.kind, "tight"], ["Name", (one) => one.name],
        ["Calls", (one) => one.handler], ["Again", (one) => one.cron || (one.every_s ? `every ${duration(one.every_s)}` : "")],
      ]),
      section("Dead letters", "Messages that were given up after their last attempt.", now.dead_letters, now.rows_max, [
        ["Message", (one) => one.name], ["Given up", (one) => when(one.died_at), "tight"], ["Attempts", (one) => one.attempts, "right tight"],
        ["Error", (one) => [h("span", { class: "error" }, errorLine(one.error)), causes(one.error), traceback(one.error, one.message_id)]], ["Arguments", (one) => value(one.args, one.message_id)],
        ["", (one) => h("div", { class: "buttons" }, button("Send again", () => resend(one), entity.look, { tone: "primary", key: `again-${one.message_id}` }), button("Discard", () => discard(one), entity.look, { tone: "danger", key: `discard-${one.message_id}` })), "tight"],
      ]),
    ]);
  };
}

const section = (title, about, rows, max, columns) =>
  h("section", { class: "stack", "aria-label": title },
    h("div", { class: "head" }, h("h2", null, title), h("span", { class: "soft" }, rows.length >= max ? `the first ${max}` : rows.length || "none")),
    rows.length ? h("div", { class: "scroll" }, table(about, columns, rows)) : empty(`Nothing. ${about}`));
