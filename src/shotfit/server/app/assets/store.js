// What the page knows: pictures, labels, classes, the latest fit; and how labels are given and taken back.
import { Gone, ask, state as fetched } from "./server.js";
import { plural, speak, toast } from "./dom.js";

export const store = {
  folder: "", path: "", journal: "", here: "", passedOver: 0, leftOut: "", damaged: 0, number: -1,
  names: [], paths: [], labels: [], classes: [], // labels: by picture, the class's name or null
  place: new Map(), // of a picture by its name
  counts: new Map(), // pictures by class
  labelled: 0,
  guesses: new Map(), guessedBy: "", // by place: [class, probability] or null
  job: null, fit: null,
  unsaved: 0, alive: true,
};

const listeners = new Set();
/** Hear of changes by topic: labels, classes, guesses, job, saved, all (and whether other pictures are there). */
export function listen(heard) {
  listeners.add(heard);
  return () => listeners.delete(heard);
}
export function tell(topic, about) {
  for (const heard of [...listeners]) heard(topic, about);
}

export async function load() {
  const said = await fetched();
  const before = store.names;
  const given = [...underway.keys()].map((name) => [name, store.labels[store.place.get(name)]]); // not yet told
  Object.assign(store, {
    folder: said.folder, path: said.path, journal: said.journal, here: said.here, passedOver: said.passed_over, leftOut: said.left_out,
    damaged: said.damaged, number: said.number, names: said.names, paths: said.paths, classes: said.classes,
    labels: said.labels.map((one) => (one < 0 ? null : said.classes[one])), job: said.job, fit: said.fit,
  });
  store.place = new Map(said.names.map((name, place) => [name, place]));
  for (const [name, label] of given) {
    const place = store.place.get(name);
    if (place === undefined) continue;
    store.labels[place] = label;
    if (label !== null && !store.classes.includes(label)) store.classes = [...store.classes, label];
  }
  store.guesses.clear();
  count();
  tell("all", before.length !== store.names.length || before.some((name, place) => name !== store.names[place]));
}

function count() {
  store.counts = new Map(store.classes.map((name) => [name, 0]));
  store.labelled = 0;
  for (const label of store.labels) {
    if (label === null) continue;
    store.labelled += 1;
    store.counts.set(label, (store.counts.get(label) ?? 0) + 1);
  }
}

/** What the server tells of. */
export function heard(said) {
  if (said.type === "hello") {
    if (said.number !== store.number) load().catch(report);
  } else if (said.type === "labels") {
    store.number = said.number;
    const places = [];
    for (const [name, label] of Object.entries(said.labels)) {
      const place = store.place.get(name);
      if (place === undefined) continue;
      if (underway.has(name)) { // what is shown here comes later, or did it?
        saidLater.set(name, { label, number: said.number });
        continue;
      }
      store.labels[place] = label;
      places.push(place);
    }
    setClasses(said.classes);
    count();
    tell("labels", places);
  } else if (said.type === "pictures") {
    load().then(() => toast(`The folder has changed: ${plural(store.names.length, "picture")} now.`), report);
  } else if (said.type === "job") {
    store.job = said.job;
    if (said.job.kind === "fit" && said.job.state === "done") {
      store.fit = said.fit;
      store.guesses.clear();
      tell("guesses");
    }
    tell("job");
  }
}

function setClasses(classes) {
  if (classes.length === store.classes.length && classes.every((name, place) => name === store.classes[place])) return;
  store.classes = classes;
  store.guesses.clear();
  tell("classes");
  tell("guesses");
}

const undone = []; // what `undo` takes back, the latest last
const underway = new Map(); // names of pictures whose label is on its way, and how many times
const saidLater = new Map(); // what others said of these meanwhile
let chain = Promise.resolve();

/** Label pictures by place; null takes the label away. Shown at once, kept when the server says so. */
export function label(places, name) {
  const changed = places.filter((place) => store.labels[place] !== name);
  if (!changed.length) return Promise.resolve();
  const before = Object.fromEntries(changed.map((place) => [store.names[place], store.labels[place]]));
  const after = Object.fromEntries(changed.map((place) => [store.names[place], name]));
  undone.push({ labels: before, expected: after });
  speak(changed.length === 1
    ? `${store.paths[changed[0]]}: ${name === null ? "no label" : name}`
    : `${plural(changed.length, "picture")}: ${name === null ? "no label" : name}`);
  return give(after, null, before);
}

/** Each picture its own label, in one step that can be taken back. */
export function labelEach(pairs) {
  const changed = pairs.filter(([place, name]) => store.labels[place] !== name);
  if (!changed.length) return Promise.resolve();
  const before = Object.fromEntries(changed.map(([place]) => [store.names[place], store.labels[place]]));
  const after = Object.fromEntries(changed.map(([place, name]) => [store.names[place], name]));
  undone.push({ labels: before, expected: after });
  speak(`${plural(changed.length, "picture")} labelled`);
  return give(after, null, before);
}

export function undo() {
  const last = undone.pop();
  if (!last) {
    toast("There is nothing to undo.");
    return Promise.resolve();
  }
  speak(`Undone: ${plural(Object.keys(last.labels).length, "picture")}`);
  return give(last.labels, last.expected, last.expected, true);
}

function give(labels, expected, before, isUndo = false) {
  const names = Object.keys(labels).filter((name) => store.place.has(name));
  for (const name of names) {
    store.labels[store.place.get(name)] = labels[name];
    underway.set(name, (underway.get(name) ?? 0) + 1);
  }
  for (const name of Object.values(labels)) {
    if (name !== null && !store.classes.includes(name)) store.classes = [...store.classes, name];
  }
  count();
  store.unsaved += 1;
  const changed = () => names.map((name) => store.place.get(name)).filter((place) => place !== undefined);
  tell("labels", changed());
  tell("saved");
  const arrived = (number) => {
    for (const name of names) {
      const left = underway.get(name) - 1;
      if (left) {
        underway.set(name, left);
        continue;
      }
      underway.delete(name);
      const other = saidLater.get(name), place = store.place.get(name);
      if (place !== undefined && other && other.number > number) store.labels[place] = other.label;
      saidLater.delete(name);
    }
    store.unsaved -= 1;
  };
  return inTurn("label", expected ? { labels, expected } : { labels }).then((said) => {
    arrived(said.number);
    for (const name of said.left) toast(`${store.paths[store.place.get(name)]} has another label by now; it stays.`);
    if (said.left.length) return load();
    tell("saved");
    return null;
  }, (error) => {
    arrived(Infinity);
    for (const [name, label] of Object.entries(before)) {
      const place = store.place.get(name);
      if (place !== undefined && !underway.has(name)) store.labels[place] = label;
    }
    if (!isUndo) undone.pop();
    count();
    tell("labels", changed());
    tell("saved");
    report(error, "not kept");
  });
}

/** Ask when what was asked before has its answer, so that the journal has things in the order in which they were done. */
export function inTurn(action, said) {
  const asked = chain.then(() => ask(action, said));
  chain = asked.catch(() => null);
  return asked;
}

/** Tell of what went wrong. */
export function report(error, what = "") {
  if (error instanceof Gone) {
    store.alive = false;
    tell("saved");
    if (what) toast("That label was not kept: the server does not answer.", { bad: true });
    return;
  }
  toast(error.message, { bad: true });
}

let guessing = false, refused = ""; // classes that the server has no guesses for
/** Ask for guesses of pictures that have none yet, some at a time. */
export async function guess(places) {
  if (guessing || store.classes.length < 2 || store.job?.state === "running" || !store.alive) return;
  const wanted = places.filter((place) => !store.guesses.has(place)).slice(0, 48);
  if (!wanted.length) return;
  const classes = store.classes.join("\n");
  if (classes === refused) return;
  guessing = true;
  try {
    const said = await ask("guess", { names: wanted.map((place) => store.names[place]) });
    if (classes !== store.classes.join("\n")) return;
    store.guessedBy = said.by;
    for (const [name, one] of Object.entries(said.guesses)) store.guesses.set(store.place.get(name), one);
    tell("guesses");
  } catch (error) {
    if (store.job?.state !== "running" && error.message !== "Cancelled.") {
      refused = classes;
      report(error);
    }
    await new Promise((done) => setTimeout(done, 3000));
  } finally {
    guessing = false;
  }
}
