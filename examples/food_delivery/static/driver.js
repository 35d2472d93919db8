/** The driver's page: open orders, and the processes behind them, to be killed at will. */

import { Refused, ask, clock, copyOf, fill, insist, keepFresh, secondsUntil, showList, sleep } from "./common.js";

const $ = (id) => document.getElementById(id);
const GHOST_MS = 4_000;

// Orders

const ACTIONS = {
  ready: { status: "Paid", label: "Pick up", handler: "pick_up" },
  away: { status: "Picked up", label: "Deliver", handler: "deliver" },
};

function showOrders(orders) {
  for (const [list, action] of Object.entries(ACTIONS)) {
    const jobs = orders.filter((order) => order.status === action.status);
    showList($(list), jobs, (order) => order.key, (order) => makeJob(order, action), updateJob);
    document.querySelector(`[data-for=${list}]`).hidden = jobs.length > 0;
  }
}

function makeJob(order, { label, handler }) {
  const element = copyOf("job", order.product.picture);
  fill(element, { name: order.product.name, customer: `for ${order.customer_id}`, number: `no. ${order.key.slice(0, 6)}` });
  element.dataset.limit = Math.max(1, secondsUntil(order.due_at));
  const button = element.querySelector("button");
  button.textContent = label;
  button.setAttribute("aria-label", `${label}: ${order.product.name} for ${order.customer_id}`);
  button.onclick = async () => {
    button.disabled = true;
    try {
      await insist("POST", `/orders/${order.key}/${handler}`, {});
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      tell(error.message);
    }
    setTimeout(() => (button.disabled = false), GHOST_MS); // it moves to the other list, unless it came too late
  };
  return element;
}

function updateJob(element, order) {
  const left = secondsUntil(order.due_at);
  fill(element, { left: left ? `${clock(left)} left` : "time is up" });
  element.querySelector("progress").value = left / element.dataset.limit;
  element.dataset.tone = left < 10 ? "bad" : "";
}

// Hosts

const seen = new Map(); // pid → {pid, shards, status, goneAt}

function showHosts({ hosts, shards }) {
  const isFirst = seen.size === 0;
  const alive = new Set(hosts.map((host) => host.pid));
  for (const host of seen.values()) {
    if (!alive.has(host.pid) && !host.goneAt) {
      Object.assign(host, { goneAt: Date.now(), status: "gone" });
      tell(`Host ${host.pid} is gone.`);
    }
    if (host.goneAt && Date.now() - host.goneAt > GHOST_MS) seen.delete(host.pid);
  }
  for (const host of hosts) {
    const before = seen.get(host.pid);
    if (!before && !isFirst) tell(`A new host, ${host.pid}, is here.`);
    if (before && host.shards > before.shards) tell(`Host ${host.pid} took over ${host.shards - before.shards} shards.`);
    seen.set(host.pid, host);
  }
  const make = (host) => {
    const element = copyOf("host");
    element.querySelector("meter").max = shards;
    element.querySelector("meter").setAttribute("aria-label", `Share of host ${host.pid}`);
    return element;
  };
  showList($("hosts"), [...seen.values()], (host) => host.pid, make, (element, host) => {
    element.dataset.is = host.status;
    element.querySelector("meter").value = host.goneAt ? 0 : host.shards;
    fill(element, { pid: `Host ${host.pid}`, shards: host.goneAt ? "gone" : `${host.shards} of ${shards} shards` });
  });
}

/** Preferably the host of a meal that is on its way: nowhere does it hurt more. */
$("kill").onclick = async () => {
  $("kill").disabled = true;
  const job = document.querySelector("#away > li") ?? document.querySelector("#ready > li");
  try {
    const { pid } = await ask("POST", job ? `/demo/kill-host?order_id=${job.dataset.key}` : "/demo/kill-host");
    tell(`Killed host ${pid} (SIGKILL)${job ? `, which held no. ${job.dataset.key.slice(0, 6)}` : ""}.`);
  } catch (error) {
    tell(error instanceof Refused ? error.message : "Nobody answered; the host may have been killed.");
  }
  await sleep(500);
  $("kill").disabled = false;
};

// The outside world

for (const radio of document.querySelectorAll("[name=weather]")) {
  radio.onchange = () => insist("PUT", "/demo/weather", { failure_rate: Number(radio.value) });
}

function showWeather({ failure_rate }) {
  const radios = [...document.querySelectorAll("[name=weather]")];
  if (radios.includes(document.activeElement)) return;
  const distance = (radio) => Math.abs(Number(radio.value) - failure_rate);
  radios.sort((a, b) => distance(a) - distance(b))[0].checked = true;
}

function tell(text) {
  const line = copyOf("event");
  fill(line, { time: new Date().toLocaleTimeString([], { hour12: false }), text });
  $("events").prepend(line);
  while ($("events").children.length > 8) $("events").lastElementChild.remove();
}

keepFresh(async () => showOrders(await ask("GET", "/boards/main/open_orders")), 500, $("connection"));
keepFresh(async () => showHosts(await ask("GET", "/demo/hosts")), 500);
keepFresh(async () => showWeather(await ask("GET", "/demo/weather")), 3_000);
