/** What types there are and what they can do: asked once for each page view. */

import { get, Problem } from "./api.js";

let asked = null;
const KEEP_MS = 15_000;

/** All types of the gateway, with the JSON schemas of their members. */
export async function types() {
  if (!asked || Date.now() - asked.at > KEEP_MS) asked = { at: Date.now(), found: get("types").then((found) => found.types) };
  try {
    return await asked.found;
  } catch (error) {
    asked = null;
    throw error;
  }
}

/** One type. */
export async function typeOf(name) {
  const found = (await types()).find((one) => one.type === name);
  if (!found) throw new Problem(404, { code: "unknown_type", detail: `There is no type ${name}.` });
  return found;
}
