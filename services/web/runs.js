// Runs: each a card that is changed where it stands as news of it come.

import { read, write } from "/web/api.js";
import { byId, element, say } from "/web/dom.js";
import { many, moment, named } from "/web/words.js";

// kind of work -> what became of one piece of it
const VERBS = {
  compile: ["kernel compiled", "kernels compiled"],
  check: ["kernel checked on the processor", "kernels checked on the processor"],
  measure: ["cell measured", "cells measured"],
  draw: ["figure drawn", "figures drawn"],
};
const OVER = ["stored", "done", "failed", "cancelled"];
const REASONS = 10;

const cards = new Map();
let prepared = false;
let labels = 0;

export async function showRuns() {
  if (prepared) return;
  prepared = true;
  const form = byId("begin");
  form.onsubmit = begin;
  try {
    const figures = await read("/v1/figures");
    form.elements.figure.replaceChildren(...figures.map((each) =>
      element("option", { value: each.number }, `${each.number}: ${each.title}`)));
    form.querySelector("button").disabled = false;
  } catch (error) {
    prepared = false;
    say(byId("begun"), `Could not load the figures there are: ${error.message}`);
  }
}

async function begin(event) {
  event.preventDefault();
  const figure = Number(event.target.elements.figure.value);
  say(byId("begun"), `Beginning figure ${figure}.`);
  try {
    const state = await write("POST", "/v1/runs", { figure, mode: "recorded" });
    hearRun(state);
    say(byId("begun"), `Figure ${figure} has begun.`);
  } catch (error) {
    say(byId("begun"), `Could not begin figure ${figure}: ${error.message}`);
  }
}

/** How a run stands now. */
export function hearRun(state) {
  byId("runs-state").hidden = true;
  let card = cards.get(state.id);
  if (!card) {
    card = made(state);
    cards.set(state.id, card);
    const behind = [...byId("runs-list").children].find((other) => other.dataset.began < state.created_at);
    byId("runs-list").insertBefore(card.place, behind ?? null);
  }
  card.update(state);
}

/** Once it is known that there is no run, say so. */
export function hearNoRuns() {
  if (cards.size === 0) {
    say(byId("runs-state"), "No run was begun here yet. Begin one above, or with run.sh.");
  }
}

function made(state) {
  const request = state.request;
  const status = element("span", { class: "status" });
  const said = element("p", { class: "hint", role: "status" });
  const bars = new Map();
  const work = element("div", { class: "work" });
  const failures = element("div");
  const notes = element("ul", { class: "notes" });
  const files = element("p", { class: "files" });
  const cancel = element("button", { type: "button", class: "plain", onclick: () => stop(state, said) }, "Take back what waits");
  const place = element("article", { class: "card run", "data-began": state.created_at ?? "", "aria-label": `Run of figure ${request.figure}` },
    element("h2", {}, `Figure ${request.figure}, ${request.mode}`, status),
    element("p", { class: "hint" }, aboutOf(state)), work, failures, notes, files, cancel, said);
  let before = "";

  function update(now) {
    const failed = now.failures.length;
    status.dataset.state = now.finished ? (failed ? "failed" : "done") : "running";
    say(status, now.finished ? (failed ? `finished, ${many(failed, "failure")}` : "finished") : "at work");
    cancel.hidden = now.finished;
    files.hidden = !now.finished; // till then they may be those of an earlier run
    place.dataset.finished = now.finished;
    for (const [kind, verbs] of Object.entries(VERBS)) {
      const counts = now.counts[kind];
      if (!counts) continue;
      if (!bars.has(kind)) {
        bars.set(kind, barOf());
        work.append(...bars.get(kind).parts);
      }
      bars.get(kind).update(counts, verbs);
    }
    const rest = JSON.stringify([now.failures, now.missing, now.changed, now.largest_error, now.figures]);
    if (rest === before) return;
    before = rest;
    failures.replaceChildren(...failuresOf(now.failures));
    notes.replaceChildren(...notesOf(now).map((text) => element("li", {}, text)));
    files.replaceChildren(...now.figures.flatMap((name) => [linkOf(now, name), " "]));
  }
  return { place, update };
}

function aboutOf(state) {
  const { gpu, arch, executors, dtypes } = state.request;
  const parts = [
    state.created_at ? `begun ${moment(state.created_at)}` : null,
    gpu || null, arch,
    executors ? `only ${executors.map(named).join(", ")}` : null,
    dtypes ? `only ${dtypes.join(", ")}` : null,
    `run ${state.id}`,
  ];
  return parts.filter(Boolean).join(" · ");
}

function barOf() {
  const label = element("span", { id: `bar-${(labels += 1)}` });
  const bar = element("progress", { "aria-labelledby": label.id });
  function update(counts, [one, more]) {
    const total = Object.values(counts).reduce((sum, number) => sum + number, 0);
    const over = OVER.reduce((sum, name) => sum + (counts[name] ?? 0), 0);
    const apart = [
      [counts.stored, "from the store"], [counts.running, "at work"],
      [counts.failed, "failed"], [counts.cancelled, "taken back"],
    ].filter(([number]) => number).map(([number, what]) => `${number} ${what}`);
    bar.max = total;
    bar.value = over;
    bar.dataset.failed = counts.failed ? "yes" : "no";
    say(label, `${over} of ${total} ${total === 1 ? one : more}${apart.length ? ` (${apart.join(", ")})` : ""}`);
  }
  return { parts: [label, bar], update };
}

/** Failures in a line for each reason. */
function failuresOf(failures) {
  const alike = new Map();
  for (const failure of failures) {
    const key = JSON.stringify([failure.kind, failure.reason]);
    alike.set(key, [...(alike.get(key) ?? []), failure]);
  }
  const groups = [...alike.values()];
  const lines = groups.slice(0, REASONS).map(([first, ...others]) =>
    element("li", {}, element("strong", {}, `${first.kind} failed`),
      `${first.cause ? ` (${first.cause})` : ""}: ${first.title}${others.length ? ` and ${many(others.length, "other")}` : ""}: ${first.reason}`));
  if (groups.length > REASONS) lines.push(element("li", {}, `and ${many(groups.length - REASONS, "more reason")}`));
  return lines.length ? [element("ul", { class: "failures" }, lines)] : [];
}

function notesOf(state) {
  const missing = Object.entries(state.missing).map(([name, count]) => `${named(name)} (${count})`);
  return [
    state.largest_error === null ? null : `largest relative error ${state.largest_error.toExponential(1)}`,
    missing.length ? `no record of: ${missing.join(", ")}` : null,
    state.changed ? `${many(state.changed, "recorded kernel is", "recorded kernels are")} no longer what this code makes` : null,
  ].filter(Boolean);
}

function linkOf(state, name) {
  const kind = name.split(".").pop();
  const path = `/v1/runs/${encodeURIComponent(state.id)}/figures/${state.request.figure}.${encodeURIComponent(kind)}`;
  return element("a", { href: path, download: name }, name);
}

async function stop(state, said) {
  try {
    hearRun(await write("DELETE", `/v1/runs/${encodeURIComponent(state.id)}`));
    say(said, "What waited was taken back; what runs is finished.");
  } catch (error) {
    say(said, `Could not take it back: ${error.message}`);
  }
}
