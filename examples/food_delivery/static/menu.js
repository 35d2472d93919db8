/** The menu: order, watch, rate. Orders are named here, so that sending one again never makes a second. */

import { Refused, ask, clock, copyOf, fill, insist, keepFresh, money, newId, secondsUntil, showList } from "./common.js";

const $ = (id) => document.getElementById(id);
const STEPS = ["Charging card", "Paid", "Picked up", "Delivered"];
const LAST = STEPS.length - 1;

const customer = (localStorage.customer ??= `guest-${newId().slice(0, 6)}`);
let menu = [];
let orders = JSON.parse(localStorage.orders ?? "[]"); // {id, product_id, card, sent, refused, status, reached}
let lastPush = Number(localStorage.lastPush ?? 0);

const save = () => (localStorage.orders = JSON.stringify(orders));

// Ordering

function order(product) {
  const card = document.querySelector("[name=card]:checked").value;
  const wish = { id: newId(), product_id: product.id, card };
  orders.unshift(wish);
  save(); // before it is sent: should this page die now, it is sent when the page comes back
  render();
  $("orders").firstElementChild.scrollIntoView({ behavior: "smooth", block: "nearest" });
  send(wish);
}

async function send(wish) {
  try {
    const { product_id, card } = wish;
    wish.status = await insist("PUT", `/orders/${wish.id}`, { product_id, card, customer_id: customer });
    wish.sent = true;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    wish.refused = error.message;
  }
  save();
  render();
}

async function rate(wish, stars) {
  await insist("POST", `/orders/${wish.id}/rate`, { stars });
  wish.status = await ask("GET", `/orders/${wish.id}/state`);
  save();
  render();
}

function forget(wish) {
  orders = orders.filter((other) => other !== wish);
  save();
  render();
}

// Showing

const isOver = ({ refused, status }) => Boolean(refused || status?.problem || status?.stars);

function render() {
  showList($("orders"), orders, (wish) => wish.id, makeOrder, updateOrder);
  $("no-orders").hidden = orders.length > 0;
}

function makeOrder(wish) {
  const product = menu.find((other) => other.id === wish.product_id) ?? { name: "Meal", picture: "logo" };
  const element = copyOf("order", product.picture);
  fill(element, { name: product.name, question: `How was the ${product.name}?` });
  const clear = element.querySelector(".clear");
  clear.setAttribute("aria-label", `Clear ${product.name} from this list`);
  clear.onclick = () => forget(wish);
  for (let stars = 1; stars <= 5; stars += 1) {
    const button = document.createElement("button");
    button.textContent = "★";
    button.setAttribute("aria-label", stars === 1 ? "1 star" : `${stars} stars`);
    button.onclick = () => rate(wish, stars);
    element.querySelector(".stars").append(button);
  }
  return element;
}

function updateOrder(element, wish) {
  const { status, refused } = wish;
  const failed = Boolean(refused || status?.problem);
  const isRefund = status?.status === "Refunding";
  const isDelivered = status?.status === "Delivered";
  const at = isRefund ? LAST : STEPS.indexOf(status?.status ?? STEPS[0]);
  wish.reached = Math.max(wish.reached ?? 0, isRefund ? 0 : at);
  element.dataset.tone = failed ? "bad" : isRefund ? "warn" : isDelivered ? "good" : "";
  [...element.querySelectorAll(".steps > li")].forEach((step, number) => {
    const isBroken = number === at && (failed || isRefund);
    const isDone = isDelivered || (isRefund ? number <= Math.max(1, wish.reached) : number < at);
    step.dataset.is = isBroken ? "broken" : isDone ? "done" : number === at ? "now" : "ahead";
    if (number === at) step.setAttribute("aria-current", "step");
    else step.removeAttribute("aria-current");
  });
  element.querySelector(".clear").hidden = !isOver(wish);
  element.querySelector(".stars").hidden = !(status?.is_rating_wanted && !status.stars);
  fill(element, { message: messageOf(wish), last: isRefund ? (failed ? "Refunded" : "Refunding") : STEPS[LAST] });
}

function messageOf({ sent, status, refused }) {
  if (refused) return refused;
  if (!sent) return "Sending your order…";
  const left = status.due_at ? secondsUntil(status.due_at) : 0;
  if (status.problem && status.status === "Refunding") return `Your money is back: ${status.problem}.`;
  if (status.problem) return `No meal, and nothing charged: ${status.problem}.`;
  if (status.stars) return `Thank you for your ${"★".repeat(status.stars)}`;
  switch (status.status) {
    case "Charging card": return "Talking to your bank…";
    case "Paid": return left ? `Cooking. A driver has ${clock(left)} to pick it up.` : "Cooking, and looking for a driver.";
    case "Picked up": return left ? `On its way: ${clock(left)} at most.` : "On its way.";
    case "Refunding": return "That took too long. We are giving your money back…";
    default: return "Enjoy your meal!";
  }
}

function showMenu() {
  const make = (product) => {
    const element = copyOf("product", product.picture);
    fill(element, { name: product.name, words: product.words, price: money(product.price_cents) });
    const button = element.querySelector("button");
    button.setAttribute("aria-label", `Order ${product.name}`);
    button.onclick = () => order(product);
    return element;
  };
  showList($("menu"), menu, (product) => product.id, make, () => {});
}

function showAccount({ meals, spent_cents, history }) {
  $("totals").textContent = history.length
    ? `${meals} ${meals === 1 ? "meal" : "meals"} · ${money(spent_cents)}`
    : "Your meals will be listed here, for ever.";
  const make = (past) => {
    const element = copyOf("past");
    const when = new Date(past.delivered_at ?? past.ordered_at);
    fill(element, {
      name: past.product?.name ?? "Unknown meal",
      outcome: past.problem || money(past.product.price_cents),
      when: when.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }),
    });
    element.querySelector("time").dateTime = when.toISOString();
    element.dataset.tone = past.problem ? "bad" : "good";
    return element;
  };
  showList($("history"), history.slice(0, 20), (past) => past.key, make, () => {});
}

function showPush({ text }) {
  const toast = document.createElement("li");
  toast.textContent = text;
  $("pushes").append(toast);
  setTimeout(() => toast.remove(), 7_000);
}

// Keeping it fresh

async function refresh() {
  if (!menu.length) {
    menu = await ask("GET", "/products");
    showMenu();
    render();
    orders.filter((wish) => !wish.sent && !wish.refused).forEach(send);
  }
  const live = orders.filter((wish) => wish.sent && !isOver(wish));
  const [account, pushes] = await Promise.all([
    ask("GET", `/customers/${customer}/account`),
    ask("GET", `/demo/pushes?customer_id=${customer}&after=${lastPush}`).catch(() => []), // a phone may be offline
    ...live.map(async (wish) => (wish.status = await ask("GET", `/orders/${wish.id}/state`))),
  ]);
  save();
  render();
  showAccount(account);
  for (const push of pushes) {
    showPush(push);
    localStorage.lastPush = lastPush = push.id;
  }
}

keepFresh(refresh, 700, $("connection"));
