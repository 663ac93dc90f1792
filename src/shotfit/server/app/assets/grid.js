// A grid of any number of cells, of which only those in sight are in the page. A list box to a screen reader.
import { h } from "./dom.js";

const SPARE = 2; // rows above and below that are ready

/**
 * draw(cell, place, index) fills a cell; name(place) is what a screen reader says of it.
 * picked(index, event), opened(index), moved() tell what somebody did; seen(places) which are in sight now.
 */
export class Grid {
  constructor({ label, draw, name, picked, opened, moved, seen }) {
    Object.assign(this, { draw, name, picked, opened, moved, seen });
    this.items = []; // places of pictures
    this.size = 150;
    this.current = 0;
    this.isSelected = () => false;
    this.cells = new Map(); // by index
    this.spare = [];
    this.inner = h("div.grid-inner", { role: "presentation" });
    this.element = h("div.grid", {
      role: "listbox", tabIndex: 0, "aria-label": label, "aria-multiselectable": "true",
    }, this.inner);
    this.element.addEventListener("scroll", () => this.#soon(), { passive: true });
    this.element.addEventListener("click", (event) => this.#clicked(event, (index) => this.picked(index, event)));
    this.element.addEventListener("dblclick", (event) => this.#clicked(event, (index) => this.opened(index)));
    new ResizeObserver(() => this.layout()).observe(this.element);
  }

  show(items, current = 0) {
    this.items = items;
    this.current = Math.max(0, Math.min(current, items.length - 1));
    for (const cell of this.cells.values()) this.#release(cell);
    this.cells.clear();
    this.element.scrollTop = 0;
    this.layout();
    this.reveal();
  }

  layout() {
    const width = this.inner.clientWidth;
    if (!width) return;
    this.gap = 8;
    this.columns = Math.max(1, Math.floor((width + this.gap) / (this.size + this.gap)));
    this.cell = Math.floor((width + this.gap) / this.columns) - this.gap;
    this.rows = Math.ceil(this.items.length / this.columns);
    this.inner.style.height = `${Math.max(0, this.rows * (this.cell + this.gap) - this.gap)}px`;
    for (const [index, cell] of this.cells) this.#place(cell, index);
    this.update();
  }

  /** Draw anew what is in sight. */
  refresh() {
    for (const [index, cell] of this.cells) this.#fill(cell, index);
    this.#point();
  }

  update() {
    if (!this.columns) return;
    const step = this.cell + this.gap;
    const first = Math.max(0, Math.floor(this.element.scrollTop / step) - SPARE) * this.columns;
    const rows = Math.ceil(this.element.clientHeight / step) + 2 * SPARE + 1;
    const last = Math.min(this.items.length, first + rows * this.columns);
    for (const [index, cell] of this.cells) {
      if (index >= first && index < last) continue;
      this.cells.delete(index);
      this.#release(cell);
    }
    for (let index = first; index < last; index += 1) {
      if (this.cells.has(index)) continue;
      const cell = this.spare.pop() ?? this.#made();
      this.cells.set(index, cell);
      this.#place(cell, index);
      this.#fill(cell, index);
      cell.hidden = false;
    }
    this.#point();
    clearTimeout(this.later);
    this.later = setTimeout(() => this.seen(this.inSight()), 120);
  }

  /** Places of the pictures in sight. */
  inSight() {
    const step = this.cell + this.gap;
    const first = Math.floor(this.element.scrollTop / step) * this.columns;
    const last = Math.ceil((this.element.scrollTop + this.element.clientHeight) / step) * this.columns;
    return this.items.slice(Math.max(0, first), last);
  }

  move(to) {
    if (!this.items.length) return;
    this.current = Math.max(0, Math.min(to, this.items.length - 1));
    this.reveal();
    this.refresh();
    this.moved();
  }

  /** Scroll so that the current cell is in sight. */
  reveal() {
    if (!this.columns || !this.items.length) return;
    const step = this.cell + this.gap, top = Math.floor(this.current / this.columns) * step;
    const { scrollTop, clientHeight } = this.element;
    if (top < scrollTop) this.element.scrollTop = top - this.gap;
    else if (top + this.cell > scrollTop + clientHeight) this.element.scrollTop = top + this.cell - clientHeight + this.gap;
    this.update();
  }

  /** Rows that a page key goes. */
  get page() {
    return Math.max(1, Math.floor(this.element.clientHeight / (this.cell + this.gap))) * this.columns;
  }

  #soon() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.update();
    });
  }

  #made() {
    const cell = h("div.cell", { role: "option" });
    this.inner.append(cell);
    return cell;
  }

  #release(cell) {
    cell.hidden = true;
    cell.removeAttribute("id");
    cell.querySelector("img")?.removeAttribute("src"); // nobody waits for it any more
    this.spare.push(cell);
  }

  #place(cell, index) {
    const step = this.cell + this.gap, row = Math.floor(index / this.columns), column = index % this.columns;
    cell.style.transform = `translate(${column * step}px, ${row * step}px)`;
    cell.style.width = cell.style.height = `${this.cell}px`;
  }

  #fill(cell, index) {
    const place = this.items[index];
    cell.id = `cell-${index}`;
    cell.dataset.index = index;
    cell.setAttribute("aria-label", this.name(place));
    cell.setAttribute("aria-selected", this.isSelected(place));
    cell.setAttribute("aria-setsize", this.items.length);
    cell.setAttribute("aria-posinset", index + 1);
    cell.classList.toggle("current", index === this.current);
    this.draw(cell, place, index);
  }

  #point() {
    if (this.cells.has(this.current)) this.element.setAttribute("aria-activedescendant", `cell-${this.current}`);
    else this.element.removeAttribute("aria-activedescendant");
  }

  #clicked(event, does) {
    const cell = event.target.closest(".cell");
    if (cell) does(Number(cell.dataset.index));
  }
}
