/** Staying up to date: looking now and then, and following a stream of events where one can be had. */

import { events } from "./api.js";

const BACK_OFF_MAX_MS = 15_000;
const SLOW_MS = 5_000; // while a stream is followed: what changes without a new version, such as a message that comes in
const FIRST_MS = 10_000; // the gateway tells the present state at once; a proxy that gathers answers lets nothing through
const SILENT_MS = 40_000; // it says something every 15 s
const LASTING_MS = 10_000; // a stream that ended before had not worked
const AGAIN_MS = 1_000;
const AGAIN_MAX_MS = 60_000;

/**
 * Call `look` every so many ms (`everyMs()` is asked each time) while the page is seen; gives a function that looks at
 * once. `told(error)` hears how each look went: null, or why it failed.
 */
export function keepLooking(look, everyMs, signal, told) {
  let timer, failures = 0, isLooking = false, again = false;
  async function now() {
    clearTimeout(timer);
    if (isLooking) { again = true; return; }
    isLooking = true;
    try {
      await look();
      failures = 0;
    } catch (error) {
      if (signal.aborted) return;
      failures += 1;
      if (!error.status && error.status !== 0) console.error(error);
      told(error);
    } finally {
      isLooking = false;
    }
    if (signal.aborted) return;
    if (!failures) told(null);
    if (again) { again = false; await now(); return; }
    timer = setTimeout(() => (document.hidden ? wait() : now()), failures ? Math.min(everyMs() * 2 ** failures, BACK_OFF_MAX_MS) : everyMs());
  }
  const wait = () => document.addEventListener("visibilitychange", () => !signal.aborted && now(), { once: true });
  signal.addEventListener("abort", () => clearTimeout(timer));
  now();
  return now;
}

/**
 * The same, and look at each change that the stream at `where` tells. Without a stream it looks every `everyMs`, and
 * tries again to get one. `say(how)`: "live", "polling" or "unreachable".
 */
export function keepFollowing(look, where, everyMs, signal, told, say) {
  let isLive = false, isAway = false, isKnown = false;
  const paint = () => { if (isAway || isKnown) say(isAway ? "unreachable" : isLive ? "live" : "polling"); };
  const now = keepLooking(look, () => (isLive ? SLOW_MS : everyMs), signal, (error) => {
    isAway = error !== null && !(error.status > 0 && error.status < 500);
    paint();
    told(error);
  });
  follow(where, signal, now, (live) => {
    const isOver = isLive && !live;
    [isLive, isKnown] = [live, true];
    paint();
    if (isOver) now();
  });
  return now;
}

/** Until `signal`: `changed()` at each change, `turned(isLive)` whenever it has become known whether there is a stream. */
async function follow(where, signal, changed, turned) {
  let after, failures = 0;
  while (!signal.aborted) {
    if (document.hidden) { // a browser has few connections for each gateway, which its hidden tabs must not take
      await pause(null, signal);
      failures = 0;
      continue;
    }
    const stop = new AbortController();
    const close = () => stop.abort();
    const closeIfHidden = () => document.hidden && close();
    signal.addEventListener("abort", close);
    document.addEventListener("visibilitychange", closeIfHidden);
    let silence = setTimeout(close, FIRST_MS), waitMs = 0;
    const begun = performance.now();
    try {
      for await (const event of events(where, { after, signal: stop.signal })) {
        clearTimeout(silence);
        silence = setTimeout(close, SILENT_MS);
        turned(true);
        if (!event) continue;
        after = event.id;
        if (event.data.is_last) changed();
      }
    } catch (error) {
      if (error.status === 400) after = undefined; // the entity was restored to an older version: begin anew
      waitMs = 1_000 * (error.body?.retry_after ?? 0);
    } finally {
      clearTimeout(silence);
      signal.removeEventListener("abort", close);
      document.removeEventListener("visibilitychange", closeIfHidden);
    }
    if (signal.aborted) return;
    if (document.hidden) continue;
    if (performance.now() - begun >= LASTING_MS) failures = 0; // streams end now and then, to be begun again
    else { failures += 1; turned(false); }
    await pause(Math.max(waitMs, Math.min(AGAIN_MS * 2 ** failures, AGAIN_MAX_MS) * (0.5 + Math.random() / 2)), signal);
  }
}

/** Until the time is over (null: without end), the tab is shown or hidden, or the page is left. */
function pause(ms, signal) {
  return new Promise((done) => {
    const end = () => {
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", end);
      signal.removeEventListener("abort", end);
      done();
    };
    const timer = ms === null ? undefined : setTimeout(end, ms);
    document.addEventListener("visibilitychange", end);
    signal.addEventListener("abort", end);
  });
}
