/** Decisions that workflows wait for: who, what, until when; and deciding. */

import { path, post } from "./api.js";
import { h } from "./dom.js";
import { formFor } from "./forms.js";
import { entityLink, when } from "./format.js";
import { listPage } from "./lists.js";
import { json, problemBox, say, whyFields } from "./ui.js";

export const show = (here) => listPage(here, {
  title: "Work list",
  about: "Decisions that workflows wait for, the earliest due first.",
  route: "worklist",
  rowsOf: (answer) => answer.decisions,
  filters: [["group", "Group"], ["type", "Type"]],
  none: "No decision is open.",
  draw: (rows, look) => rows.map((one) => card(one, look)),
});

function card(one, look) {
  const form = formFor(one.schema ?? {});
  const why = whyFields();
  const [reason] = why.fields[0].getElementsByTagName("input");
  reason.required = false;
  const trouble = h("div");
  const submit = h("button", { type: "submit", class: "primary" }, "Decide");
  const element = h("form", { class: "stack" }, form.element, why.fields, trouble, h("p", { class: "buttons" }, submit));
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    submit.disabled = true;
    try {
      await post(path(["worklist", one.id]), { value: form.read() ?? null, ...why.read() });
      say(`Decided: ${one.title || `${one.type}/${one.key}`}`);
      look();
    } catch (error) {
      trouble.replaceChildren(problemBox(error));
    } finally {
      submit.disabled = false;
    }
  });
  return h("section", { class: "card", "data-row": one.id, "aria-label": one.title || one.workflow },
    h("div", { class: "head" }, h("h2", null, one.title || one.workflow), one.group && h("span", { class: "badge live" }, one.group), entityLink(one.type, one.key, "workflows"),
      h("span", { class: "soft" }, "asked ", when(one.asked_at), one.due_at && [", due ", when(one.due_at)])),
    Object.keys(one.show).length > 0 && json(one.show),
    h("details", { "data-key": `decide-${one.id}` }, h("summary", null, "Decide"), element));
}
