// One record: in brief beside its bar, in full in a dialog.

import { byId, drawing, element, scrolling, table, terms } from "/web/dom.js";
import { duration, error, many, moment, named, problem, scaling, short, times } from "/web/words.js";

const WIDE = 240, HIGH = 34, EDGE = 6;

export const titleOf = (bar) => `${bar.weight}, ${named(bar.cell.executor)}`;

/** What a bar says, for whoever does not see it. */
export function spoken(bar) {
  const record = bar.record;
  if (!record) return `${titleOf(bar)}: no record`;
  if (record.status !== "ok") return `${titleOf(bar)}: ${record.status}: ${record.reason}`;
  const parts = [
    bar.speedup === null ? null : `${bar.speedup.toFixed(2)} times the speed of f16`,
    duration(record.latency_ms),
    record.floor_ratio ? `${record.floor_ratio.toFixed(2)} times the floor` : null,
  ];
  return `${titleOf(bar)}: ${parts.filter(Boolean).join(", ")}`;
}

/** The rows that matter most. */
function brief(bar) {
  const record = bar.record;
  if (!record) return [["state", "nothing was measured"]];
  return [
    ["state", record.status === "ok" ? null : `${record.status}: ${record.reason}`],
    ["median", record.latency_ms === null ? null : duration(record.latency_ms)],
    ["p10 to p90", record.p10_ms === null ? null : `${duration(record.p10_ms)} to ${duration(record.p90_ms)}`],
    ["speed over f16", bar.speedup === null ? null : times(bar.speedup)],
    ["over the floor", record.floor_ratio ? times(record.floor_ratio) : null],
    ["relative error", record.relative_error === null || record.relative_error === undefined ? null : error(record.relative_error)],
    ["commit", `${short(record.commit)}${record.dirty ? " (dirty)" : ""}`],
    ["throttled", record.gpu.throttled ? "yes" : null],
  ];
}

export function briefOf(bar) {
  return [element("p", { class: "title" }, titleOf(bar)), terms(brief(bar)), ...(bar.record ? samplesOf(bar.record) : [])];
}

/** Every sample as a dot on a line of time, the median as a stroke, the floor where it is near. */
function samplesOf(record) {
  const samples = record.samples_ms;
  if (samples.length === 0) return [];
  const low = Math.min(...samples), high = Math.max(...samples);
  const at = (ms) => EDGE + ((ms - low) / (high - low || 1)) * (WIDE - 2 * EDGE);
  const dots = samples.map((ms, turn) =>
    drawing("circle", { cx: at(ms).toFixed(1), cy: (HIGH / 2 + ((turn * 7) % 13) - 6).toFixed(1), r: 2.2 }));
  const middle = at(record.latency_ms ?? low).toFixed(1);
  return [
    drawing("svg", { class: "samples", viewBox: `0 0 ${WIDE} ${HIGH}`, "aria-hidden": "true" },
      drawing("line", { class: "middle", x1: middle, x2: middle, y1: 2, y2: HIGH - 2 }), dots),
    element("p", { class: "hint" }, `${many(samples.length, "sample")}, ${duration(low)} to ${duration(high)}`),
  ];
}

/** Show a record in full. */
export function openRecord(bar) {
  const dialog = byId("record");
  const { cell, record } = bar;
  const close = element("button", { type: "button", class: "plain", onclick: () => dialog.close() }, "Close");
  dialog.replaceChildren(
    element("div", { class: "heading" }, element("h2", { id: "record-title", tabindex: -1 }, titleOf(bar)), close),
    element("p", { class: "hint" }, `Figure ${cell.figure}: ${problem(cell.workload)}, ${scaling(cell.workload)}`),
    element("div", { class: "columns" },
      element("section", {}, element("h3", {}, "Time"), ...briefOf(bar).slice(1),
        record ? terms([["floor", record.floor_ms ? duration(record.floor_ms) : null],
          ["in a CUDA graph", record.graph_latency_ms ? duration(record.graph_latency_ms) : null]]) : null),
      ...(record ? [element("section", {}, element("h3", {}, "Where"), whereOf(record)),
        element("section", {}, element("h3", {}, "Kernel"), kernelOf(record))] : [])),
    ...(record?.candidates?.length ? [candidatesOf(record)] : []),
    ...(record ? [element("details", {}, element("summary", {}, "The record as it was written"),
      scrolling("The record", element("pre", {}, JSON.stringify(record, null, 1))))] : []),
  );
  dialog.showModal();
  byId("record-title").focus();
}

function whereOf(record) {
  const { gpu, versions } = record;
  const pair = (values, unit) => (values ? `${values[0]} to ${values[1]} ${unit}` : null);
  return terms([
    ["GPU", gpu.name], ["driver", gpu.driver], ["measured", moment(record.measured_at)],
    ["clock", pair(gpu.sm_mhz, "MHz")], ["temperature", pair(gpu.temperature_c, "°C")],
    ["power", gpu.power_w === null || gpu.power_w === undefined ? null : `${gpu.power_w.toFixed(0)} W`],
    ...Object.entries(versions),
  ]);
}

function kernelOf(record) {
  if (!record.kernel) return element("p", {}, record.engine ? `Run by ${record.engine}.` : "A call of a library.");
  const { key, name, arch, parameters, schedule } = record.kernel;
  const link = element("a", { href: `#cache/${key}`, onclick: () => byId("record").close() }, short(key));
  const rows = Object.entries({ ...parameters, ...schedule }).map(([term, value]) => [term, String(value)]);
  return terms([["name", `${name} ${arch}`], ["in the cache", link], ...rows]);
}

function candidatesOf(record) {
  const rows = record.candidates.map((one) => element("tr", {},
    element("th", { scope: "row" }, short(one.key)),
    element("td", {}, Object.entries(one.schedule).map(([name, value]) => `${name}=${value}`).join(" ")),
    element("td", {}, one.status === "ok" ? duration(one.latency_ms) : `${one.status}: ${one.reason ?? ""}`)));
  return element("details", {}, element("summary", {}, `${many(record.candidates.length, "kernel was", "kernels were")} tried`),
    table("Kernels that were tried", ["Kernel", "Schedule", "Short timing"], rows));
}
