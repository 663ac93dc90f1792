// Try: a picture that is not in the folder, dropped, pasted, chosen or photographed.
import { h, icon, percent, short, toast } from "./dom.js";
import { ask } from "./server.js";
import { hue } from "./panel.js";
import { report, store } from "./store.js";

const field = h("input.unseen", { type: "file", accept: "image/*", id: "picture", multiple: true, onchange: () => all(field.files) });
const zone = h("div.drop", h("p.big", "Drop a picture here"), h("p.note", "or paste one, or"),
  h("div.row.center", h("label.button.primary", { htmlFor: "picture" }, "Choose a picture"), field,
    h("button", { onclick: () => (stream ? stop() : photograph()) }, icon("camera"), "Use the camera")));
const camera = h("div.camera", { hidden: true });
const out = h("ol.tries", { "aria-live": "polite" });
const about = h("p.lead");
const element = h("section.page", { "aria-label": "Try" }, h("div.stack.intro", h("h1", "Try"), about), zone, camera, out);
let stream = null;

export const view = {
  element,
  shown() {
    about.textContent = store.fit
      ? "Show it something new. What you try stays on this machine, and is not kept."
      : "There is no fit yet, so classes are told apart by their names alone. What you try stays on this machine, and is not kept.";
  },
  hidden: stop,
};

element.addEventListener("dragover", (event) => {
  event.preventDefault();
  zone.classList.add("over");
});
element.addEventListener("dragleave", () => zone.classList.remove("over"));
element.addEventListener("drop", (event) => {
  event.preventDefault();
  zone.classList.remove("over");
  all(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (!element.isConnected) return;
  const files = [...event.clipboardData.files];
  if (files.length) all(files);
  else toast("There is no picture on the clipboard.");
});

async function all(files) {
  for (const file of [...files].slice(0, 20)) await one(file, file.name);
  field.value = "";
}

async function one(file, name) {
  const waiting = h("li.card.tried", h("p.note", `Looking at ${short(name || "the picture", 60)} …`));
  out.prepend(waiting);
  try {
    const said = await ask("try", file);
    waiting.replaceWith(answer(said, name));
  } catch (error) {
    waiting.remove();
    report(error);
  }
  while (out.children.length > 12) out.lastChild.remove();
}

function answer(said, name) {
  const [best, value] = said.classes[0];
  const bars = said.classes.slice(0, 6).map(([label, probability]) => {
    const fill = h("span.fill");
    fill.style.width = `${100 * probability}%`;
    fill.style.setProperty("--hue", hue(label));
    return [h("dt", { title: label }, label), h("dd", h("span.track", { "aria-hidden": "true" }, fill), h("strong", percent(probability, 1)))];
  });
  const set = said.set && (said.set.length === 1 ? `Sure enough to name one class (in ${percent(said.coverage)} of cases the right one).`
    : said.set.length === said.classes.length ? `No class can be ruled out, if ${percent(said.coverage)} of the answers are to hold the right one. More labels narrow it down.`
    : said.set.length ? `It may be any of ${said.set.map((label) => short(label, 30)).join(", ")}: in ${percent(said.coverage)} of cases the right class is among those named.` : "Like none of the pictures it was checked on.");
  return h("li.card.tried", h("img", { src: said.picture, alt: name ? short(name, 60) : "the picture" }),
    h("div.stack", h("h2.verdict", said.unknown ? "Perhaps none of the classes" : best, said.unknown ? null : h("span.soft", ` ${percent(value)}`)),
      said.unknown ? h("p.warning", "It is unlike the pictures of every class; what follows is the best guess.") : null,
      h("dl.bars.small.classes-bars", bars), set ? h("p.note", set) : null,
      h("p.note", said.by === "fit" ? "By your fit." : "By the names of the classes alone: there is no fit yet.")));
}

async function photograph() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    toast(error.name === "NotFoundError" ? "This machine has no camera." : "The browser gives no camera: allow it for this page.", { bad: true });
    return;
  }
  const video = h("video", { autoplay: true, muted: true, playsInline: true, "aria-label": "What the camera sees" });
  video.srcObject = stream;
  camera.replaceChildren(video, h("div.row.center", h("button.primary", { onclick: () => snap(video) }, "Take the picture"), h("button", { onclick: stop }, "Turn the camera off")));
  camera.hidden = false;
}

function snap(video) {
  const canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => blob && one(blob, "photograph"), "image/jpeg", 0.92);
}

function stop() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  camera.hidden = true;
  camera.replaceChildren();
}
