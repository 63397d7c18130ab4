// The history: a list of items, and a search box (an ARIA combobox) that adds to it.

import { findItems } from "./api.js";
import { button, element, paused, say, written } from "./dom.js";

const SHOWN = 8;

/** An item of a model's catalogue as an entry of a history. */
export function entryOf({ item_id, title }, model) {
  return { item_id, title, model };
}

/**
 * Entries of a history, oldest first: {title, item_id?, model?}. An id counts only in the catalogue of the model in
 * which it was found; any other model is given the title.
 */
export class History {
  constructor(changed) {
    this.entries = [];
    this.list = document.getElementById("history");
    this.clearButton = document.getElementById("clear");
    this.changed = changed;
    this.clearButton.addEventListener("click", () => this.set([]));
  }

  set(entries) {
    this.entries = entries;
    this.list.replaceChildren(...entries.map((entry, place) => this.entryView(entry, place)));
    this.clearButton.hidden = entries.length === 0;
    this.changed();
  }

  add(entry) {
    this.set([...this.entries, entry]);
  }

  /** As the server reads it. */
  asked(model) {
    return this.entries.map(({ item_id, title, model: own }) => (item_id && own === model ? { item_id } : { title }));
  }

  remove(place) {
    this.set(this.entries.filter((_, number) => number !== place));
    const buttons = this.list.querySelectorAll("button");
    (buttons[Math.min(place, buttons.length - 1)] ?? document.getElementById("search")).focus();
  }

  entryView({ title, item_id }, place) {
    const cross = element("span", { "aria-hidden": "true" }, "\u00d7");
    const look = { className: "round small", "aria-label": `Remove ${title}` };
    const remove = button(cross, () => this.remove(place), look);
    const about = element("span", { className: "about" }, item_id ?? "not in the catalogue");
    return element("li", {}, element("span", { className: "title" }, written(title), about), remove);
  }
}

/** The search box. `model()` names whose catalogue is searched, `chosen(entry)` takes what was picked. */
export class SearchBox {
  constructor(model, chosen) {
    this.model = model;
    this.chosen = chosen;
    this.input = document.getElementById("search");
    this.list = document.getElementById("suggestions");
    this.error = document.getElementById("search-error");
    this.entries = [];
    this.active = -1;
    this.running = null;
    this.search = paused(120, () => this.find());
    this.input.addEventListener("input", () => this.search());
    this.input.addEventListener("keydown", (event) => this.key(event));
    this.input.addEventListener("blur", () => this.close());
  }

  async find() {
    const text = this.input.value.trim();
    this.running?.abort();
    if (!text) return this.close();
    this.running = new AbortController();
    const model = this.model();
    try {
      const found = await findItems(model, text, SHOWN, this.running.signal);
      this.show(found.map((item) => entryOf(item, model)), text);
      say(this.error, "");
    } catch (error) {
      if (error.name === "AbortError") return;
      this.close();
      say(this.error, error.message);
    }
  }

  show(found, text) {
    this.entries = [...found, { title: text }];
    this.list.replaceChildren(...this.entries.map((entry, place) => this.optionView(entry, place, text)));
    this.open(document.activeElement === this.input);
  }

  open(shown) {
    this.active = -1;
    this.list.hidden = !shown;
    this.input.setAttribute("aria-expanded", String(shown));
    this.input.removeAttribute("aria-activedescendant");
  }

  optionView(entry, place, typed) {
    const option = element("li", { role: "option", id: `suggestion-${place}`, "aria-selected": "false" });
    if (entry.item_id) option.append(marked(entry.title, typed), element("span", { className: "about" }, entry.item_id));
    else option.append("Add \u201c", written(entry.title), "\u201d as a title");
    option.addEventListener("pointerdown", (event) => event.preventDefault()); // the box keeps the focus
    option.addEventListener("click", () => this.choose(entry));
    return option;
  }

  key(event) {
    const moves = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key in moves && !this.list.hidden) this.move(moves[event.key]);
    else if (event.key === "ArrowDown") this.search();
    else if (event.key === "Enter" && !event.isComposing) this.enter();
    else if (event.key === "Escape") this.close();
    else return;
    event.preventDefault();
  }

  enter() {
    const text = this.input.value.trim();
    const entry = this.entries[this.active] ?? this.entries.find((each) => each.item_id === text) ?? { title: text };
    if (entry.item_id || text) this.choose(entry);
  }

  move(step) {
    const count = this.entries.length;
    this.active = this.active < 0 && step < 0 ? count - 1 : (this.active + step + count) % count;
    for (const [place, option] of [...this.list.children].entries()) {
      option.setAttribute("aria-selected", String(place === this.active));
      if (place === this.active) option.scrollIntoView({ block: "nearest" });
    }
    this.input.setAttribute("aria-activedescendant", `suggestion-${this.active}`);
  }

  choose(entry) {
    this.input.value = "";
    this.close();
    this.chosen(entry);
    this.input.focus();
  }

  close() {
    this.search.cancel();
    this.running?.abort();
    this.open(false);
  }
}

/** The title, with the first place where it holds what was typed marked. */
function marked(title, typed) {
  const found = new RegExp(typed.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"), "iu").exec(title);
  if (!found) return written(title);
  const end = found.index + found[0].length;
  return written(title.slice(0, found.index), element("mark", {}, found[0]), title.slice(end));
}
