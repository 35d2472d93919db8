/** Talking to the gateway: with the key of this browser tab, and one kind of error. */

const BASE = new URL("api/", new URL(".", location.href));
const KEY = "perdure-key";

/** A definite answer that is an error (RFC 9457), or none at all (`status` 0). */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail ?? body.title ?? `the gateway answered ${status}`);
    this.status = status;
    this.code = body.code ?? "";
    this.errors = body.errors ?? [];
    this.body = body;
  }
}

let askForKey = async () => null;

/** Who is to be asked for a key when the gateway wants one: `ask(wasRefused)` gives it. */
export const onUnauthorized = (ask) => { askForKey = ask; };

/** A path from segments, each percent-encoded, and conditions (undefined and "" are left out; lists are repeated). */
export function path(segments, conditions = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(conditions)) {
    for (const one of [value].flat()) if (one !== undefined && one !== null && one !== "") query.append(name, one);
  }
  const text = query.toString();
  return segments.map(encodeURIComponent).join("/") + (text && `?${text}`);
}

const away = () => new Problem(0, { detail: "The gateway cannot be reached. This page keeps trying." });

function authorization() {
  const key = sessionStorage.getItem(KEY);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function once(method, where, body, headers, signal) {
  let answer, text;
  try {
    answer = await fetch(new URL(where, BASE), {
      method,
      headers: {
        ...headers,
        ...authorization(),
        ...(body !== undefined && { "Content-Type": "application/json" }),
      },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
    });
    text = await answer.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw away();
  }
  let content = null;
  try {
    content = text && JSON.parse(text);
  } catch {
    content = { detail: text.slice(0, 300) };
  }
  if (!answer.ok) throw new Problem(answer.status, content ?? {});
  return { content, status: answer.status, version: answer.headers.get("Perdure-Version") };
}

let asking = null;

async function withKey(...request) {
  for (;;) {
    try {
      return await once(...request);
    } catch (error) {
      if (error.status !== 401) throw error;
      asking ??= askForKey(sessionStorage.getItem(KEY) !== null).finally(() => { asking = null; });
      const key = await asking;
      if (!key) throw error;
      sessionStorage.setItem(KEY, key);
    }
  }
}

export const get = async (where, signal) => (await withKey("GET", where, undefined, {}, signal)).content;

/**
 * The server-sent events at `where` after the one with the id `after`: `{ id, data }` for each, and null for a mere sign
 * of life. By `fetch`, since an `EventSource` sends no key and does not say why it was refused. Throws Problem.
 */
export async function* events(where, { after, signal }) {
  const headers = { Accept: "text/event-stream", ...authorization(), ...(after !== undefined && { "Last-Event-ID": after }) };
  const answer = await fetch(new URL(where, BASE), { headers, signal, cache: "no-store" }).catch(() => { throw away(); });
  if (!answer.ok) throw new Problem(answer.status, await answer.json().catch(() => ({})));
  if (!answer.headers.get("Content-Type")?.startsWith("text/event-stream")) throw new Problem(answer.status, { detail: "no stream" });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  const parse = eventParser();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parse(value);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** A function that takes pieces of a stream as they come and gives the events that are whole, see `events`. */
export function eventParser() {
  let rest = "", id, data;
  return (text) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    const found = [];
    for (const line of lines) {
      if (line.startsWith("id: ")) id = line.slice(4);
      else if (line.startsWith("data: ")) data = line.slice(6);
      else if (line.startsWith(":")) found.push(null);
      else if (line === "" && data !== undefined) {
        found.push({ id, data: JSON.parse(data) });
        data = undefined;
      }
    }
    return found;
  };
}

/** Under a key of its own, so that a repeat by the browser or a proxy is applied once. Gives content and version. */
export const send = (where, body = {}, { prefer } = {}) =>
  withKey("POST", where, body, { "Idempotency-Key": crypto.randomUUID?.() ?? newId(), ...(prefer && { Prefer: prefer }) });

export const post = async (where, body) => (await send(where, body)).content;

/** `randomUUID` is there in secure contexts only; a gateway in a plain http network is none. */
const newId = () => [...crypto.getRandomValues(new Uint8Array(16))].map((one) => one.toString(16).padStart(2, "0")).join("");
