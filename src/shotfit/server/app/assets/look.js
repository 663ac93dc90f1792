// Look: labels that look wrong, and the fit's mistakes, each with the reason, and corrected where it stands.
import { h, percent, plural, short, speak } from "./dom.js";
import { begin, progress } from "./fit.js";
import { hue } from "./panel.js";
import { inTurn, label, listen, report, store, undo } from "./store.js";

const list = h("ol.looks"), tabs = h("div.filters", { role: "group", "aria-label": "What to look at" }), again = h("div.again");
const element = h("section.page", { "aria-label": "Look" }, h("div.stack.intro", h("h1", "Look"),
  h("p.lead", "Where labels and pictures disagree. Correct a label here, or keep it; then fit again. That takes seconds, because every picture has been looked at already.")),
tabs, list, again);
let kind = "suspects", drawn = null, current = 0, timer = null;
const kept = new Set(); // names of pictures whose label was kept just now

export const view = {
  element, pressed,
  shown() {
    drawn = null;
    draw();
    list.querySelector("li")?.focus({ preventScroll: true });
  },
};
listen((topic) => element.isConnected && ["job", "labels", "all", "classes"].includes(topic) && draw(topic));

const rows = () => store.fit?.look[kind] ?? [];

function draw() {
  const job = store.job, running = job?.state === "running";
  clearTimeout(timer);
  if (!store.fit) {
    tabs.replaceChildren();
    list.replaceChildren(h("li.card.empty", h("h2", "There is no fit yet."), h("p", "After a fit, this is where its mistakes are, and labels that look wrong."), h("a.button.primary", { href: "#fit" }, "Go to Fit")));
    again.replaceChildren();
    return;
  }
  if (drawn !== store.fit) {
    drawn = store.fit;
    kept.clear();
    current = 0;
    if (!rows().length) kind = store.fit.look.suspects.length ? "suspects" : "mistakes";
    cards();
  } else {
    [...list.children].forEach((card, place) => rows()[place] && mark(card, rows()[place]));
  }
  const make = (key, name) => h("button", { "aria-pressed": String(kind === key), onclick: () => turn(key) }, name, h("span.count", String(store.fit.look[key].length)));
  tabs.replaceChildren(make("suspects", "Suspected labels"), make("mistakes", "Mistakes"), h("span.note.keys-note", h("kbd", "↑ ↓"), " go through ", h("kbd", "Enter"), " correct ", h("kbd", "K"), " keep ", h("kbd", "Z"), " undo"));
  const changed = store.fit.look.suspects.concat(store.fit.look.mistakes).filter((one, place, all) => isCorrected(one) && all.findIndex((other) => other.name === one.name) === place).length;
  if (running && job.kind === "fit") {
    again.replaceChildren(progress(job, "Fitting again"));
    timer = setTimeout(draw, 1000);
  } else {
    again.replaceChildren(h("div.bar", h("strong", changed ? `${plural(changed, "label")} corrected` : "Nothing corrected yet"),
      h("button.primary", { disabled: running, onclick: () => begin(store.fit.thorough) }, "Fit again")));
  }
}

function turn(key) {
  kind = key;
  current = 0;
  cards();
  draw();
}

function cards() {
  if (!rows().length) {
    const text = kind === "suspects" ? ["No label looks wrong.", "Each agrees with the pictures that are most like it."]
      : ["No mistake.", "Every picture that was held out was put into its class. More labels, of harder pictures, will find some."];
    list.replaceChildren(h("li.card.empty", h("h2", text[0]), h("p", text[1]), h("a.button", { href: "#label" }, "Label more")));
    return;
  }
  list.replaceChildren(...rows().map((one, place) => card(one, place)));
}

const isCorrected = (one) => {
  const place = store.place.get(one.name);
  return place !== undefined && store.labels[place] !== one.label;
};

function chip(name, strong = false) {
  const made = h(`span.tag${strong ? ".strong" : ""}`, h("span.dot"), h("span.name", name));
  made.title = name;
  made.firstChild.style.setProperty("--hue", hue(name));
  return made;
}

function card(one, index) {
  const place = store.place.get(one.name), path = store.paths[place] ?? one.path;
  const said = kind === "suspects"
    ? [h("span", "Labelled"), chip(one.label, true), h("span", "but looks like"), chip(one.other, true)]
    : [h("span", "Is"), chip(one.label, true), h("span", "and was taken for"), chip(one.other, true)];
  const other = h("select", { "aria-label": "Another class", onchange: (event) => event.target.value && correct(index, event.target.value) },
    h("option", { value: "" }, "Another class"), ...store.classes.filter((name) => name !== one.other && name !== one.label).map((name) => h("option", { value: name }, name)));
  const made = h("li.look", { tabIndex: -1, onfocus: () => (current = index), "aria-label": `${path}: labelled ${one.label}, perhaps ${one.other}` },
    h("img.seen", { src: `small/${one.name}`, alt: "", loading: "lazy" }),
    h("div.why", h("p.said", said), h("p.note", path),
      h("p.note", `${percent(one.other_probability)} ${short(one.other, 40)}, ${percent(one.probability)} ${short(one.label, 40)}`),
      h("div.near", { role: "group", "aria-label": "The labelled pictures most like it" }, h("p.note", "Most like it:"), one.near.map(([name, label, cosine]) => h("figure", { title: `${store.paths[store.place.get(name)] ?? ""}, similarity ${cosine.toFixed(2)}` }, h("img", { src: `small/${name}`, alt: "", loading: "lazy" }), h("figcaption", label))))),
    h("div.does", h("button.primary", { onclick: () => correct(index, one.other) }, `Change to ${short(one.other, 24)}`),
      h("button", { onclick: () => keep(index) }, `Keep ${short(one.label, 24)}`), other, h("p.done", { role: "status" })));
  mark(made, one);
  return made;
}

function mark(made, one) {
  if (!made.classList.contains("look")) return;
  const place = store.place.get(one.name), now = store.labels[place], done = isCorrected(one) || kept.has(one.name);
  made.classList.toggle("settled", done);
  made.querySelector(".done").textContent = isCorrected(one) ? (now === null ? "Label taken away" : `Changed to ${now}`) : kept.has(one.name) ? "Kept" : "";
}

function correct(index, name) {
  const one = rows()[index], place = store.place.get(one.name);
  if (place === undefined) return;
  kept.delete(one.name);
  label([place], name);
  next(index);
}

async function keep(index) {
  const one = rows()[index];
  if (isCorrected(one)) return;
  kept.add(one.name);
  speak(`Kept ${one.label}`);
  next(index);
  draw();
  try {
    await inTurn("confirm", { names: [one.name] });
  } catch (error) {
    kept.delete(one.name);
    report(error);
    draw();
  }
}

function next(index) {
  const all = [...list.children];
  const to = all.findIndex((card, place) => place > index && !card.classList.contains("settled"));
  focus(to < 0 ? index : to);
}

function focus(index) {
  const card = list.children[index];
  if (!card) return;
  current = index;
  card.focus({ preventScroll: true });
  card.scrollIntoView({ block: "nearest" });
}

function pressed(event) {
  const { key } = event;
  if (event.ctrlKey || event.metaKey ? key === "z" : key === "z") undo();
  else if (event.ctrlKey || event.metaKey) return false;
  else if (key === "ArrowDown" || key === "j") focus(Math.min(current + 1, rows().length - 1));
  else if (key === "ArrowUp") focus(Math.max(current - 1, 0));
  else if (key === "Enter" && rows()[current]) correct(current, rows()[current].other);
  else if (key === "k" && rows()[current]) keep(current);
  else return false;
  return true;
}
