// Elements from names, properties and children. Text is always text: nothing here parses HTML.

/** h("button.primary", {onclick}, "Fit") makes an element; null and false children are left out. */
export function h(what, ...rest) {
  const [tag, ...classes] = what.split(".");
  const made = document.createElement(tag || "div");
  if (classes.length) made.className = classes.join(" ");
  const given = isProperties(rest[0]) ? rest.shift() : {};
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || value === null) continue;
    if (name in made && !name.startsWith("aria")) made[name] = value;
    else if (value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...rest.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false));
  return made;
}

function isProperties(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value) && !(value instanceof Node);
}

const SVG = "http://www.w3.org/2000/svg";
const PATHS = {
  check: "M5 12.5l4.5 4.5L19 7.5",
  close: "M6 6l12 12M18 6L6 18",
  undo: "M9 7L4 12l5 5M4 12h10a6 6 0 0 1 6 6",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  plus: "M12 5v14M5 12h14",
  copy: "M9 9h10v10H9zM5 15V5h10",
  camera: "M4 8h3l2-3h6l2 3h3v11H4zM12 17a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7z",
  eye: "M2 12s4-7 10-7 10 7 10 7-4 7-10 7S2 12 2 12zM12 15a3 3 0 1 0 0-6 3 3 0 0 0 0 6z",
};

/** A line icon, which says nothing to a screen reader: its button has a name. */
export function icon(name) {
  const made = document.createElementNS(SVG, "svg");
  made.setAttribute("viewBox", "0 0 24 24");
  made.setAttribute("aria-hidden", "true");
  made.setAttribute("class", "icon");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  made.append(path);
  return made;
}

/** A sentence in the corner for some seconds, with a button if there is something to do about it. */
export function toast(text, { bad = false, action = null, does = null } = {}) {
  const made = h(`div.toast${bad ? ".bad" : ""}`, h("span", text));
  const end = () => made.remove();
  if (action) made.append(h("button.plain", { onclick: () => (end(), does()) }, action));
  made.append(h("button.plain", { "aria-label": "Close", onclick: end }, icon("close")));
  const box = document.getElementById("toasts");
  for (const one of [...box.children]) if (one.firstChild.textContent === text) one.remove();
  while (box.children.length > 2) box.firstChild.remove();
  box.append(made);
  setTimeout(end, bad ? 15000 : 6000);
}

/** Words for a screen reader alone. */
export function speak(text) {
  document.getElementById("spoken").textContent = text;
}

/** A dialog that Escape closes; gives what closes it. */
export function dialog(title, ...content) {
  const made = h("dialog", { "aria-label": title }, h("div.dialog-head", h("h2", title),
    h("button.plain", { "aria-label": "Close", onclick: () => made.close() }, icon("close"))), ...content);
  made.addEventListener("close", () => made.remove());
  made.addEventListener("click", (event) => event.target === made && made.close());
  document.body.append(made);
  made.showModal();
  return () => made.close();
}

export const percent = (value, digits = 0) => `${(100 * value).toFixed(digits)} %`;
export const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
export const short = (text, most = 60) => ([...text].length > most ? `${[...text].slice(0, most - 1).join("")}…` : text);
