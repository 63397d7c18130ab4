// The ranked lists: one column a model, each item with a score bar and its reasons.

import { explain } from "./api.js";
import { bar, button, element, number, written } from "./dom.js";
import { explanationView } from "./explanation.js";

let made = 0; // numbers the explanations' ids

/**
 * One model's column.
 *
 * @param {object} model as the server describes it
 * @param {object[]} items as the server ranked them
 * @param {object} given `history` (as this model is asked), `other` (the other column's `name` and item `ids`, best
 *   first, or null) and `add` (called with an item to add to the history)
 */
export function columnView(model, items, given) {
  const list = element("ol", { className: "ranking" });
  const low = Math.min(0, ...items.map((item) => item.score));
  const high = Math.max(0, ...items.map((item) => item.score));
  for (const item of items) {
    list.append(itemView(model.name, item, (item.score - low) / (high - low || 1), given));
  }
  const nothing = element("p", { className: "hint" }, "Nothing is left to recommend: history and options exclude all items.");
  return column(model, items.length > 0 ? list : nothing);
}

/** A column that says what went wrong. */
export function errorView(model, sentence) {
  return column(model, alert(sentence));
}

function alert(sentence) {
  return element("p", { className: "error", role: "alert" }, sentence);
}

function column({ name, sources }, content) {
  const parts = sources.length ? `integrates ${sources.join(", ")}` : "combines no other categories";
  const heading = element("h3", {}, name, " ", element("span", { className: "about" }, parts));
  return element("article", { className: "card column", "aria-label": `Recommendations of ${name}` }, heading, content);
}

function itemView(name, item, share, given) {
  const panel = element("div", { className: "panel", id: `why-${(made += 1)}`, hidden: true });
  const why = button("Why?", () => toggle(why, panel, name, item, given.history), {
    className: "plain why",
    "aria-expanded": "false",
    "aria-controls": panel.id,
    "aria-label": `Why ${item.title}?`,
  });
  const label = { "aria-label": `Add ${item.title} to the history`, title: "Add to the history" };
  const add = button("+ history", () => given.add(item), label);
  const view = element(
    "li",
    { "data-item": item.item_id },
    element("span", { className: "rank", "aria-hidden": "true" }, String(item.rank)),
    element("span", { className: "title" }, written(item.title), ...moved(item, given.other)),
    element("span", { className: "score" }, number(item.score)),
    bar(share),
    element("span", { className: "foot" }, element("span", { className: "about" }, about(item)), add, why),
    panel,
  );
  for (const type of ["pointerenter", "focusin"]) view.addEventListener(type, () => mark(item.item_id, true));
  for (const type of ["pointerleave", "focusout"]) view.addEventListener(type, () => mark(item.item_id, false));
  return view;
}

function about(item) {
  const price = item.price === null ? null : number(item.price, 2);
  return [item.item_id, item.category, price, item.in_stock ? null : "not in stock"].filter(Boolean).join(" · ");
}

/** Where the item stands in the other list. */
function moved(item, other) {
  if (!other) return [];
  const place = other.ids.indexOf(item.item_id) + 1;
  const text = place === 0 ? `not in ${other.name}` : `${place}${ordinal(place)} in ${other.name}`;
  return [" ", element("span", { className: place === 0 ? "moved new" : "moved" }, text)];
}

function ordinal(place) {
  if (place % 100 >= 11 && place % 100 <= 13) return "th";
  return { 1: "st", 2: "nd", 3: "rd" }[place % 10] ?? "th";
}

/** Show the same item in the other column. */
function mark(itemId, on) {
  for (const view of document.querySelectorAll(".ranking > li")) {
    if (view.dataset.item === itemId) view.classList.toggle("marked", on);
  }
}

async function toggle(button, panel, model, item, history) {
  const open = button.getAttribute("aria-expanded") !== "true";
  button.setAttribute("aria-expanded", String(open));
  panel.hidden = !open;
  if (!open || panel.dataset.done) return;
  panel.replaceChildren(element("p", { className: "hint", role: "status" }, "Asking the model why ..."));
  panel.setAttribute("aria-busy", "true");
  try {
    panel.replaceChildren(explanationView(await explain(model, history, { item_id: item.item_id })));
    panel.dataset.done = "yes";
  } catch (error) {
    panel.replaceChildren(alert(error.message));
  }
  panel.removeAttribute("aria-busy");
}
