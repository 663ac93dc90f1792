// The page: takes pictures from a dialog, a drop, the clipboard or the camera, and shows what the worker says of them.

const SHOWN = 5; // classes of a picture
const KEPT = 100; // pictures on the page

const element = (id) => document.getElementById(id);
const worker = new Worker("worker.js", { type: "module" });
const waiting = new Map(); // pictures by number
let classes = [];
let number = 0;

const say = (sentence) => {
  element("status").textContent = sentence;
};

worker.onmessage = ({ data }) => {
  if (data.ready) start(data.ready);
  else if (data.failed) fail(data.failed);
  else if (data.total) load(data.loaded, data.total);
  else show(data);
};
worker.onerror = () => fail("The model cannot be loaded: this browser is too old, or a file of the page is missing.");
say("Loading the model ...");

function load(loaded, total) {
  element("progress").hidden = false;
  element("progress").value = loaded / total;
}

function start(record) {
  classes = record.classes;
  element("progress").hidden = true;
  for (const id of ["input", "about"]) element(id).hidden = false;
  element("camera").hidden = !navigator.mediaDevices?.getUserMedia; // insecure pages have none
  element("classes").textContent = `${classes.length.toLocaleString("en")} classes: ${classes.join(", ")}.`;
  say("Ready.");
}

function fail(sentence) {
  element("progress").hidden = true;
  say(sentence);
}

function take(pictures) {
  if (!classes.length) return;
  for (const picture of pictures) {
    const id = number++;
    waiting.set(id, picture);
    worker.postMessage({ id, picture });
  }
  tell();
}

function tell() {
  say(waiting.size ? `Classifying ${waiting.size.toLocaleString("en")} ...` : "Ready.");
}

function show({ id, probabilities, error }) {
  const picture = waiting.get(id);
  waiting.delete(id);
  const name = picture.name ?? "picture";
  const entry = made("li");
  entry.dataset.number = id;
  if (!error) {
    const image = made("img");
    image.alt = "";
    image.src = URL.createObjectURL(picture);
    entry.append(image);
  }
  const text = made("div", "text");
  text.append(made("h3", "", name), error ? made("p", "error", `${error}.`) : bars(probabilities));
  entry.append(text);
  element("list").prepend(entry);
  while (element("list").children.length > KEPT) {
    URL.revokeObjectURL(element("list").lastElementChild.querySelector("img")?.src);
    element("list").lastElementChild.remove();
  }
  element("results").hidden = false;
  tell();
}

function bars(probabilities) {
  const best = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]).slice(0, SHOWN);
  const table = made("ol", "bars");
  for (const place of best) {
    const row = made("li");
    row.dataset.label = classes[place];
    row.dataset.probability = probabilities[place];
    const bar = made("span", "bar");
    bar.style.setProperty("--share", probabilities[place]);
    row.append(made("span", "label", classes[place]), bar);
    row.append(made("span", "share", `${(100 * probabilities[place]).toFixed(1)} %`));
    table.append(row);
  }
  return table;
}

function made(tag, name = "", text = "") {
  const found = document.createElement(tag);
  if (name) found.className = name;
  found.textContent = text;
  return found;
}

// From a dialog, a drop, the clipboard

const images = (files) => [...files].filter((file) => !file.type || file.type.startsWith("image/"));

element("choose").onclick = () => element("files").click();
element("files").onchange = ({ target }) => {
  take(target.files);
  target.value = "";
};
document.ondragover = (event) => {
  event.preventDefault();
  element("input").classList.add("over");
};
document.ondragleave = () => element("input").classList.remove("over");
document.ondrop = (event) => {
  event.preventDefault();
  element("input").classList.remove("over");
  take(images(event.dataTransfer.files));
};
document.onpaste = ({ clipboardData }) => take(images(clipboardData.files));

// From the camera

element("camera").onclick = async () => {
  try {
    element("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    element("viewer").hidden = false;
    await element("video").play();
    element("shoot").focus();
  } catch (error) {
    close();
    say(`The camera cannot be used: ${error.message}.`);
  }
};
element("shoot").onclick = () => {
  const video = element("video");
  const canvas = made("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => take([new File([blob], "camera.png", { type: "image/png" })]), "image/png");
};
element("close").onclick = () => {
  close();
  element("camera").focus();
};

function close() {
  for (const track of element("video").srcObject?.getTracks() ?? []) track.stop();
  element("video").srcObject = null;
  element("viewer").hidden = true;
}
