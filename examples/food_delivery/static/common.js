/** What both pages need: talking to a server that may be gone for a moment, and filling templates. */

const PATIENCE_MS = 8_000;
const WAIT_FIRST_MS = 300;
const WAIT_MAX_MS = 3_000;

/** A definite answer: asking again would not help. */
export class Refused extends Error {}

/** No answer, or one that says "later". Whether it was done is not known. */
class Unreachable extends Error {}

export async function ask(method, path, body, key) {
  let answer, text;
  try {
    answer = await fetch(path, {
      method,
      headers: { ...(body && { "Content-Type": "application/json" }), ...(key && { "Idempotency-Key": key }) },
      body: body && JSON.stringify(body),
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    text = await answer.text();
  } catch (error) {
    throw new Unreachable(error.message);
  }
  if (answer.status >= 500 || answer.status === 429) throw new Unreachable(text);
  const content = text && answer.headers.get("Content-Type")?.includes("json") ? JSON.parse(text) : null;
  if (!answer.ok) throw new Refused(typeof content?.detail === "string" ? content.detail : `refused (${answer.status})`);
  return content;
}

/** Ask until there is a definite answer. The key is the same every time, so it is done once, however often we ask. */
export async function insist(method, path, body) {
  const key = newId();
  for (let wait = WAIT_FIRST_MS; ; wait = Math.min(2 * wait, WAIT_MAX_MS)) {
    try {
      return await ask(method, path, body, key);
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
      await sleep(wait);
    }
  }
}

/** Call `refresh` for ever. With a banner: say there when it has not worked for a while. */
export async function keepFresh(refresh, everyMs, banner) {
  for (let failures = 0; ; ) {
    try {
      await refresh();
      failures = 0;
    } catch (error) {
      if (!(error instanceof Unreachable)) console.error(error);
      failures += 1;
    }
    if (banner) {
      banner.hidden = failures < 2;
      banner.textContent = banner.hidden ? "" : "We cannot reach the kitchen. Nothing is lost: this page keeps trying.";
    }
    await sleep(failures ? Math.min(everyMs * 2 ** failures, WAIT_MAX_MS) : everyMs);
  }
}

/** A copy of a template, with its first picture set. */
export function copyOf(template, picture) {
  const element = document.getElementById(template).content.firstElementChild.cloneNode(true);
  if (picture) element.querySelector("use").setAttribute("href", `/static/food.svg#${picture}`);
  return element;
}

/** Write texts where the template says `data-is="name"`; touches only what has changed. */
export function fill(element, texts) {
  for (const [name, text] of Object.entries(texts)) {
    const place = element.querySelector(`[data-is="${name}"]`);
    if (place.textContent !== text) place.textContent = text;
  }
}

/** Make the children of `list` those for `items`, in order, keeping elements that stay (and so the focus). */
export function showList(list, items, keyOf, make, update) {
  const known = new Map([...list.children].map((child) => [child.dataset.key, child]));
  const wanted = items.map((item) => {
    const key = String(keyOf(item));
    const element = known.get(key) ?? make(item);
    element.dataset.key = key;
    update(element, item);
    return element;
  });
  for (const child of [...list.children]) if (!wanted.includes(child)) child.remove();
  wanted.forEach((element, at) => {
    if (list.children[at] !== element) list.insertBefore(element, list.children[at] ?? null);
  });
}

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

export const money = (cents) => new Intl.NumberFormat("en", { style: "currency", currency: "EUR" }).format(cents / 100);

export const secondsUntil = (time) => Math.max(0, Math.round((Date.parse(time) - Date.now()) / 1000));

export const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;

export const newId = () =>
  [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
