/** Types: schema versions, what each can do. */

import { types } from "./catalogue.js";
import { h, refresh } from "./dom.js";
import { badge, count } from "./format.js";
import { empty, json } from "./ui.js";

export async function show(here) {
  const list = h("div", { class: "stack" });
  here.root.replaceChildren(h("h1", null, "Types"), h("p", { class: "soft" }, "Classes of entities: those of this gateway, Perdure's own, and those that are only in the database."), list);
  here.live(async () => {
    const found = await types();
    refresh(list, found, () => (found.length ? found.map(card) : empty("There are no types.")));
  }, 20_000);
}

function card(type) {
  const members = Object.groupBy(type.members, (one) => one.kind);
  return h("section", { class: "card", "aria-label": type.type, "data-row": type.type },
    h("div", { class: "head" }, h("h2", null, h("a", { href: `#/entities?type=${encodeURIComponent(type.type)}` }, type.type)),
      !type.is_served && badge("not served"), type.is_built_in && badge("built in"), type.pending_upgrades.value > 0 && h("span", { class: "badge warn" }, `${count(type.pending_upgrades)} to upgrade`),
      h("span", { class: "soft" }, `${count(type.entities)} entities`)),
    type.description && h("p", null, type.description),
    h("dl", { class: "facts" },
      fact("schema version", type.version ?? "–"),
      fact("stored", type.versions.length ? type.versions.map((one) => `version ${one.version}: ${count(one.entities)}`).join(", ") : "nothing"),
      type.indexed.length > 0 && fact("indexed", type.indexed.join(", ")), type.view && fact("SQL view", h("code", null, type.view))),
    h("dl", { class: "facts" }, Object.entries(members).map(([kind, some]) => fact(kind === "query" ? "queries" : kind === "mailbox" ? "mailboxes" : `${kind}s`, some.map((one) => one.name + (one.is_private ? " (private)" : "")).join(", ")))),
    type.state && h("details", { "data-key": `state-${type.type}` }, h("summary", null, "Schema of the state"), json(type.state)),
    type.members.length > 0 && h("details", { "data-key": `members-${type.type}` }, h("summary", null, "Schemas of the members"), json(Object.fromEntries(type.members.map((one) => [one.name, { arguments: one.arguments, result: one.result }])))));
}

const fact = (name, content) => h("div", null, h("dt", null, name), h("dd", null, content));
