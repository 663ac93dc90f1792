// Fit: one button, progress as it happens, and how good the result is.
import { h, percent, plural } from "./dom.js";
import { ask } from "./server.js";
import { listen, report, store } from "./store.js";

const element = h("section.fit.page", { "aria-label": "Fit" });
export const view = { element, shown: draw };
listen((topic) => element.isConnected && ["job", "labels", "all"].includes(topic) && draw());

export async function begin() {
  try {
    await ask("fit");
  } catch (error) {
    report(error);
  }
}

function draw() {
  const job = store.job, running = job?.state === "running";
  element.replaceChildren(h("h1", "Fit"),
    running ? h("div", h("p", job.doing || "Starting"), h("progress", { max: job.total ?? 1, value: job.total ? job.done : undefined }),
      h("button", { onclick: () => ask("cancel").catch(report) }, "Cancel"))
      : h("button.primary", { onclick: begin }, "Fit"),
    store.fit ? h("p.result", `${percent(store.fit.checked.accuracy ?? 0)} ${percent(store.fit.checked.zero_shot_accuracy ?? 0)}`) : h("p", plural(store.labelled, "label")));
}
