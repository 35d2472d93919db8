/** Forms for everything the entity can do, made from the JSON schemas of its members. */

import { send } from "./api.js";
import { h, refresh } from "./dom.js";
import { typeOf } from "./catalogue.js";
import { formFor } from "./forms.js";
import { entityPath } from "./format.js";
import { empty, json, problemBox } from "./ui.js";

const GROUPS = { handler: "Handlers", query: "Queries", workflow: "Workflows", mailbox: "Mailboxes" };
const VERBS = { handler: "Call", query: "Ask", workflow: "Start", mailbox: "Send" };

export async function make(entity, place) {
  const type = await typeOf(entity.type);
  const members = type.members.filter((member) => !member.is_private);
  const wanted = decodeURIComponent(location.hash).split("/").at(-1);
  let chosen = members.find((member) => member.name === wanted) ?? members[0];
  const list = h("ul");
  const panel = h("div", { class: "card stack" });
  place.append(members.length ? h("div", { class: "members" }, list, panel) : empty("This type has no public members."));
  const choose = (member) => { chosen = member; draw(); };

  function draw() {
    refresh(list, chosen?.name, () => Object.entries(GROUPS).map(([kind, label]) => {
      const some = members.filter((member) => member.kind === kind);
      return some.length > 0 && [h("li", null, h("h2", null, label)), some.map((member) => h("li", { "data-row": member.name },
        h("a", { href: `${entityPath(entity.type, entity.key, "try")}/${encodeURIComponent(member.name)}`, "data-key": member.name, "aria-current": member === chosen ? "true" : null,
          on: { click: (event) => { event.preventDefault(); choose(member); } } }, member.name)))];
    }));
    panel.replaceChildren(...memberForm(entity, chosen));
  }
  if (chosen) draw();
  return async () => {};
}

function memberForm(entity, member) {
  const form = formFor(member.arguments ?? {});
  const oneWay = h("input", { type: "checkbox" });
  const answer = h("div", { "aria-live": "polite" });
  const button = h("button", { type: "submit", class: "primary" }, VERBS[member.kind]);
  const hasArguments = Object.keys(member.arguments?.properties ?? {}).length > 0 || member.kind === "mailbox";
  const element = h("form", { class: "stack" },
    hasArguments ? form.element : h("p", { class: "soft" }, "It takes no arguments."),
    member.kind === "handler" && h("label", { class: "check" }, oneWay, "One way: return once the message is durable"),
    h("p", { class: "buttons" }, button));
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    const started = performance.now();
    try {
      const body = hasArguments ? form.read() ?? {} : {};
      const where = member.kind === "workflow" ? entity.at(member.name, "start") : entity.at(member.name);
      const { content, version, status } = await send(where, body, { prefer: oneWay.checked ? "respond-async" : undefined });
      answer.replaceChildren(h("p", { class: "soft" }, `${status === 202 ? "Accepted" : "Answered"} after ${Math.round(performance.now() - started)} ms${version ? `, version ${version}` : ""}`), json(content));
      entity.look();
    } catch (error) {
      answer.replaceChildren(problemBox(error));
    } finally {
      button.disabled = false;
    }
  });
  return [h("h2", null, member.name), member.description ? h("p", { class: "soft" }, member.description) : "", element, answer];
}
