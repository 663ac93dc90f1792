// The page: five views, one at a time, and what they share.
import { h, plural, toast } from "./dom.js";
import { events } from "./server.js";
import { heard, listen, load, report, store } from "./store.js";
import { view as label } from "./label.js";
import { view as fit } from "./fit.js";
import { view as look } from "./look.js";
import { view as trying } from "./try.js";
import { view as ship } from "./ship.js";

const VIEWS = { label: ["Label", label], fit: ["Fit", fit], look: ["Look", look], try: ["Try", trying], ship: ["Ship", ship] };
const main = document.getElementById("view");
const links = Object.entries(VIEWS).map(([key, [name]]) => h("a", { href: `#${key}` }, name));
document.querySelector(".steps").append(...links);
let current = null;

function go() {
  const key = location.hash.slice(1) in VIEWS ? location.hash.slice(1) : "label";
  const [name, view] = VIEWS[key];
  if (view === current) return;
  current?.hidden?.();
  current = view;
  main.replaceChildren(view.element);
  main.dataset.view = key;
  document.title = `${name} · ${store.folder || "shotfit"}`;
  for (const link of links) {
    if (link.getAttribute("href") === `#${key}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  view.shown();
}

document.addEventListener("keydown", (event) => {
  const into = event.target instanceof Element ? event.target : document.body;
  if (event.defaultPrevented || event.altKey || event.isComposing || document.querySelector("dialog[open]")) return;
  if (into.closest("input:not([type=range]), textarea, select")) return;
  if (into.closest("button, a, summary") && ["Enter", " "].includes(event.key)) return;
  if (current?.pressed?.(event)) event.preventDefault();
});
addEventListener("hashchange", go);

const said = new Set();
/** What of the folder is not on the page, once. */
function told() {
  const damaged = store.damaged && `${plural(store.damaged, "line")} of ${store.journal} cannot be read: the labels in them are missing.`;
  for (const [text, bad] of [[store.leftOut, false], [damaged, true]]) {
    if (text && !said.has(text)) toast(text, { bad });
    said.add(text);
  }
}

function status() {
  const suspects = store.fit?.look.suspects.length ?? 0, running = store.job?.state === "running" && store.job.kind === "fit";
  for (const [key, said] of [["look", suspects ? String(suspects) : ""], ["fit", running ? "…" : ""]]) {
    const link = links.find((one) => one.getAttribute("href") === `#${key}`);
    if (link.dataset.said === said) continue;
    link.dataset.said = said;
    link.replaceChildren(VIEWS[key][0], said ? h("span.badge", said, h("span.unseen", said === "…" ? "running" : " labels look wrong")) : "");
  }
  const saved = document.getElementById("saved"), gone = document.getElementById("gone");
  gone.hidden = store.alive;
  saved.textContent = !store.alive ? "" : store.unsaved ? "Saving …" : store.labelled ? `${plural(store.labelled, "label")} saved` : "";
  if (!store.alive && !gone.childElementCount) {
    gone.append(h("strong", "The server does not answer."), " Labels that were saved are safe. Start shotfit app again, and open the address that it prints.");
  }
}

listen((topic) => {
  if (topic === "all") {
    const left = store.passedOver ? `, ${store.passedOver.toLocaleString("en")} left out` : "";
    document.getElementById("folder").textContent = `${store.folder} · ${plural(store.names.length, "picture")}${left}`;
    document.getElementById("folder").title = [store.path, store.leftOut].filter(Boolean).join("\n");
    told();
    if (current) document.title = `${VIEWS[main.dataset.view][0]} · ${store.folder}`;
  }
  status();
});

load().then(() => {
  go();
  events(heard, (alive) => {
    if (store.alive === alive) return;
    store.alive = alive;
    status();
  });
}).catch((error) => {
  main.replaceChildren(h("div.empty", h("h2", "The page cannot be shown."), h("p", error.message)));
  report(error);
});
