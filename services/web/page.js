// The page: which view is shown, and the news that all of them are told.

import { offerToForget } from "/web/api.js";
import { showCache } from "/web/cache.js";
import { byId } from "/web/dom.js";
import { follow } from "/web/feed.js";
import { showFigures } from "/web/figures.js";
import { hearQueues, showQueue } from "/web/queue.js";
import { showResults } from "/web/results.js";
import { hearRun, showRuns } from "/web/runs.js";

const VIEWS = { runs: showRuns, queue: showQueue, cache: showCache, figures: showFigures, results: showResults };
const FIRST = "runs";

/** The view and what follows it in the address: #cache/<key>. */
function asked() {
  const [view, ...rest] = location.hash.slice(1).split("/").map(decodeURIComponent);
  return view in VIEWS ? [view, ...rest] : null;
}

function show(moved) {
  const [view, ...rest] = asked() ?? [FIRST];
  for (const section of document.querySelectorAll("[data-view]")) {
    section.hidden = section.dataset.view !== view;
  }
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const title = byId(`${view}-title`);
  document.title = `${title.textContent} – Tilus fleet`;
  if (moved) {
    scrollTo(0, 0);
    title.focus({ preventScroll: true });
  }
  VIEWS[view](...rest);
}

addEventListener("hashchange", () => asked() && show(true));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
offerToForget();
follow({ run: hearRun, queues: hearQueues });
show(false);
