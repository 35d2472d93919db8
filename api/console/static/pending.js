/** What waits for the entity: messages, mailbox items, reminders and timers, dead letters; and what it has sent. */

import { button, discard, resend } from "./actions.js";
import { h, refresh } from "./dom.js";
import { nothing } from "./entity.js";
import { addressLink, duration, entityPath, errorLine, when } from "./format.js";
import { causes } from "./timeline.js";
import { empty, more, table, traceback, value } from "./ui.js";

const TURNS = 50;
const TURNS_MAX = 800;

export async function make(entity, place) {
  const list = h("div", { class: "stack" });
  const sent = h("div");
  place.append(list, sent);
  let turns = TURNS;
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
    const outbox = await entity.get(entity.atWith({ limit: turns }, "-", "outbox"));
    refresh(sent, outbox, () => outboxSection(outbox, turns < TURNS_MAX && outbox.next !== null && more(() => { turns = Math.min(TURNS_MAX, turns * 4); entity.look(); })));
  };
}

const TONES = { waiting: "live", delayed: "calm", applied: "good", failed: "bad", dead_letter: "bad", unknown: "calm" };

/** Where each message is: the receiver's inbox and dead letters are on its own page, the turn in its history. */
function outboxSection({ messages, is_cut: isCut }, further) {
  const about = "Messages that its workflows have sent, the newest first; of its handlers’ those that wait or were given up.";
  return h("section", { class: "stack", "aria-label": "Outbox" },
    h("div", { class: "head" }, h("h2", null, "Outbox"), h("span", { class: "soft" }, messages.length || "none")),
    messages.length ? h("div", { class: "scroll" }, table(about, [
      ["Sent", (one) => when(one.sent_at), "tight"], ["To", (one) => addressLink(`${one.type}/${one.key}`)], ["Message", (one) => one.name], ["Kind", (one) => one.kind, "tight"],
      ["What became of it", (one) => [h("span", { class: `badge ${TONES[one.status]}` }, one.status.replaceAll("_", " ")), " ", whereabouts(one)]],
      ["By", (one) => one.workflow && `${one.workflow} #${one.operation}`, "tight"],
    ], messages)) : empty(`Nothing. ${about}`),
    isCut && h("p", { class: "soft" }, "Inboxes or dead letters are long: more of what handlers sent may wait."),
    further);
}

function whereabouts(one) {
  const tab = one.status === "waiting" || one.status === "delayed" || one.status === "dead_letter" ? "pending" : "timeline";
  if (one.status === "unknown") return h("span", { class: "soft" }, "no longer retained");
  return [h("a", { href: entityPath(one.type, one.key, tab) }, one.receiver_version ? `version ${one.receiver_version}` : "look"), one.settled_at && [" ", when(one.settled_at)]];
}

const section = (title, about, rows, max, columns) =>
  h("section", { class: "stack", "aria-label": title },
    h("div", { class: "head" }, h("h2", null, title), h("span", { class: "soft" }, rows.length >= max ? `the first ${max}` : rows.length || "none")),
    rows.length ? h("div", { class: "scroll" }, table(about, columns, rows)) : empty(`Nothing. ${about}`));
