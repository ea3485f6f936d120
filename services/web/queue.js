// The queues with their workers, and the pieces of work that wait for a compile worker.

import { read, write } from "/web/api.js";
import { byId, element, load, say, sentence, table } from "/web/dom.js";
import { hearNoRuns } from "/web/runs.js";
import { many, short } from "/web/words.js";

const LISTED = 50;
const PAUSE = 2000; // milliseconds between two looks at the jobs

let shown = false;
let due = null;

export function showQueue() {
  shown = true;
  loadJobs();
}

/** How the queues stand now. */
export function hearQueues(state) {
  hearNoRuns();
  const problem = state.problem;
  const waiting = state.queues.reduce((sum, queue) => sum + queue.waiting, 0);
  const workers = state.queues.reduce((sum, queue) => sum + queue.workers.length, 0);
  const place = byId("queue-state");
  place.classList.toggle("bad", Boolean(problem));
  say(place, problem
    ? `Nothing is known of the queue: ${problem}`
    : `${many(waiting, "piece of work waits", "pieces of work wait")} and ${many(workers, "worker is", "workers are")} alive.`);
  byId("queues").replaceChildren(...state.queues.map(cardOf));
  if (shown && due === null) due = setTimeout(loadJobs, PAUSE);
}

function cardOf(queue) {
  const workers = queue.workers.map((worker) =>
    element("li", {}, element("strong", {}, worker.name), worker.batch ? ` works on ${worker.batch}` : " is idle"));
  const nobody = sentence(queue.waiting ? "Nobody works on this queue: start a worker." : "Nobody works on this queue, and nothing waits.");
  return element("article", { class: "card" },
    element("h2", {}, queue.name, element("span", { class: "status" }, `${queue.waiting} waiting`)),
    workers.length ? element("ul", { class: "workers" }, workers) : nobody);
}

function loadJobs() {
  clearTimeout(due);
  due = null;
  if (byId("jobs").closest("section").hidden) {
    shown = false;
    return;
  }
  const focused = document.activeElement?.dataset.job;
  load(byId("jobs"), "the jobs", () => read("/v1/jobs"), tableOf).then(() => {
    if (focused) byId("jobs").querySelector(`[data-job="${CSS.escape(focused)}"]`)?.focus();
  });
}

function tableOf(jobs) {
  if (jobs.length === 0) return sentence("Nothing waits to be compiled or checked, and nothing is at work.");
  const rows = jobs.slice(0, LISTED).map((job) => element("tr", {},
    element("td", {}, job.function.split(".").pop()),
    element("td", {}, kernelOf(job)),
    element("td", {}, job.position ? `waiting, ${job.position} before it` : job.status),
    element("td", {}, job.status === "waiting" ? takeBack(job) : null)));
  const more = jobs.length > LISTED ? [sentence(`${jobs.length - LISTED} more wait behind these.`)] : [];
  return [table("Work for compile workers", ["What", "Kernel", "State", "Change"], rows), ...more];
}

/** A compilation is called by its kernel's key; a check has one of its own. */
function kernelOf(job) {
  const [kind, key] = job.id.split("-");
  return kind === "compile" && key
    ? element("a", { href: `#cache/${encodeURIComponent(key)}` }, short(key))
    : short(key ?? job.id);
}

function takeBack(job) {
  return element("button", {
    type: "button", class: "plain", "data-job": job.id, "aria-label": `Take back ${job.id}`,
    onclick: async (event) => {
      try {
        await write("DELETE", `/v1/jobs/${encodeURIComponent(job.id)}`);
        loadJobs();
      } catch (error) {
        event.target.replaceWith(element("span", { role: "alert" }, error.message));
      }
    },
  }, "Take back");
}
