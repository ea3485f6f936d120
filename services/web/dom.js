// Elements. What comes from data becomes text or the value of an attribute, never HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes, listeners (`onclick`: a function) and children. */
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for a drawing. */
export function drawing(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) {
      made.setAttribute(name, value === true ? "" : String(value));
    }
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

export const byId = (id) => document.getElementById(id);

/** Set text where it differs, so that nothing is read out twice. */
export function say(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

/** A sentence in place of what is not there. */
export function sentence(text, ...more) {
  return element("p", { class: "sentence" }, text, ...more);
}

/** Terms and what they are; rows of nothing are left out. */
export function terms(rows) {
  const given = rows.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return element("dl", {}, given.map(([term, value]) =>
    element("div", {}, element("dt", {}, term), element("dd", {}, value))));
}

/** A table that is read as one, and scrolls by itself where it is too wide. */
export function table(caption, heads, rows) {
  return scrolling(`Table: ${caption}`, element("table", {},
    element("caption", { class: "unseen" }, caption),
    element("thead", {}, element("tr", {}, heads.map((head) =>
      head instanceof Node ? head : element("th", { scope: "col" }, head)))),
    element("tbody", {}, rows)));
}

export function scrolling(label, ...content) {
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, ...content);
}

/**
 * Show what a promise brings: a sentence while it is under way, one if it fails, with a way to try
 * again. Of several loads into one place the last one counts.
 */
export async function load(place, what, ask, show) {
  const turn = (loads.get(place) ?? 0) + 1;
  loads.set(place, turn);
  place.setAttribute("aria-busy", "true");
  if (!place.hasChildNodes()) place.replaceChildren(sentence(`Loading ${what}.`));
  let content;
  try {
    content = [show(await ask())].flat();
  } catch (error) {
    const again = element("button", { type: "button", onclick: () => load(place, what, ask, show) }, "Try again");
    content = [element("div", { class: "sentence bad", role: "alert" },
      element("p", {}, `Could not load ${what}: ${error.message}`), again)];
  }
  if (loads.get(place) !== turn) return;
  place.removeAttribute("aria-busy");
  place.replaceChildren(...content);
}

const loads = new WeakMap();
