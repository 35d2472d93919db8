/** What list pages have in common: conditions in the address, pages by cursor, looking again. */

import { get, path } from "./api.js";
import { h, refresh } from "./dom.js";
import { empty, labelled, more } from "./ui.js";

const PAGE = 100;

/**
 * A page with one list. `title`, `about`; `route`: where it comes from; `rowsOf(answer)`; `filters`: [name, label];
 * `draw(rows, look, answer)`; `none`: said where there is nothing.
 */
export async function listPage(here, { title, about, route, rowsOf, filters = [], draw, none, everyMs = 4_000, buttons = [] }) {
  const list = h("div", { class: "stack" });
  const inputs = filters.map(([name, label, values]) => {
    const value = here.query.get(name) ?? "";
    const input = values ? h("select", { name }, h("option", { value: "" }, "all"), values.map((one) => h("option", { value: one, selected: one === value }, one)))
      : h("input", { name, value, autocomplete: "off", "data-search": true });
    return [name, input, labelled(label, input)];
  });
  const conditions = () => Object.fromEntries(inputs.map(([name, input]) => [name, input.value]));
  const form = h("form", { class: "filters", role: "search", "aria-label": title }, inputs.map(([, , field]) => field), h("button", { type: "submit" }, "Search"));
  const apply = () => { location.hash = location.hash.split("?")[0] + path([], conditions()); };
  form.addEventListener("submit", (event) => { event.preventDefault(); apply(); });
  form.addEventListener("change", (event) => { if (event.target.matches("select")) apply(); });
  here.root.replaceChildren(h("div", { class: "head" }, h("h1", null, title), buttons.length > 0 && h("div", { class: "buttons" }, buttons)), h("p", { class: "soft" }, about), inputs.length ? form : "", list);

  let pages = [];
  const fetchPage = (after) => get(path([route], { ...Object.fromEntries(here.query), limit: PAGE, after }), here.signal);
  function paint() {
    const rows = pages.flatMap(rowsOf);
    const next = pages.at(-1)?.next;
    refresh(list, [rows, next, pages[0]?.at && Math.floor(Date.parse(pages[0].at) / 60_000)], () => [
      rows.length ? draw(rows, look, pages[0]) : empty(none),
      next && more(async () => { pages.push(await fetchPage(next)); paint(); }),
    ]);
  }
  const look = here.live(async () => {
    if (pages.length < 2) pages = [await fetchPage()];
    paint();
  }, everyMs);
  return { refresh: () => { pages = []; look(); } };
}
