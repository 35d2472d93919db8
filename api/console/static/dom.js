/** Making elements. Texts are always text: nothing here (or anywhere in the console) parses HTML. */

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else if (name === "value") element.value = value;
    else element.setAttribute(name === "className" ? "class" : name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** `h("a", { href }, "text", child)`: an element. `on`: listeners. Children: elements, texts, lists; null is left out. */
export const h = (name, properties, ...children) => fill(document.createElement(name), properties, children);

/** The same for SVG. */
export const s = (name, properties, ...children) => fill(document.createElementNS(SVG, name), properties, children);

/**
 * Replace what is in `place`, keeping the focus (by `data-key`), open details (by `data-key`) and scroll positions.
 * Does nothing if `data` is what it was last time: `place` remembers it.
 */
export function refresh(place, data, make) {
  const text = JSON.stringify(data);
  if (place.shown === text) return false;
  place.shown = text;
  const focused = place.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  const states = new Map([...place.querySelectorAll("details[data-key]")].map((one) => [one.dataset.key, one.open]));
  place.replaceChildren(...[make(data)].flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false));
  for (const one of place.querySelectorAll("details[data-key]")) {
    if (states.has(one.dataset.key)) one.open = states.get(one.dataset.key);
  }
  if (focused) place.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  return true;
}
