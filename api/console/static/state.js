/** The state: at any retained version, what changed, and a validated edit. */

import { post } from "./api.js";
import { h, refresh } from "./dom.js";
import { nothing } from "./entity.js";
import { formFor } from "./forms.js";
import { full } from "./format.js";
import { typeOf } from "./catalogue.js";
import { act, json, problemBox } from "./ui.js";

const EVENTS = 1_000;

export async function make(entity, place) {
  const slider = h("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": "Version", step: 1 });
  const about = h("output", { class: "soft" });
  const edit = h("button", { type: "button", class: "primary" }, "Edit…");
  const before = h("button", { type: "button", "aria-label": "Earlier version" }, "‹");
  const after = h("button", { type: "button", "aria-label": "Later version" }, "›");
  const states = h("div", { class: "two" });
  let versions = [];
  let isLatest = true;

  place.append(h("div", { class: "card" }, h("div", { class: "head" }, h("h2", null, "Version"), about, h("div", { class: "buttons" }, before, after, edit)), slider), states);
  slider.addEventListener("input", () => { isLatest = Number(slider.value) === versions.length - 1; draw(); });
  const step = (by) => { slider.value = String(Number(slider.value) + by); slider.dispatchEvent(new Event("input")); };
  before.addEventListener("click", () => step(-1));
  after.addEventListener("click", () => step(1));
  edit.addEventListener("click", () => editState(entity));

  let drawing = 0;
  async function draw() {
    const mine = (drawing += 1);
    const at = Number(slider.value);
    const [version, time] = versions[at] ?? [];
    about.textContent = version === undefined ? "" : `${version} of ${versions.at(-1)[0]}, ${full(time)}`;
    slider.setAttribute("aria-valuetext", `version ${version}`);
    before.disabled = at <= 0;
    after.disabled = at >= versions.length - 1;
    const earlier = versions[at - 1]?.[0];
    const [state, changes] = await Promise.all([
      entity.get(entity.atWith({ version }, "-", "state")).catch((error) => ({ error })),
      earlier === undefined ? null : entity.get(entity.atWith({ from: earlier, to: version }, "-", "diff")).catch((error) => ({ error })),
    ]);
    if (mine !== drawing) return;
    refresh(states, [version, state, changes], () => [
      h("section", { class: "card", "aria-label": "State" }, h("h2", null, "State"), state?.error instanceof Error ? problemBox(state.error) : json(state)),
      h("section", { class: "card", "aria-label": "Changes" }, h("h2", null, earlier === undefined ? "Changes" : `Changed since version ${earlier}`),
        changes === null ? h("p", { class: "soft" }, "No earlier version is retained.") : changes.error instanceof Error ? problemBox(changes.error) : difference(changes.changes)),
    ]);
  }

  /** Turns that leave the state alone keep no copy of it: the present one would seem to have changed nothing. */
  let compared = [0, false];
  async function isLikeTheLastKept(now) {
    if (versions.length < 2) return false;
    if (compared[0] !== now.version) {
      const found = await entity.get(entity.atWith({ from: versions.at(-2)[0], to: now.version }, "-", "diff")).catch(() => null);
      compared = [now.version, found?.changes.length === 0];
    }
    return compared[1];
  }

  return async (now) => {
    edit.disabled = !now?.version;
    if (!now?.version) return void refresh(states, "nothing", nothing);
    const found = await entity.history({ limit: EVENTS });
    const kept = new Map(found.events.filter((event) => event.has_state && event.version < now.version).map((event) => [event.version, event.at]));
    versions = [...kept].sort(([a], [b]) => a - b);
    versions.push([now.version, now.updated_at]);
    if (await isLikeTheLastKept(now)) versions.splice(-2, 1);
    slider.max = String(versions.length - 1);
    slider.disabled = versions.length < 2;
    if (isLatest) slider.value = slider.max;
    await draw();
  };
}

const difference = (changes) =>
  changes.length
    ? h("div", { class: "diff stack" }, changes.map((change) => h("div", null, h("code", null, change.path || "/"),
        change.op !== "add" && h("del", null, `− ${JSON.stringify(change.old)}`),
        change.op !== "remove" && h("ins", null, `+ ${JSON.stringify(change.value)}`))))
    : h("p", { class: "soft" }, "Nothing.");

async function editState(entity) {
  const type = await typeOf(entity.type);
  const state = await entity.get(entity.at("-", "state"));
  const version = entity.now.version;
  const { key, ...properties } = type.state?.properties ?? Object.fromEntries(Object.keys(state).map((name) => [name, {}]));
  const form = formFor({ type: "object", properties, required: Object.keys(properties), $defs: type.state?.$defs }, { value: state });
  const done = await act({
    title: `Edit ${entity.type}/${entity.key}`,
    about: `A turn of its own, if the entity is still at version ${version}. Only what you change is written, and the class validates the whole.`,
    verb: "Save",
    more: [form.element],
    done: "The state was edited",
    async run(why) {
      const fields = Object.fromEntries(Object.entries(form.read()).filter(([name, one]) => JSON.stringify(one) !== JSON.stringify(state[name])));
      if (!Object.keys(fields).length) throw new Error("Nothing was changed.");
      await post(entity.at("-", "edit"), { ...why, fields, expected_version: version });
    },
  });
  if (done) entity.look();
}
