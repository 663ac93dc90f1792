// Try: a picture that is not in the folder.
import { h, percent } from "./dom.js";
import { ask } from "./server.js";
import { report } from "./store.js";

const out = h("div");
const field = h("input", { type: "file", accept: "image/*", "aria-label": "Choose a picture", onchange: () => go(field.files[0]) });
const element = h("section.try.page", { "aria-label": "Try" }, h("h1", "Try"), field, out);
export const view = { element, shown() {} };

async function go(file) {
  try {
    const said = await ask("try", file);
    out.replaceChildren(h("img", { src: said.picture, alt: "" }), h("ul", said.classes.map(([name, value]) => h("li", `${name} ${percent(value)}`))));
  } catch (error) {
    report(error);
  }
}
