// The panel of classes: each with its key and its count; one click gives it to what is selected.
import { dialog, h, icon, short, toast } from "./dom.js";
import { inTurn, report, store } from "./store.js";

export const KEYS = "1234567890";
const HUES = [174, 28, 262, 342, 95, 210, 48, 300, 12, 130, 235, 70];

/** The color of a class, as a hue: by its place, so that neighbours differ. */
export const hue = (name) => HUES[Math.max(0, store.classes.indexOf(name)) % HUES.length];

export class Panel {
  /** give(name): label what is selected. done(): back to the pictures. */
  constructor({ give, done }) {
    Object.assign(this, { give, done });
    this.field = h("input", {
      type: "text", placeholder: "Find or add a class", "aria-label": "Find or add a class", maxLength: 200,
      autocomplete: "off", spellcheck: false, enterKeyHint: "done",
      oninput: () => this.draw(), onkeydown: (event) => this.#typed(event),
    });
    this.list = h("ul.classes", { "aria-label": "Classes" });
    this.note = h("p.note");
    this.element = h("aside.panel", { "aria-label": "Classes" },
      h("h2", "Classes"), h("div.find", this.field, h("kbd", { "aria-hidden": "true" }, "C")), this.list, this.note);
  }

  focus() {
    this.field.focus();
    this.field.select();
  }

  draw() {
    const typed = this.field.value.trim(), wanted = typed.toLowerCase();
    const found = store.classes.filter((name) => name.toLowerCase().includes(wanted));
    this.found = found;
    const rows = found.slice(0, 300).map((name, place) => this.#row(name, Boolean(wanted) && place === 0));
    const isNew = wanted && !store.classes.some((name) => name.toLowerCase() === wanted);
    if (isNew) {
      rows.push(h("li.new", h("button", { onclick: () => this.#make(typed) },
        icon("plus"), h("span.name", `New class “${typed}”`), found.length ? null : h("kbd", "Enter"))));
    }
    this.list.replaceChildren(...rows);
    const more = found.length > 300 ? `and ${found.length - 300} more: type to find them` : "";
    const start = store.classes.length && !store.labelled && !wanted
      ? `Press 1 to label the marked picture as ${short(store.classes[0], 30)}; arrows go on. Clicks select several at once.` : "";
    this.note.textContent = store.classes.length ? more || start
      : "What do your pictures show? Type the name of a first class, such as “cat”, and press Enter.";
  }

  #row(name, first) {
    const key = KEYS[store.classes.indexOf(name)];
    const count = store.counts.get(name) ?? 0;
    const dot = h("span.dot", { "aria-hidden": "true" });
    dot.style.setProperty("--hue", hue(name));
    return h(`li${first ? ".first" : ""}`,
      h("button", { title: name, onclick: () => this.#give(name), "aria-label": `Label as ${name}` + (key ? `, key ${key}` : ""),
        "aria-keyshortcuts": key },
      dot, h("span.name", name), h("span.count", count.toLocaleString("en")), h("kbd", { "aria-hidden": "true" }, key ?? "")),
      h("button.plain.more", { "aria-label": `Change the class ${name}`, onclick: () => this.#change(name, count) }, icon("more")));
  }

  #give(name) {
    this.field.value = "";
    this.draw();
    this.done();
    this.give(name);
  }

  #typed(event) {
    if (event.key === "Escape") {
      this.field.value = "";
      this.draw();
      this.done();
    } else if (event.key === "Enter" && !event.isComposing) {
      event.preventDefault();
      const typed = this.field.value.trim();
      const same = store.classes.find((name) => name.toLowerCase() === typed.toLowerCase());
      if (!typed) this.done();
      else if (same || (this.found.length && !event.shiftKey)) this.#give(same ?? this.found[0]);
      else this.#make(typed);
    } else {
      return;
    }
    event.stopPropagation();
  }

  async #make(typed) {
    this.field.value = "";
    this.done(); // keys that follow are for the pictures
    try {
      const { name } = await inTurn("class", { name: typed });
      if (!store.classes.includes(name)) store.classes = [...store.classes, name];
      this.draw();
      this.made(name);
    } catch (error) {
      report(error);
    }
  }

  #change(name, count) {
    const field = h("input", { type: "text", value: name, "aria-label": "Name of the class", maxLength: 200 });
    const act = async (action, said, told) => {
      try {
        await inTurn(action, said);
        close();
        toast(told);
      } catch (error) {
        report(error);
      }
    };
    const rename = () => {
      const to = field.value.trim();
      if (to && to !== name) act("rename", { name, to }, `Renamed to ${to}.`);
    };
    const close = dialog("Change a class",
      h("form.stack", { onsubmit: (event) => (event.preventDefault(), rename()) },
        h("label.field", h("span", "Name"), field),
        h("p.note", "The name of another class puts both together."),
        h("div.row", h("button.primary", { type: "submit" }, "Rename"),
          h("button", { type: "button", disabled: count > 0, onclick: () => act("drop", { name }, `Removed ${name}.`) }, "Remove"),
          count ? h("span.note", "A class with pictures cannot be removed.") : null)));
    field.select();
  }
}
