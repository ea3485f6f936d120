// The cache: from what a kernel is asked for as, to its source, to what the chip runs.

import { read, readText } from "/web/api.js";
import { byId, element, load, scrolling, sentence, table, terms } from "/web/dom.js";
import { bytes, error, moment, short } from "/web/words.js";

const CUBIN = "kernel.cubin";
let prepared = false;

export function showCache(key) {
  const form = byId("find");
  if (!prepared) {
    prepared = true;
    form.querySelector("button").disabled = false;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      loadList();
    });
  }
  form.hidden = Boolean(key);
  byId("kernels").hidden = Boolean(key);
  byId("kernel").hidden = !key;
  if (key) loadKernel(key);
  else loadList();
}

function loadList() {
  const words = byId("find").elements.find.value.trim();
  load(byId("kernels"), "the kernels", () => page(words, ""), (found) => listOf(words, found));
}

const page = (words, after) => read(`/v1/artifacts?${new URLSearchParams({ find: words, after })}`);

function listOf(words, found) {
  if (found.kernels.length === 0) {
    return sentence(words
      ? `No stored kernel has ${words} in its parameters or at the beginning of its key.`
      : "The cache is empty. A run fills it.");
  }
  const shown = table("Stored kernels",
    ["Key", "Kernel", "Weight", "Chip", ...["Cubin", "Registers", "Shared", "Error on the processor"].map(numeric), "Built"], found.kernels.map(rowOf));
  return [shown, ...moreOf(words, found.after, shown.querySelector("tbody"))];
}

/** A button for the rest of the list, where there is more of it. */
function moreOf(words, after, body) {
  if (after === null) return [];
  const said = element("span", { role: "status" });
  const button = element("button", { type: "button", onclick: async () => {
    try {
      const next = await page(words, after);
      const rows = next.kernels.map(rowOf);
      body.append(...rows);
      more.replaceChildren(...moreOf(words, next.after, body));
      rows[0]?.querySelector("a").focus();
    } catch (wrong) {
      said.textContent = `Could not load more: ${wrong.message}`;
    }
  } }, "Show more");
  const more = element("p", {}, button, " ", said);
  return [more];
}

function rowOf(one) {
  const { key, spec, facts, built_at: built } = one.manifest;
  return element("tr", {},
    element("th", { scope: "row" }, element("a", { class: "key", href: `#cache/${key}` }, short(key))),
    element("td", {}, `${spec.executor} ${spec.kernel}`),
    element("td", {}, weightOf(spec)),
    element("td", {}, spec.arch),
    number(bytes(one.sizes[CUBIN])),
    number(facts.registers ?? "unknown"),
    number(bytes(facts.shared_bytes)),
    number(error(one.relative_error)),
    element("td", {}, built ? moment(built) : ""));
}

const numeric = (head) => element("th", { scope: "col", class: "number" }, head);
const number = (text) => element("td", { class: "number" }, text);
const weightOf = (spec) => String(spec.parameters.b_dtype ?? "");

function loadKernel(key) {
  byId("kernel").replaceChildren();
  load(byId("kernel"), "the kernel", async () => {
    const found = await read(`/v1/artifacts?${new URLSearchParams({ find: key, limit: 1 })}`);
    return found.kernels[0] ?? null;
  }, (one) => (one === null ? absent(key) : detailOf(one)));
}

function absent(key) {
  return [back(), sentence(`There is no kernel ${short(key)} in the store. It may have been removed, or not been compiled yet.`)];
}

const back = () => element("p", {}, element("a", { href: "#cache" }, "All kernels"));

function detailOf(one) {
  const { key, spec, facts, files, versions, seconds, cpu_seconds: cpu, peak_mib: peak, built_at: built, built_by: by } = one.manifest;
  const path = `/v1/kernels/${encodeURIComponent(key)}`;
  const text = element("div", { "aria-live": "polite" });
  const texts = [["Source", "source", "the source"], ["SASS", "sass", "the instructions of the chip"], ["Log", "log", "what the compiler said"]]
    .filter(([, part]) => part !== "log" || "compile.log" in files)
    .map(([label, part, what]) => element("button", { type: "button", "aria-pressed": "false", onclick: (event) => {
      for (const other of event.target.parentNode.querySelectorAll("[aria-pressed]")) {
        other.setAttribute("aria-pressed", String(other === event.target));
      }
      text.replaceChildren();
      load(text, what, () => readText(`${path}/${part}`), (content) => listing(label, content));
    } }, label));
  const facts_ = Object.entries(facts).map(([name, value]) => [name.replaceAll("_", " "), name.endsWith("_bytes") ? bytes(value) : String(value)]);
  return [
    back(),
    element("h2", {}, `${spec.executor} ${spec.kernel} ${weightOf(spec)}`),
    element("p", { class: "key" }, key),
    element("div", { class: "columns" },
      element("article", { class: "card" }, element("h3", {}, "Asked for"),
        terms([["chip", spec.arch], ...Object.entries(spec.parameters).map(([name, value]) => [name, String(value)])])),
      element("article", { class: "card" }, element("h3", {}, "What came of it"),
        terms([["cubin", bytes(one.sizes[CUBIN])], ...facts_, ["error on the processor", error(one.relative_error)]])),
      element("article", { class: "card" }, element("h3", {}, "Built"),
        terms([["when", built ? moment(built) : null], ["took", `${seconds.toFixed(2)} s`],
          ["processor", cpu ? `${cpu.toFixed(2)} s` : null], ["memory", peak ? `${peak} MiB at most` : null], ["commit", by ? short(by) : null],
          ...Object.entries(versions)])),
      element("article", { class: "card" }, element("h3", {}, "Files"),
        terms(Object.entries(files).map(([name, found]) => [name, `${bytes(one.sizes[name])}, ${short(found)}`])))),
    element("div", { class: "buttons" }, texts,
      element("a", { href: `${path}/cubin`, download: `${short(key)}.cubin` }, "Download the cubin")),
    text,
  ];
}

function listing(label, content) {
  const lines = content.split("\n").length;
  return [element("p", { class: "hint" }, `${label}, ${lines} lines`), scrolling(label, element("pre", {}, content))];
}
