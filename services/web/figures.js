// Figures: a panel a problem, a bar a cell, drawn of numbers so that each bar can be asked.

import { read } from "/web/api.js";
import { byId, element, load, sentence } from "/web/dom.js";
import { briefOf, openRecord, spoken } from "/web/record.js";
import { NONE, many, named, problem, times } from "/web/words.js";

const KINDS = { u: "unsigned integers", i: "signed integers", f: "floats" };
const LEAVE = 200; // milliseconds in which the pointer may go from a bar to its words
// how the bars of each kind of figure are grouped, and what each is called within its group
const PANELS = {
  bars: { group: ({ cell }) => problem(cell.workload), label: (bar) => bar.weight },
  spectrum: {
    group: ({ weight }) => KINDS[weight[0]] ?? weight,
    label: (bar) => bar.weight, spare: "torch-f16", order: (a, b) => bitsOf(b) - bitsOf(a),
  },
  lines: { group: (bar) => bar.weight, label: ({ cell }) => `m ${cell.workload.m}`, spare: "torch-f16" },
  models: { group: ({ cell, record }) => [problem(cell.workload), record?.gpu.name].filter(Boolean).join(", "), label: (bar) => bar.weight },
};

const bitsOf = ({ weight }) => Number(/\d+/.exec(weight));

export const everyFigure = () => read("/v1/figures");

export const barsOf = (number, source) => read(`/v1/figures/${number}?${new URLSearchParams(source)}`);

export const sourceName = (source) =>
  `${source.mode === "recorded" ? "shipped with the project" : "measured here"}, ${source.gpu || "every GPU"}`;

export async function showFigures(number) {
  const form = byId("choose");
  await load(byId("figure"), "the figures there are", everyFigure, (figures) => {
    const asked = number ?? form.elements.figure.value;
    const figure = figures.find((each) => String(each.number) === asked) ?? figures[0];
    fill(form.elements.figure, figures.map((each) => [each.number, `${each.number}: ${each.title}`]), figure.number);
    fill(form.elements.source, figure.sources.map((source, turn) => [turn, sourceName(source)]), 0);
    form.elements.source.disabled = figure.sources.length === 0;
    form.elements.figure.onchange = (event) => { location.hash = `#figures/${event.target.value}`; };
    form.elements.source.onchange = (event) => loadFigure(figure, figure.sources[event.target.value]);
    queueMicrotask(() => loadFigure(figure, figure.sources[0]));
    return sentence(`Loading figure ${figure.number}.`);
  });
}

function fill(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
  if (options.length === 0) select.append(element("option", {}, "none yet"));
  else select.value = String(chosen);
}

function loadFigure(figure, source) {
  hideTip();
  if (!source) {
    byId("figure").replaceChildren(sentence(figure.picture === "models"
      ? `Figure ${figure.number} has no records yet: it times whole models, and there is no runner of these here.`
      : `Figure ${figure.number} has no records yet. On a machine with a GPU, bash run.sh --figure ${figure.number} makes some.`));
    return;
  }
  load(byId("figure"), `figure ${figure.number}`, () => barsOf(figure.number, source), (bars) => pictureOf(figure, bars));
}

function pictureOf(figure, bars) {
  const how = PANELS[figure.picture];
  const shown = bars.filter((bar) => bar.cell.executor !== how.spare).sort(how.order ?? (() => 0));
  const scale = scaleOf(shown);
  const problems = new Set(shown.map((bar) => problem(bar.cell.workload)));
  const alone = new Set(shown.map((bar) => bar.cell.executor)).size === 1;
  const measured = bars.filter((bar) => bar.speedup !== null).length;
  return [
    element("h2", {}, `Figure ${figure.number}: ${figure.title}`),
    element("p", {}, `${problems.size === 1 ? `${[...problems][0]}. ` : ""}Speed over f16, on a scale of powers of two; ${measured} of ${many(bars.length, "cell")} measured. `
      + "The stroke across a bar is the floor: a plain read of the same bytes."),
    element("p", { class: "hint" }, "Point at a bar for its record, choose it for all of it. Arrow keys go from bar to bar."),
    legendOf(shown),
    element("div", { class: "panels", "data-alone": alone },
      [...grouped(shown, how.group)].map(([title, group]) => panelOf(title, group, how.label, scale))),
  ];
}

function grouped(bars, group) {
  const found = new Map();
  for (const bar of bars) found.set(group(bar), [...(found.get(group(bar)) ?? []), bar]);
  return found;
}

function legendOf(bars) {
  const names = [...new Set(bars.map((bar) => bar.cell.executor))];
  return element("ul", { class: "legend", "aria-label": "Executors" }, names.map((name) =>
    element("li", {}, element("span", { class: "swatch", "data-executor": name }), named(name))));
}

/** From half of f16's speed to twice, wider where the numbers are: logarithms to base two. */
function scaleOf(bars) {
  const all = bars.flatMap((bar) => [bar.speedup, floorOf(bar)]).filter((speed) => speed);
  return { low: Math.floor(Math.log2(Math.min(0.5, ...all))), high: Math.log2(Math.max(2, ...all) * 1.1) };
}

/** How much faster than f16 a plain read of the bar's bytes is. */
const floorOf = ({ speedup, record }) => (speedup && record?.floor_ratio ? speedup * record.floor_ratio : null);
const place = (speed, { low, high }) => `${(100 * (Math.log2(speed) - low)) / (high - low)}%`;

function panelOf(title, bars, label, scale) {
  const marks = [];
  for (let power = scale.low; power <= scale.high; power += 1) {
    const mark = element("span", {}, `${2 ** power}×`);
    mark.style.left = place(2 ** power, scale);
    marks.push(mark);
  }
  const list = element("ul", { class: "bars", "aria-label": title, onkeydown: walk }, bars.map((bar, turn) =>
    element("li", {}, rowOf(bar, turn > 0 && label(bar) === label(bars[turn - 1]) ? "" : label(bar), scale, turn === 0))));
  list.style.setProperty("--octaves", scale.high - scale.low);
  list.style.setProperty("--one", place(1, scale));
  return element("section", { class: "card panel", "aria-label": title },
    element("h3", {}, title), list, element("p", { class: "axis", "aria-hidden": "true" }, marks));
}

function rowOf(bar, label, scale, first) {
  const track = element("span", { class: "track" });
  if (bar.speedup !== null) {
    const drawn = element("span", { class: "bar", "data-executor": bar.cell.executor });
    drawn.style.width = place(bar.speedup, scale);
    track.append(drawn);
    const floor = floorOf(bar);
    if (floor !== null) {
      const stroke = element("span", { class: "floor" });
      stroke.style.left = place(floor, scale);
      track.append(stroke);
    }
  }
  const absent = bar.speedup === null;
  const word = absent ? (bar.status === "ok" ? NONE : bar.status) : times(bar.speedup);
  return element("button", {
    type: "button", class: "row", tabindex: first ? 0 : -1, "aria-label": spoken(bar),
    onclick: () => { hideTip(); openRecord(bar); },
    onmouseenter: (event) => showTip(event.currentTarget, bar),
    onmouseleave: leave,
    onfocus: (event) => event.currentTarget.matches(":focus-visible") && showTip(event.currentTarget, bar),
    onblur: hideTip,
  },
  element("span", { class: "label" }, label), element("span", { class: "who" }, named(bar.cell.executor)),
  track, element("span", { class: "value", "data-absent": absent }, word));
}

/** One bar of a panel is a stop of the tab key; arrow keys go on from it. */
function walk(event) {
  const rows = [...event.currentTarget.querySelectorAll("button")];
  const at = rows.indexOf(document.activeElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[event.key];
  if (to === undefined || !rows[to]) return;
  event.preventDefault();
  rows[at].tabIndex = -1;
  rows[to].tabIndex = 0;
  rows[to].focus();
}

// The words beside a bar: they stay while the pointer is on them, and Escape takes them away.

let leaving = null;

function showTip(row, bar) {
  const tip = byId("tip");
  clearTimeout(leaving);
  tip.replaceChildren(...briefOf(bar));
  tip.hidden = false;
  const at = row.getBoundingClientRect(), box = tip.getBoundingClientRect();
  const below = at.bottom + 6;
  const top = below + box.height < innerHeight ? below : Math.max(4, at.top - box.height - 6);
  const left = Math.min(Math.max(8, at.right - box.width), innerWidth - box.width - 8);
  tip.style.top = `${top + scrollY}px`;
  tip.style.left = `${left + scrollX}px`;
}

function leave() {
  clearTimeout(leaving);
  leaving = setTimeout(hideTip, LEAVE);
}

function hideTip() {
  clearTimeout(leaving);
  byId("tip").hidden = true;
}

byId("tip").addEventListener("mouseenter", () => clearTimeout(leaving));
byId("tip").addEventListener("mouseleave", leave);
addEventListener("keydown", (event) => event.key === "Escape" && hideTip());
