// Every cell that was measured, of every figure: filtered, sorted, and to take away.

import { byId, element, load, say, sentence, table } from "/web/dom.js";
import { barsOf, everyFigure } from "/web/figures.js";
import { openRecord } from "/web/record.js";
import { many, moment, named, short } from "/web/words.js";

const digits = (number) => (value) => (value === null || value === undefined ? "" : value.toFixed(number));
const ERROR = (value) => (value === null || value === undefined ? "" : value.toExponential(1));
// head, name in the CSV, the value, how it is shown; numbers stand to the right
const COLUMNS = [
  ["Weight", "weight", (row) => row.weight],
  ["By", "executor", (row) => row.cell.executor, named],
  ["Figure", "figure", (row) => row.cell.figure],
  ["m", "m", (row) => row.cell.workload.m],
  ["k", "k", (row) => row.cell.workload.k],
  ["n", "n", (row) => row.cell.workload.n],
  ["Model", "model", (row) => row.cell.workload.model],
  ["Step", "stage", (row) => row.cell.workload.stage],
  ["Group", "group_size", (row) => row.cell.workload.group_size, (size) => (size === -1 ? "column" : String(size))],
  ["State", "status", (row) => row.status],
  ["ms", "latency_ms", (row) => row.record.latency_ms, digits(4)],
  ["× floor", "ratio_to_floor", (row) => row.record.floor_ratio, digits(2)],
  ["× f16", "speedup", (row) => row.speedup, digits(2)],
  ["Error", "relative_error", (row) => row.record.relative_error, ERROR],
  ["GPU", "gpu", (row) => row.record.gpu.name],
  ["Records", "mode", (row) => row.mode],
  ["Commit", "commit", (row) => row.record.commit, short],
  ["Measured", "measured_at", (row) => row.record.measured_at, moment],
  ["Reason", "reason", (row) => row.record.reason],
].map(([head, name, value, show = (given) => (given === null || given === undefined ? "" : String(given))]) => ({ head, name, value, show }));

let rows = [];
let order = { column: null, up: true };
let prepared = false;

export function showResults() {
  const form = byId("filter");
  if (!prepared) {
    prepared = true;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", update);
    byId("download").addEventListener("click", download);
  }
  byId("download").disabled = true;
  load(byId("results"), "the results", everyRow, (found) => {
    rows = found;
    choices(form.elements.figure, "every figure", [...new Set(rows.map((row) => row.cell.figure))]);
    choices(form.elements.status, "any", [...new Set(rows.map((row) => row.status))]);
    return shown();
  });
}

async function everyRow() {
  const figures = await everyFigure();
  const asked = figures.flatMap((figure) => figure.sources.map(async (source) =>
    (await barsOf(figure.number, source)).filter((bar) => bar.record).map((bar) => ({ ...bar, mode: source.mode }))));
  return (await Promise.all(asked)).flat();
}

function choices(select, every, values) {
  const chosen = select.value;
  select.replaceChildren(element("option", { value: "" }, every), ...values.sort().map((value) => element("option", { value }, value)));
  select.value = values.map(String).includes(chosen) ? chosen : "";
}

/** The rows that the form asks for, in the order of the column that was chosen. */
function chosen() {
  const { words, figure, status } = byId("filter").elements;
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = rows.filter((row) =>
    (!figure.value || String(row.cell.figure) === figure.value)
    && (!status.value || row.status === status.value)
    && wanted.every((word) => textOf(row).includes(word)));
  if (order.column === null) return found;
  const value = COLUMNS[order.column].value;
  return found.sort((a, b) => (order.up ? 1 : -1) * compared(value(a), value(b)));
}

const textOf = (row) => COLUMNS.map(({ value, show }) => `${value(row) ?? ""} ${show(value(row))}`).join(" ").toLowerCase();

/** Numbers as numbers, words as words; what is not there after all others, in either direction. */
function compared(a, b) {
  const absent = (x) => x === null || x === undefined;
  if (absent(a) || absent(b)) return (absent(a) - absent(b)) * (order.up ? 1 : -1);
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
}

function update() {
  byId("results").replaceChildren(...[shown()].flat());
}

function shown() {
  const found = chosen();
  byId("download").disabled = found.length === 0;
  say(byId("results-count"), `${many(found.length, "result")} of ${rows.length}.`);
  if (rows.length === 0) return sentence("There are no records yet. On a machine with a GPU, bash run.sh makes some.");
  if (found.length === 0) return sentence("No result is as the filter asks: take a word away.");
  const columns = COLUMNS.filter(({ value }) => found.some((row) => (value(row) ?? "") !== ""));
  return table("Results", columns.map(headOf), found.map((row) => element("tr", {}, columns.map((column, turn) => cellOf(row, column, turn)))));
}

function headOf(column) {
  const turn = COLUMNS.indexOf(column);
  const sorted = order.column === turn ? (order.up ? "ascending" : "descending") : null;
  const sort = element("button", { type: "button", class: "sort", "data-column": column.name, onclick: () => {
    order = { column: turn, up: order.column === turn ? !order.up : true };
    update();
    byId("results").querySelector(`[data-column="${column.name}"]`).focus();
  } }, column.head);
  return element("th", { scope: "col", "aria-sort": sorted, class: numeric(column) ? "number" : null }, sort);
}

const numeric = ({ value }) => rows.some((row) => typeof value(row) === "number");

function cellOf(row, { value, show }, turn) {
  const given = value(row);
  if (turn === 0) {
    return element("th", { scope: "row" }, element("button", { type: "button", class: "link", onclick: () => openRecord(row) }, show(given)));
  }
  return element("td", { class: typeof given === "number" ? "number" : null }, show(given));
}

/** What is shown, with every digit; a text that a spreadsheet would compute is told to be text. */
function download() {
  const quoted = (given) => {
    if (typeof given === "number" || given === null || given === undefined) return String(given ?? "");
    const text = /^[=+\-@\t\r]/.test(given) ? `'${given}` : String(given);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = [COLUMNS.map(({ name }) => name), ...chosen().map((row) => COLUMNS.map(({ value }) => value(row)))];
  const text = `${lines.map((line) => line.map(quoted).join(",")).join("\n")}\n`;
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  element("a", { href: address, download: "tilus-results.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
