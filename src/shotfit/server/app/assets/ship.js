// Ship: save the model, write it for another runtime, take the labels along; and the lines that use it.
import { h, icon, plural, toast } from "./dom.js";
import { ask } from "./server.js";
import { progress } from "./fit.js";
import { listen, report, store } from "./store.js";

const body = h("div.stack");
const element = h("section.page", { "aria-label": "Ship" }, h("div.stack.intro", h("h1", "Ship"), h("p.lead", "Take the model out of this page, and the labels along.")), body);
let name = "", timer = null;
export const view = { element, shown: draw };
listen((topic) => element.isConnected && (topic === "job" || topic === "all") && (topic === "all" ? draw() : during()));

const EXPORTS = [
  ["onnx", "ONNX", "One file for onnxruntime, on any machine, without torch."],
  ["openvino", "OpenVINO", "For Intel processors."],
  ["classifier", "Classifier", "The class matrix alone, for open_clip or transformers."],
  ["web", "Web page", "Static files that classify in the browser."],
];
const TITLES = { save: "Saving the model", export: "Exporting", take: "Writing the labels" };
const under = h("div");

function during() {
  const job = store.job;
  clearTimeout(timer);
  if (!(job?.kind in TITLES)) return under.replaceChildren();
  if (job.state === "running") {
    under.replaceChildren(progress(job, TITLES[job.kind]));
    timer = setTimeout(during, 1000);
    return null;
  }
  if (job.state === "failed") return under.replaceChildren(h("p.warning", { role: "alert" }, job.error));
  const said = job.state === "cancelled" ? "Cancelled." : job.kind === "take" ? `${job.answer}.` : job.kind === "save" ? `Saved ${job.answer}.` : `Exported to ${job.answer}.`;
  under.replaceChildren(h("p.good", { role: "status" }, icon("check"), said));
  return null;
}

const quoted = (text) => (/^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
const inPython = (text) => JSON.stringify(text);

function draw() {
  name ||= `${store.folder.replace(/[^\w.-]+/g, "-").replace(/^[-.]+|[-.]+$/g, "") || "my"}-model`;
  const where = h("input", { type: "text", value: name, "aria-label": "Name of the model's folder", maxLength: 120, spellcheck: false, oninput: () => {
    name = where.value.trim();
    lines();
  } });
  const does = (action, said) => ask(action, said).catch(report);
  const code = h("div.stack");
  const lines = () => code.replaceChildren(
    snippet("Command line", `shotfit predict ${quoted(name)} new.jpg`),
    snippet("Python", `import shotfit\n\nmodel = shotfit.load(${inPython(name)})\nprint(model.predict("new.jpg", top=3)[0].labels)`),
    snippet("HTTP", `shotfit serve ${quoted(name)}\ncurl -F files=@new.jpg http://127.0.0.1:8000/v1/predict`));
  lines();
  const labels = h("select", { "aria-label": "How to write the labels" }, [["csv", "CSV file: path, label"], ["folders", "Class folders"], ["imagefolder", "Hugging Face image folder"]].map(([value, text]) => h("option", { value }, text)));
  const link = h("input", { type: "checkbox", id: "link" });
  const to = h("input", { type: "text", value: `${name.replace(/-model$/, "")}-labels`, "aria-label": "Name of the labels' file or folder", maxLength: 120, spellcheck: false });
  const ending = () => {
    to.value = to.value.replace(/\.csv$/, "") + (labels.value === "csv" ? ".csv" : "");
    link.closest("label").hidden = labels.value === "csv";
  };
  const linkLabel = h("label.row.check", link, "Links in place of copies");
  labels.onchange = ending;
  const model = store.fit
    ? [h("div.card", h("h2", "Save the model"), h("p.note", `A folder in ${store.here}`), h("form.row", { onsubmit: (event) => (event.preventDefault(), does("save", { name })) }, where, h("button.primary", { type: "submit" }, "Save the model"))),
      h("div.card", h("h2", "Use it"), code),
      h("div.card", h("h2", "Export for another runtime"), h("p.note", "Each is compared with the model before it is written."), h("ul.exports", EXPORTS.map(([kind, title, text]) => h("li", h("div", h("strong", title), h("p.note", text)), h("button", { onclick: () => does("export", { to: kind, name: `${name.replace(/-model$/, "")}-${kind}` }), "aria-label": `Export as ${title}` }, "Export")))))]
    : [h("div.card.empty", h("h2", "There is no fit yet."), h("p", "Fit first; then the model can be saved here."), h("a.button.primary", { href: "#fit" }, "Go to Fit"))];
  body.replaceChildren(under, ...model,
    h("div.card", h("h2", "Take the labels along"), h("p.note", `${plural(store.labelled, "label")}, kept in ${store.journal} beside the pictures. Pictures are copied or linked, never moved.`),
      h("form.row", { onsubmit: (event) => (event.preventDefault(), does("take", { form: labels.value, name: to.value, link: link.checked })) }, labels, to, linkLabel, h("button", { type: "submit", disabled: !store.labelled }, "Write the labels"))));
  ending();
  during();
}

function snippet(title, text) {
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      toast(`Copied the lines for ${title}.`);
    } catch {
      toast("The browser does not let the page copy: select the lines.", { bad: true });
    }
  };
  return h("div.snippet", h("div.row.spread", h("h3", title), h("button.plain", { onclick: copy, "aria-label": `Copy the lines for ${title}` }, icon("copy"), "Copy")), h("pre", { tabIndex: 0 }, h("code", text)));
}
