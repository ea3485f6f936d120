// Asking the API. Reading is open; writing may need a token, which is asked for when it does.

import { byId, say } from "/web/dom.js";

const TOKEN = "tilus-token";
const PAUSE = 300; // milliseconds

/** An answer that is no success, in the API's own words. */
export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** JSON from the API. */
export async function read(path) {
  return (await asked("GET", path)).json();
}

/** Text from the API. */
export async function readText(path) {
  return (await asked("GET", path)).text();
}

/** Change something; asks for the token until the API takes it or the reader leaves it. */
export async function write(method, path, body) {
  for (let why = "The API takes changes only from those who know its token."; ; why = "The API did not take this token.") {
    try {
      return await (await asked(method, path, body)).json();
    } catch (error) {
      if (error.status !== 401) throw error;
      forget();
      const token = await ask(why);
      if (!token) throw new Refused(401, "nothing was changed, for lack of the token.");
      sessionStorage.setItem(TOKEN, token);
      byId("forget").hidden = false;
    }
  }
}

async function asked(method, path, body) {
  const headers = { Accept: "application/json, text/plain" };
  const token = sessionStorage.getItem(TOKEN);
  if (method !== "GET" && token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetched(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  if (answer.ok) return answer;
  let detail;
  try {
    detail = (await answer.json()).detail;
  } catch {
    detail = null;
  }
  throw new Refused(answer.status, detail ?? `the API answered ${answer.status} ${answer.statusText}.`);
}

/** An answer; reading is tried twice, for a network that changes breaks what is under way. */
async function fetched(path, request) {
  for (let tries = request.method === "GET" ? 2 : 1; ; tries -= 1) {
    try {
      return await fetch(path, request);
    } catch {
      if (tries === 1) throw new Refused(0, "the API does not answer. It may have been stopped.");
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
  }
}

/** The token that the reader types; null if they leave it. */
function ask(why) {
  const dialog = byId("token");
  const input = dialog.querySelector("input");
  say(byId("token-why"), why);
  input.value = "";
  dialog.returnValue = "leave";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const token = dialog.returnValue === "use" ? input.value.trim() : "";
      input.value = "";
      resolve(token || null);
    }, { once: true });
  });
}

function forget() {
  sessionStorage.removeItem(TOKEN);
  byId("forget").hidden = true;
}

/** Have the footer's button forget a token that is kept. */
export function offerToForget() {
  byId("forget").hidden = !sessionStorage.getItem(TOKEN);
  byId("forget").addEventListener("click", forget);
}
