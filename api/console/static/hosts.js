/** Hosts: where entities live now. */

import { button, drain } from "./actions.js";
import { h } from "./dom.js";
import { badge, duration, number, when } from "./format.js";
import { listPage } from "./lists.js";
import { table } from "./ui.js";

/** Why a host that drains is still here, if it waits for its successor. */
function waitingFor(rows, wanted) {
  const active = rows.filter((one) => one.status === "alive").length;
  return active < wanted && h("p", { class: "soft" }, `${active} of ${wanted} wanted hosts are active: who drains goes on serving until its successor is there.`);
}

export const show = (here) => listPage(here, {
  title: "Hosts",
  about: "Ray actors that own shards and run entities. They are started and ended with perdure up and perdure down, and replaced when they are drained; their processes are shown by Ray's own dashboard (port 8265).",
  route: "hosts",
  rowsOf: (answer) => answer.hosts,
  none: "No host was ever here.",
  draw: (rows, look, answer) => [
    answer.hosts_wanted !== null && rows.some((one) => one.status === "draining") && waitingFor(rows, answer.hosts_wanted),
    answer.shards_without_host > 0 && h("p", { class: "error" }, `${answer.shards_without_host} of ${answer.shards} shards have no living host.`),
    h("div", { class: "scroll" }, table("Hosts", [
      ["Host", (one) => h("span", { class: "mono" }, one.id)],
      ["Status", (one) => badge(one.status), "tight"],
      ["Node", (one) => [h("span", { class: "mono" }, one.node.slice(0, 12)), h("span", { class: "soft" }, ` pid ${one.pid}`)]],
      ["Shards", (one) => number(one.shards), "right tight"],
      ["In memory", (one) => (one.activations === null ? "–" : number(one.activations)), "right tight"],
      ["Turns/s", (one) => (one.turns_per_s === null ? "–" : number(Math.round(one.turns_per_s * 10) / 10)), "right tight"],
      ["Heartbeat", (one) => (one.heartbeat_age_s === null ? "–" : duration(one.heartbeat_age_s)), "tight"],
      ["Started", (one) => when(one.started_at), "tight"],
      ["Gone", (one) => (one.gone_at ? when(one.gone_at) : ""), "tight"],
      ["", (one) => one.status === "alive" && button("Drain", () => drain(one), look, { tone: "danger", key: `drain-${one.id}` }), "tight"],
    ], rows, (one) => one.id)),
  ],
});
