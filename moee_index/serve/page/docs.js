// The description of the API, /openapi.json, for people.

import { get } from "./api.js";
import { byId, element, replace } from "./dom.js";
import { askForKeys } from "./key.js";

askForKeys();

const resolve = (whole, schema) => (schema?.$ref ? whole.components.schemas[schema.$ref.split("/").pop()] : schema);
const nameOf = (schema) => schema?.$ref?.split("/").pop();

// A type in a few words.
function typeOf(schema) {
  if (!schema) return "any";
  if (schema.$ref) return nameOf(schema);
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.type === "array") return `list of ${schema.items ? typeOf(schema.items) : "any"}`;
  return schema.type ?? "any";
}

function fields(whole, schema) {
  const body = resolve(whole, schema);
  const entries = Object.entries(body?.properties ?? {});
  if (!entries.length) return null;
  const required = new Set(body.required ?? []);
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...["Field", "Type", "Default", "Meaning"].map((name) => element("th", { scope: "col" }, name)))),
    element("tbody", {}, ...entries.map(([name, field]) => element("tr", {},
      element("td", {}, element("code", {}, name)),
      element("td", {}, typeOf(field)),
      element("td", {}, required.has(name) ? "required" : field.default === undefined ? "" : element("code", {}, JSON.stringify(field.default))),
      element("td", {}, field.description ?? "")))));
  return element("div", { class: "table-room", tabIndex: 0, role: "group", "aria-label": "Fields" }, table);
}

function described(schema, whole) {
  const text = resolve(whole, schema)?.description;
  return text ? element("p", { class: "note" }, text) : null;
}

function operation(whole, path, method, said) {
  const body = said.requestBody?.content?.["application/json"]?.schema;
  const answer = said.responses?.["200"]?.content?.["application/json"]?.schema;
  const parameters = said.parameters ?? [];
  const example = resolve(whole, body)?.examples?.[0];
  const answers = (answer?.anyOf ?? (answer ? [answer] : [])).filter((each) => each.$ref);
  return element("details", { class: "panel operation" },
    element("summary", {}, element("code", { class: `method ${method}` }, method.toUpperCase()), " ", element("code", {}, path)),
    element("p", {}, said.description ?? ""),
    parameters.length ? element("h2", {}, "In the address") : null,
    parameters.length ? element("ul", {}, ...parameters.map((each) => element("li", {}, element("code", {}, each.name), ` ${typeOf(each.schema)}${each.required ? ", required" : ""}`))) : null,
    body ? element("h2", {}, "Body") : null, described(body, whole), fields(whole, body),
    example ? element("pre", { tabIndex: 0, "aria-label": "An example" }, element("code", {}, `curl ${location.origin}${path} -H "Content-Type: application/json" -d '${JSON.stringify(example)}'`)) : null,
    ...answers.flatMap((each) => [element("h2", {}, `Answer: ${nameOf(each)}`), described(each, whole), fields(whole, each)]));
}

async function show() {
  try {
    const whole = await get("/openapi.json");
    const operations = Object.entries(whole.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, said]) => operation(whole, path, method, said)));
    replace(byId("operations"), element("p", {}, whole.info.description), ...operations);
  } catch (error) {
    replace(byId("operations"), element("p", { class: "fault-text", role: "alert" }, error.message));
  }
}

show();
