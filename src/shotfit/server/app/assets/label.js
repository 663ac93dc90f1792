// Label: the pictures as a grid, and everything that keys do there.
import { dialog, h, icon, percent, plural, speak, toast } from "./dom.js";
import { Grid } from "./grid.js";
import { KEYS, Panel, hue } from "./panel.js";
import { progress } from "./fit.js";
import { ask } from "./server.js";
import { guess, label, labelEach, listen, report, store, undo } from "./store.js";

const SIZES = [96, 128, 160, 210, 280];
const selected = new Set(); // places
let anchor = 0, size = 2, filter = "all", suggested = [];

const panel = new Panel({ give, done: () => grid.element.focus({ preventScroll: true }) });
const grid = new Grid({
  label: "Pictures", draw, name: spokenName, seen: guess,
  picked: (index, event) => pick(index, event), opened: (index) => look(index), moved: () => bar(),
});
grid.isSelected = (place) => selected.has(place);
panel.made = (name) => {
  if (selected.size) give(name);
  else toast(`Added ${name}. Press ${KEYS[store.classes.indexOf(name)] ?? "C"} to give it to a picture.`);
};

const filters = h("div.filters", { role: "group", "aria-label": "Which pictures to show" });
const chosen = h("div.chosen");
const empty = h("div.empty", { hidden: true }), underway = h("div.underway");
const element = h("section.label", { "aria-label": "Label" }, panel.element,
  h("div.board", h("div.toolbar", filters, h("div.tools",
    h("button.plain", { onclick: () => zoom(-1), "aria-label": "Smaller pictures", title: "Smaller pictures (−)" }, "−"),
    h("button.plain", { onclick: () => zoom(1), "aria-label": "Larger pictures", title: "Larger pictures (+)" }, "+"),
    h("button", { onclick: next, title: "Which pictures teach most (N)" }, "What next?"),
    h("button.plain", { onclick: undo, title: "Undo (Z)" }, icon("undo"), "Undo"),
    h("button.plain", { onclick: keys, title: "All keys (?)" }, "Keys"))), underway, grid.element, empty, chosen));

export const view = {
  element,
  shown() {
    show(filter, true);
    grid.element.focus({ preventScroll: true });
  },
  pressed,
};

listen((topic, others) => {
  if (topic === "all") {
    show(filter, true, !others); // else places mean the same pictures
  }
  if (topic === "labels" || topic === "classes" || topic === "all") {
    panel.draw();
    drawFilters();
  }
  if (topic === "job") during();
  if (!element.isConnected) return;
  if (topic === "guesses") guess(grid.inSight());
  if (topic !== "saved" && topic !== "all") {
    grid.refresh();
    bar();
  }
});

function draw(cell, place) {
  let [image, chip, mark] = cell.children;
  if (!image) {
    image = h("img", { alt: "", decoding: "async", draggable: false });
    image.addEventListener("error", () => image.hasAttribute("src") && cell.classList.add("broken"));
    image.addEventListener("load", () => cell.classList.remove("broken"));
    chip = h("span.chip");
    mark = h("span.mark");
    mark.append(icon("check"));
    cell.append(image, chip, mark);
  }
  const address = `small/${store.names[place]}`;
  if (image.getAttribute("src") !== address) {
    cell.classList.remove("broken");
    image.setAttribute("src", address);
  }
  const name = store.labels[place], guessed = name === null ? store.guesses.get(place) : null;
  const shown = name ?? guessed?.[0] ?? null;
  chip.hidden = shown === null;
  chip.className = `chip${name === null ? " guess" : ""}`;
  chip.textContent = name ?? (guessed ? `${guessed[0]}? ${percent(guessed[1])}` : "");
  if (shown !== null) chip.style.setProperty("--hue", hue(shown));
  cell.classList.toggle("selected", selected.has(place));
  cell.classList.toggle("labelled", name !== null);
}

let shownAt = 0; // when the work began whose suggestions are shown

async function next() {
  try {
    await ask("suggest");
  } catch (error) {
    report(error);
  }
}

function during() {
  const job = store.job;
  if (job?.kind !== "suggest" || job.state !== "running") underway.replaceChildren();
  else underway.replaceChildren(progress(job, "Looking for the pictures that teach most"));
  if (job?.kind !== "suggest" || job.began === shownAt) return;
  if (job.state === "failed") toast(job.error, { bad: true });
  if (job.state === "done") {
    suggested = job.answer.names.map((name) => store.place.get(name)).filter((place) => place !== undefined);
    if (suggested.length) show("suggested");
    else toast("There is nothing to suggest: every picture is labelled, or like one that is.");
  }
  if (job.state !== "running") shownAt = job.began;
}

function spokenName(place) {
  const name = store.labels[place], guessed = store.guesses.get(place);
  const said = name !== null ? `labelled ${name}` : guessed ? `not labelled, perhaps ${guessed[0]}` : "not labelled";
  return `${store.paths[place]}, ${said}`;
}

function drawFilters() {
  const total = store.names.length;
  const make = (key, text, count) => h("button", {
    "aria-pressed": String(filter === key), onclick: () => show(key),
  }, text, count === undefined ? null : h("span.count", count.toLocaleString("en")));
  const classes = h("select", { "aria-label": "Show the pictures of one class", onchange: (event) => show(event.target.value) },
    h("option", { value: "all" }, "Any class"),
    ...store.classes.map((name, place) => h("option", { value: `class:${place}` }, `${name} (${store.counts.get(name) ?? 0})`)));
  classes.value = filter.startsWith("class:") ? filter : "all";
  filters.replaceChildren(make("all", "All", total), make("open", "To label", total - store.labelled),
    suggested.length ? make("suggested", "Suggested", suggested.length) : "", classes);
}

function show(key, stay = false, keep = false) {
  filter = key;
  const all = store.names.map((_, place) => place);
  let found = all;
  if (key === "open") found = all.filter((place) => store.labels[place] === null);
  else if (key === "suggested") found = suggested.filter((place) => place < all.length);
  else if (key.startsWith("class:")) {
    const name = store.classes[Number(key.slice(6))];
    found = all.filter((place) => store.labels[place] === name);
  }
  const kept = new Set(keep ? found : []);
  for (const place of selected) if (!kept.has(place)) selected.delete(place);
  const current = stay ? found.indexOf(grid.items[grid.current]) : 0;
  grid.size = SIZES[size] * (innerWidth < 700 ? 0.62 : 1);
  grid.show(found, Math.max(0, current));
  empty.hidden = found.length > 0;
  grid.element.hidden = !found.length;
  empty.replaceChildren(...(key === "open" && all.length
    ? [h("h2", "Every picture has a label."), h("p", "Fit, and look at the mistakes."), h("a.button.primary", { href: "#fit" }, "Go to Fit")]
    : [h("h2", "No picture here."), h("p", "Choose All above.")]));
  panel.draw();
  drawFilters();
  bar();
}

/** What a label goes to: what is selected, else the current picture. */
function meant() {
  return selected.size ? [...selected] : grid.items.length ? [grid.items[grid.current]] : [];
}

function give(name) {
  const places = meant();
  if (!places.length) return;
  label(places, name);
  after(places);
}

/** On to the next picture without a label. */
function after(places) {
  const last = Math.max(...places.map((place) => grid.items.indexOf(place)));
  selected.clear();
  let next = last + 1;
  while (next < grid.items.length && store.labels[grid.items[next]] !== null) next += 1;
  grid.move(next < grid.items.length ? next : Math.min(last + 1, grid.items.length - 1));
  anchor = grid.current;
}

async function accept() {
  const places = meant().filter((place) => store.labels[place] === null);
  const waited = places.length <= 200; // of more, those that are known
  for (let tries = 0; waited && tries < 8 && places.some((place) => !store.guesses.has(place)); tries += 1) await guess(places);
  const pairs = places.filter((place) => store.guesses.get(place)).map((place) => [place, store.guesses.get(place)[0]]);
  if (!pairs.length) {
    toast(store.classes.length < 2 ? "Guesses come once there are two classes." : "There is no guess to accept here.");
    return;
  }
  labelEach(pairs);
  if (pairs.length < places.length) toast(`Accepted ${plural(pairs.length, "guess", "guesses")}; ${plural(places.length - pairs.length, "picture")} had none.`);
  after(places);
}

function pick(index, event) {
  const place = grid.items[index];
  if (event.shiftKey) range(index);
  else if (selected.has(place)) selected.delete(place);
  else selected.add(place);
  if (!event.shiftKey) anchor = index;
  grid.move(index);
}

function range(to) {
  const [low, high] = [Math.min(anchor, to), Math.max(anchor, to)];
  for (const place of grid.items.slice(low, high + 1)) selected.add(place);
}

function bar() {
  if (!selected.size) {
    chosen.replaceChildren();
    chosen.classList.remove("on");
    return;
  }
  const guessed = [...selected].filter((place) => store.labels[place] === null && store.guesses.get(place)).length;
  chosen.classList.add("on");
  chosen.replaceChildren(h("strong", `${plural(selected.size, "picture")} selected`),
    guessed ? h("button.primary", { onclick: accept }, `Accept ${plural(guessed, "guess", "guesses")}`) : "",
    h("button", { onclick: () => give(null) }, "Take labels away"),
    h("button.plain", { onclick: clear }, "Clear selection"));
}

function clear() {
  selected.clear();
  grid.refresh();
  bar();
}

function zoom(by) {
  size = Math.max(0, Math.min(SIZES.length - 1, size + by));
  const place = grid.items[grid.current];
  grid.size = SIZES[size] * (innerWidth < 700 ? 0.62 : 1);
  grid.layout();
  grid.current = Math.max(0, grid.items.indexOf(place));
  grid.reveal();
}

/** A picture as large as the window. */
function look(index) {
  grid.move(index);
  const image = h("img", { alt: "" }), title = h("p"), name = h("p.note");
  const draws = () => {
    const place = grid.items[grid.current];
    image.src = `large/${store.names[place]}`;
    title.textContent = store.paths[place];
    name.textContent = store.labels[place] ?? "no label";
  };
  const close = dialog("Picture", h("div.large", image, title, name, h("p.note", "Arrows go on. Number keys label.")));
  const made = document.querySelector("dialog[open]");
  made.classList.add("wide");
  made.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") grid.move(grid.current + (event.key === "ArrowRight" ? 1 : -1));
    else if (KEYS.includes(event.key) && store.classes[KEYS.indexOf(event.key)]) give(store.classes[KEYS.indexOf(event.key)]);
    else if (event.key === "v") close();
    else return;
    event.preventDefault();
    draws();
  });
  draws();
}

function keys() {
  const rows = [
    ["Arrows, Page Up, Page Down", "go through the pictures"], ["Home, End", "to the first or the last one"],
    ["1 to 9, 0", "label as the class with that key"],
    ["C", "find a class by its name, or add one"], ["Enter", "accept the guess"], ["Space", "select; with Shift and arrows, several"],
    ["Ctrl A", "select all pictures shown"], ["Escape", "clear the selection"], ["Delete", "take the label away"],
    ["Z", "undo"], ["U", "show what is still to label"], ["A", "show all"], ["N", "what next?"], ["V", "see the picture large"], ["+ −", "larger or smaller pictures"],
  ];
  dialog("Keys", h("table.keys", h("tbody", rows.map(([key, does]) => h("tr", h("th", { scope: "row" }, key.split(", ").map((one) => h("kbd", one))), h("td", does))))));
}

function pressed(event) {
  const control = event.ctrlKey || event.metaKey, key = event.key;
  const far = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: grid.columns, ArrowUp: -grid.columns, PageDown: grid.page, PageUp: -grid.page }[key];
  if (control) {
    if (key === "a") grid.items.forEach((place) => selected.add(place));
    else if (key === "z") return undo(), true;
    else return false;
    grid.refresh();
    bar();
    speak(`${plural(selected.size, "picture")} selected`);
  } else if (far !== undefined || key === "Home" || key === "End") {
    const to = key === "Home" ? 0 : key === "End" ? grid.items.length - 1 : grid.current + far;
    if (to < 0 || to >= grid.items.length) {
      if (Math.abs(far) > 1) grid.move(to);
      return true;
    }
    if (event.shiftKey) range(to);
    else anchor = to;
    grid.move(to);
  } else if (KEYS.includes(key)) {
    const name = store.classes[KEYS.indexOf(key)];
    if (name !== undefined) give(name);
    else toast(store.classes.length ? `There is no class with the key ${key}.` : "Add a class first: press C.");
  } else if (key === " ") {
    pick(grid.current, { shiftKey: event.shiftKey });
  } else if (key === "Enter") accept();
  else if (key === "Escape") clear();
  else if (key === "Delete" || key === "Backspace") give(null);
  else if (key === "z") undo();
  else if (key === "u") show("open");
  else if (key === "a") show("all");
  else if (key === "n") next();
  else if (key === "c" || key === "/") panel.focus();
  else if (key === "v" && grid.items.length) look(grid.current);
  else if (key === "+" || key === "=") zoom(1);
  else if (key === "-") zoom(-1);
  else if (key === "?") keys();
  else return false;
  return true;
}
