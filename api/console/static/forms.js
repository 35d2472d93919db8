/** Forms from JSON schemas: what pydantic says about arguments, items and states becomes fields. */

import { h } from "./dom.js";
import { labelled, newId } from "./ui.js";

const TEXT_LONG = 200;

/** A value that is not what its field says: told at the field. */
class Invalid extends Error {}

/**
 * A form for a schema. `element`; `read()` gives the value (undefined: nothing was entered) or throws.
 * `value`: what the fields hold at first.
 */
export function formFor(schema, { value, definitions = schema?.$defs ?? {} } = {}) {
  return part(schema ?? {}, { label: "Value", isRequired: true, value, definitions, depth: 0 });
}

function resolve(schema, definitions) {
  for (let at = 0; schema.$ref && at < 20; at += 1) {
    const { $ref, ...rest } = schema;
    schema = { ...definitions[$ref.replace(/^#\/(\$defs|components\/schemas)\//, "")], ...rest };
  }
  return schema;
}

function part(given, options) {
  const { definitions, depth } = options;
  let schema = resolve(given, definitions);
  let isNullable = false;
  if (schema.anyOf) {
    const others = schema.anyOf.filter((one) => one.type !== "null");
    isNullable = others.length < schema.anyOf.length;
    if (others.length === 1) schema = { ...schema, ...resolve(others[0], definitions), anyOf: undefined };
  }
  const own = { ...options, schema, isNullable };
  if (schema.enum || schema.const !== undefined) return choice(own, schema.enum ?? [schema.const]);
  if (schema.type === "boolean") return choice(own, [true, false]);
  if (schema.type === "object" && schema.properties && depth < 4) return group(own);
  if (schema.type === "string" && !schema.anyOf) return text(own);
  if (schema.type === "integer" || schema.type === "number") return numeric(own);
  return free(own);
}

const hint = ({ schema, isNullable }, ...more) =>
  [schema.description, schema.format, schema.minimum !== undefined && `≥ ${schema.minimum}`, schema.exclusiveMinimum !== undefined && `> ${schema.exclusiveMinimum}`,
    schema.maximum !== undefined && `≤ ${schema.maximum}`, schema.default !== undefined && `default ${JSON.stringify(schema.default)}`,
    isNullable && "empty: null", ...more].filter(Boolean).join(" · ") || null;

/** What an empty field means: null if it must be there and may be null, else that it is left out. */
function emptyValue({ isRequired, isNullable, label }) {
  if (!isRequired) return undefined;
  if (isNullable) return null;
  throw new Invalid(`${label} is missing`);
}

function choice(options, values) {
  const mayBeEmpty = !options.isRequired || options.isNullable || values.length > 1;
  const chosen = values.findIndex((one) => JSON.stringify(one) === JSON.stringify(options.value));
  const select = h("select", { required: options.isRequired && !options.isNullable },
    mayBeEmpty && h("option", { value: "" }, options.isNullable ? "null" : "–"),
    values.map((one, at) => h("option", { value: String(at), selected: at === chosen }, typeof one === "string" ? one : JSON.stringify(one))));
  return { element: labelled(options.label, select, hint(options)), read: () => (select.value === "" ? emptyValue(options) : values[Number(select.value)]) };
}

function text(options) {
  const { schema, value } = options;
  const isLong = (schema.maxLength ?? 0) > TEXT_LONG || (typeof value === "string" && (value.length > 80 || value.includes("\n")));
  const input = h(isLong ? "textarea" : "input", { value: value ?? "", autocomplete: "off", minlength: schema.minLength, maxlength: schema.maxLength });
  const wasText = typeof value === "string";
  return {
    element: labelled(options.label, input, hint(options)),
    // An empty text is a text where there must be one, or where there was one.
    read: () => (input.value === "" && !(options.isRequired && !options.isNullable) && !(wasText && value === "") ? emptyValue(options) : input.value),
  };
}

function numeric(options) {
  const { schema, value } = options;
  const input = h("input", { inputmode: schema.type === "integer" ? "numeric" : "decimal", value: value ?? "", autocomplete: "off", required: options.isRequired && !options.isNullable });
  return {
    element: labelled(options.label, input, hint(options, schema.type)),
    read() {
      if (input.value.trim() === "") return emptyValue(options);
      const found = Number(input.value);
      if (Number.isNaN(found)) throw new Invalid(`${options.label} is not a number`);
      return found;
    },
  };
}

function group(options) {
  const { schema, value, definitions, depth } = options;
  const required = new Set(schema.required ?? []);
  const parts = Object.entries(schema.properties).map(([name, one]) =>
    [name, part(one, { label: name, isRequired: required.has(name), value: value?.[name], definitions, depth: depth + 1 })]);
  const fields = parts.map(([, one]) => one.element);
  const element = depth === 0 ? h("div", { class: "stack" }, fields) : h("fieldset", null, h("legend", null, options.label), fields);
  return {
    element,
    read() {
      const isUntouched = (!options.isRequired || options.isNullable) && parts.every(([, one]) => {
        try { return one.read() === undefined; } catch (error) { if (error instanceof Invalid) return true; throw error; }
      });
      if (isUntouched && depth > 0) return emptyValue(options);
      return Object.fromEntries(parts.map(([name, one]) => [name, one.read()]).filter(([, one]) => one !== undefined));
    },
  };
}

function free(options) {
  const { schema, value } = options;
  const input = h("textarea", { value: value === undefined ? "" : JSON.stringify(value, null, 1), spellcheck: "false", id: newId("json") });
  return {
    element: labelled(options.label, input, hint(options, `JSON${schema.type ? `, ${schema.type}` : ""}`)),
    read() {
      if (input.value.trim() === "") return emptyValue(options);
      try {
        return JSON.parse(input.value);
      } catch (error) {
        throw new Invalid(`${options.label} is not JSON: ${error.message}`);
      }
    },
  };
}
