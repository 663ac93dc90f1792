// Fit: one button, progress as it happens, and how good the result is.
import { h, percent, plural, short } from "./dom.js";
import { ask } from "./server.js";
import { listen, report, store } from "./store.js";

const head = h("div.stack"), work = h("div.work"), result = h("div.stack.results");
const element = h("section.page", { "aria-label": "Fit" }, h("div.stack.intro", h("h1", "Fit"),
  h("p.lead", "shotfit learns your classes from the labelled pictures. How good it is, it measures on labelled pictures that it had not seen.")),
head, work, result);
let timer = null, drawn = null;

export const view = {
  element,
  shown() {
    drawn = null;
    draw();
  },
};
listen((topic) => element.isConnected && ["job", "labels", "all", "saved"].includes(topic) && draw());

/** Start a fit, here or elsewhere. */
export async function begin(thorough = false) {
  try {
    await ask("fit", { thorough });
  } catch (error) {
    report(error);
  }
}

const WORDS = [
  [/^encoding/i, "Looking at the pictures"], [/^reading/i, "Reading the pictures"], [/^choosing/i, "Trying settings on pictures held out"],
  [/^checking/i, "Checking on pictures held out"], [/^fitting/i, "Learning"], [/^asking/i, "Asking whether more labels would help"],
  [/^copying/i, "Copying pictures"], [/^embedding/i, "Looking at the pictures"],
];
export const doing = (job) => WORDS.find(([words]) => words.test(job.doing))?.[1] ?? (job.doing || "Getting ready");

/** A card of the work under way, with its end. */
export function progress(job, title) {
  const seconds = Math.max(0, Math.round(Date.now() / 1000 - job.began));
  const known = job.total > 1;
  return h("div.card.progress", { role: "group", "aria-label": title },
    h("div.row.spread", h("h2", title), h("span.note", `${seconds} s`)),
    h("progress", known ? { max: job.total, value: job.done, "aria-label": doing(job) } : { "aria-label": doing(job) }),
    h("div.row.spread", h("span.note", doing(job) + (known ? `: ${job.done.toLocaleString("en")} of ${job.total.toLocaleString("en")}` : "")),
      job.kind === "take" ? null : h("button", { onclick: () => ask("cancel").catch(report) }, "Cancel")));
}

function draw() {
  const job = store.job, running = job?.state === "running", used = [...store.counts].filter(([, count]) => count);
  const few = used.filter(([, count]) => count < 2).map(([name]) => name), ready = used.length >= 2;
  const changed = store.fit?.changed ?? 0;
  clearTimeout(timer);
  if (running && job.kind === "fit") {
    work.replaceChildren(progress(job, job.thorough ? "Fitting thoroughly" : "Fitting"));
    timer = setTimeout(draw, 1000);
  } else {
    const failed = job?.kind === "fit" && job.state === "failed" ? h("p.warning", { role: "alert" }, job.error) : null;
    work.replaceChildren(...[failed].filter(Boolean));
  }
  head.replaceChildren(ready
    ? h("div.card", h("div.row.spread", h("div", h("p.big", plural(store.labelled, "label"), h("span.soft", ` in ${plural(used.length, "class", "classes")}`)), h("p.note", describe(used))),
      h("div.row", h("button.primary.large-button", { disabled: running, onclick: () => begin() }, store.fit && changed ? `Fit again (${plural(changed, "label")} changed)` : store.fit ? "Fit again" : "Fit"),
        h("button", { disabled: running, onclick: () => begin(true), title: "Tries several methods and keeps the best: takes minutes" }, "Fit thoroughly"))),
    few.length ? h("p.note", `Only one picture so far: ${few.map((name) => short(name, 30)).slice(0, 6).join(", ")}${few.length > 6 ? ` and ${few.length - 6} more` : ""}. Two or more of a class are needed to measure how well it is told apart.`) : null)
    : h("div.card.empty", h("h2", "Label some pictures first."), h("p", "A fit needs pictures of at least two classes. Three of each make a start."), h("a.button.primary", { href: "#label" }, "Go to Label")));
  if (drawn !== store.fit) {
    drawn = store.fit;
    result.replaceChildren(...(store.fit ? results(store.fit) : []));
  }
}

function describe(used) {
  const counts = used.map(([, count]) => count), least = Math.min(...counts), most = Math.max(...counts);
  return least === most ? `${plural(least, "picture")} of each class` : `${least.toLocaleString("en")} to ${plural(most, "picture")} of a class`;
}

const NAMES = {
  linear_probe: "a linear probe", zero_shot: "zero-shot", taskres: "TaskRes", dualadapter: "DualAdapter", ensemble: "an ensemble",
  tip_adapter_f: "Tip-Adapter-F", tip_adapter: "Tip-Adapter", clip_adapter: "CLIP-Adapter", coop: "CoOp",
};
export const method = (fit) => (fit.parts.length > 1 ? `an ensemble of ${fit.parts.map((one) => NAMES[one] ?? one).join(" and ")}` : NAMES[fit.method] ?? fit.method);

function results(fit) {
  const { checked, intervals } = fit, parts = [];
  const looks = fit.look.suspects.length + fit.look.mistakes.length;
  if (checked.images) {
    const right = Math.round(checked.accuracy * checked.images);
    const lines = [["Your fit", checked.accuracy, intervals.accuracy, true], ["Zero-shot", checked.zero_shot_accuracy, intervals.zero_shot_accuracy, false]];
    parts.push(h("div.card.hero", h("div.row.spread", h("h2", "Accuracy"), fit.before?.accuracy !== undefined && fit.before.accuracy !== null ? change(checked.accuracy, fit.before) : null),
      h("dl.bars", lines.map(([name, value, interval, own]) => bar(name, value, interval, own))),
      h("p", `Of ${plural(checked.images, "labelled picture")} that it had not seen, ${method(fit)} has ${right.toLocaleString("en")} right. Zero-shot knows the names of the classes alone.`),
      h("p.note", `${intervals.accuracy ? `The thin lines are 95 % intervals: with ${plural(checked.images, "picture")}, ${percent(checked.accuracy)} may be anything from ${percent(intervals.accuracy[0])} to ${percent(intervals.accuracy[1])}. ` : ""}${half(fit.half)}`),
      fit.fell_back ? h("p.warning", "The fit was no better than zero-shot on these pictures, so zero-shot is what is kept. More labels, or corrected ones, most often change that.") : null,
      h("div.row", h("a.button.primary", { href: "#look" }, looks ? `Look at ${plural(looks, "picture")}` : "Look"), h("a.button", { href: "#try" }, "Try it"))));
  } else {
    parts.push(h("div.card", h("h2", "Fitted."), h("p", "How good it is, nobody can say yet: label at least two pictures of each class, and fit again."), h("div.row", h("a.button.primary", { href: "#try" }, "Try it"))));
  }
  if (Object.keys(fit.unreadable).length) {
    const bad = Object.entries(fit.unreadable);
    parts.push(h("div.card", h("h2", `${plural(bad.length, "labelled picture")} cannot be read, and ${bad.length === 1 ? "is" : "are"} left out`), h("ul.plain-list", bad.slice(0, 10).map(([, why]) => h("li.note", why)))));
  }
  if (fit.race.length) {
    parts.push(h("div.card", h("h2", "What was tried"), h("dl.bars.small", fit.race.map((row) => (row.accuracy === null ? null : bar(NAMES[row.method] ?? row.method, row.accuracy, null, false))))));
  }
  if (fit.per_class.length) parts.push(classes(fit.per_class));
  const pictures = { confusion: ["What is taken for what", "Heat map of true classes against predicted ones; the table of classes has the numbers."], reliability: ["Whether it is as sure as it is right", "Share of right answers by confidence."] };
  for (const name of fit.plots) {
    parts.push(h("figure.card.plot", h("figcaption", h("h2", pictures[name][0])), h(`img${fit.classes.length > 30 ? "" : ".narrow"}`, { src: `plot/${name}?${fit.at}`, alt: pictures[name][1] })));
  }
  if (fit.without_plots) parts.push(h("p.note", fit.without_plots));
  return parts;
}

function bar(name, value, interval, own) {
  const fill = h(`span.fill${own ? ".own" : ""}`), line = h("span.interval");
  fill.style.width = `${100 * value}%`;
  if (interval) {
    line.style.left = `${100 * interval[0]}%`;
    line.style.width = `${100 * (interval[1] - interval[0])}%`;
  }
  return [h("dt", name), h("dd", h("span.track", { "aria-hidden": "true" }, fill, interval ? line : null), h("strong", percent(value)))];
}

function change(now, before) {
  const points = Math.round(100 * (now - before.accuracy));
  const said = points ? `${points > 0 ? "+" : "−"}${plural(Math.abs(points), "point")}` : "no change";
  return h(`span.change${points > 0 ? ".up" : ""}`, `${said} since the last fit, of ${plural(before.labels, "label")}`);
}

function half(found) {
  if (!found || found.half === undefined) return "";
  return found.accuracy - found.half > found.error ? "More labels would help: with half of them it is clearly worse." : "";
}

function classes(rows) {
  const sorted = [...rows].filter((row) => row.images).sort((a, b) => (a.f1 ?? 0) - (b.f1 ?? 0));
  const cell = (value) => h("td", value === null ? "–" : percent(value));
  return h("div.card", h("h2", "Class by class, worst first"), h("div.scroll", { tabIndex: 0, role: "region", "aria-label": "Class by class" }, h("table.figures",
    h("thead", h("tr", ["Class", "Pictures", "Found", "Right when said", "F1"].map((name, place) => h("th", { scope: "col", title: ["", "held out and labelled so", "recall: of its pictures, how many are found", "precision: of what is taken for it, how much is right", ""][place] }, name)))),
    h("tbody", sorted.map((row) => h("tr", h("th", { scope: "row" }, short(row.name, 60)), h("td", row.images), cell(row.recall), cell(row.precision), cell(row.f1)))))));
}

