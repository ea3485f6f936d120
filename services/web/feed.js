// News of the fleet, as they come. The browser itself connects again, and sends the id of the last
// event that it saw; where the API refuses it a place, it is asked again from the beginning.

import { byId, say } from "/web/dom.js";

const PAUSE = 10_000; // milliseconds

/** Follow the fleet: `heard` has a function for each kind of event. */
export function follow(heard) {
  const source = new EventSource("/v1/events");
  const connection = byId("connection");
  const tell = (state, text) => {
    connection.dataset.state = state;
    say(connection, text);
  };
  source.addEventListener("open", () => tell("live", "Live."));
  source.addEventListener("error", () => {
    if (source.readyState !== EventSource.CLOSED) {
      tell("away", "The API does not answer. Trying again.");
      return;
    }
    tell("away", "The API has no place for one more listener. Trying again in 10 seconds.");
    setTimeout(() => follow(heard), PAUSE);
  });
  for (const [kind, hear] of Object.entries(heard)) {
    source.addEventListener(kind, (event) => hear(JSON.parse(event.data)));
  }
}
