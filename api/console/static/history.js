/** The history as JSON, to read, filter, save and replay. */

import { h, refresh } from "./dom.js";
import { button } from "./actions.js";
import { replaySection } from "./replay.js";
import { download, json, labelled, more, say } from "./ui.js";

const PAGE = 100;
const KINDS = ["message", "operator", "transaction", "started", "scheduled", "timer_started", "waiting", "sent", "continued", "reminder_changed",
  "completed", "failed", "timer_fired", "received", "condition_met", "cancel_requested", "ended", "attempt_failed", "parked"];

export async function make(entity, place) {
  const kind = h("select", null, h("option", { value: "" }, "all"), KINDS.map((one) => h("option", { value: one }, one.replaceAll("_", " "))));
  const list = h("div", { class: "card" });
  let limit = PAGE;
  kind.addEventListener("change", () => { limit = PAGE; entity.look(); });
  const save = async () => {
    download(`${entity.type}-${entity.key}.json`, JSON.stringify(await entity.get(entity.at("-", "export")), null, 1));
    say("Saved: everything that is retained, for perdure replay or import_entity()");
  };
  place.append(h("div", { class: "filters" }, labelled("Kind of event", kind), button("Download everything", save, () => {}, { key: "download" })), list, replaySection(entity.type));
  return async (now) => {
    const found = await entity.history({ limit, kind: kind.value });
    refresh(list, [now?.version ?? 0, found], () => [
      found.events.length ? found.events.map((event, at) => json(event, String(at))) : h("p", { class: "soft" }, "No such events are retained."),
      found.next !== null && limit < 1_000 && more(() => { limit += PAGE; entity.look(); }),
    ]);
  };
}
