// The page: picks models, keeps the history, asks for recommendations and shows them in columns.
// What is chosen stands in the address after '#', which browsers never send, so a link shows the same again.

import { KeyNeeded, findItems, hasKey, models, recommend, reportAt, reportOf, useKey } from "./api.js";
import { button, element, paused, say } from "./dom.js";
import { History, SearchBox, entryOf } from "./history.js";
import { columnView, errorView } from "./results.js";

const part = (id) => document.getElementById(id);
const [domain, model, rival, columns] = ["domain", "model", "rival", "columns"].map(part);
const OPTIONS = ["k", "in-stock", "include-bought"].map(part);

let known = []; // the server's models
let running = null; // aborts the question that a newer one replaces

const refreshSoon = paused(150, refresh);
const history = new History(() => {
  drawExamples();
  refreshSoon();
});
new SearchBox(() => model.value, (entry) => history.add(entry));

// ---- models

async function start() {
  try {
    known = await models();
  } catch (error) {
    part("key-form").hidden = !(error instanceof KeyNeeded);
    say(part("server-error"), error.message);
    return;
  }
  part("key-form").hidden = true;
  say(part("server-error"), known.length > 0 ? "" : "The server has no model: start it with one.");
  domain.replaceChildren(...[...new Set(known.map(domainOf))].map(choice));
  restore();
}

function domainOf(entry) {
  return entry.domain ?? "no domain";
}

function choice(name) {
  return element("option", { value: name }, name);
}

/** Offer the chosen domain's models, and every other model to compare with. */
function fillModels(wanted = model.value, wantedRival = rival.value) {
  const names = known.filter((entry) => domainOf(entry) === domain.value).map((entry) => entry.name);
  model.replaceChildren(...names.map(choice));
  if (names.includes(wanted)) model.value = wanted;
  const others = known.filter((entry) => entry.name !== model.value);
  const domains = [...new Set([domain.value, ...others.map(domainOf)])];
  const groups = domains.map((label) => {
    const own = others.filter((entry) => domainOf(entry) === label);
    return element("optgroup", { label, hidden: own.length === 0 }, ...own.map((entry) => choice(entry.name)));
  });
  rival.replaceChildren(element("option", { value: "" }, "nothing"), ...groups);
  rival.value = others.some((entry) => entry.name === wantedRival) ? wantedRival : "";
  rival.disabled = others.length === 0;
  part("report").hidden = !known.find((entry) => entry.name === model.value)?.report;
  part("report").href = reportAt(model.value);
}

/** With a key the report comes as a file, since a link sends none. */
async function saveReport(event) {
  if (!hasKey()) return;
  event.preventDefault();
  try {
    const address = URL.createObjectURL(await reportOf(model.value));
    element("a", { href: address, download: `report-${model.value}.html` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  } catch (error) {
    say(part("server-error"), error.message);
  }
}

/** Items to begin with, while the history is empty. */
async function drawExamples() {
  const place = part("examples");
  place.hidden = true;
  if (history.entries.length > 0 || !model.value) return;
  const name = model.value;
  const items = await findItems(name, "", 3).catch(() => []);
  if (history.entries.length > 0 || name !== model.value || items.length === 0) return;
  const buttons = items.map((item) => button(item.title, () => history.add(entryOf(item, name))));
  place.replaceChildren(element("p", { className: "hint" }, "For example:"), ...buttons);
  place.hidden = false;
}

// ---- recommendations

async function refresh() {
  running?.abort();
  remember();
  const names = [model.value, rival.value].filter(Boolean);
  if (history.entries.length === 0 || names.length === 0) return showNothing();
  running = new AbortController();
  const { signal } = running;
  columns.setAttribute("aria-busy", "true");
  const answers = await Promise.all(names.map((name) => answerOf(name, signal)));
  if (signal.aborted) return;
  columns.removeAttribute("aria-busy");
  show(names, answers);
}

/** The ranked items of one model, or the sentence that says why there are none. */
async function answerOf(name, signal) {
  try {
    return { items: (await recommend(name, history.asked(name), options(), signal)).items };
  } catch (error) {
    return { sentence: error.message };
  }
}

function options() {
  const chosen = { k: Number(part("k").value), include_bought: part("include-bought").checked };
  return part("in-stock").checked ? { ...chosen, filters: { in_stock: true } } : chosen;
}

function show(names, answers) {
  const ids = answers.map((answer) => answer.items?.map((item) => item.item_id));
  const views = names.map((name, place) => {
    const entry = known.find((each) => each.name === name);
    if (answers[place].sentence) return errorView(entry, answers[place].sentence);
    const given = {
      history: history.asked(name),
      other: ids[1 - place] ? { name: names[1 - place], ids: ids[1 - place] } : null,
      add: (item) => history.add(entryOf(item, name)),
    };
    return columnView(entry, answers[place].items, given);
  });
  columns.className = names.length > 1 ? "two" : "";
  const focused = columns.contains(document.activeElement);
  columns.replaceChildren(...views);
  if (focused) part("results").focus({ preventScroll: true }); // what had the focus is gone
  say(part("overlap"), overlap(ids));
  part("status").textContent = names.map((name, place) => `${name}: ${told(answers[place])}`).join("; ");
}

/** What is announced: the first title as well, since a text that stays the same is not read aloud again. */
function told({ items }) {
  return items ? [`${items.length} recommendations`, items[0]?.title].filter(Boolean).join(", first ") : "an error";
}

function overlap([first, second]) {
  if (!first || !second) return "";
  const both = first.filter((id) => second.includes(id)).length;
  return `${both} of ${Math.max(first.length, second.length)} are in both lists. Compare scores within one model only.`;
}

function showNothing() {
  columns.removeAttribute("aria-busy");
  show([], []);
  const text = "Add an item to the history: recommendations appear here, with reasons.";
  columns.replaceChildren(element("p", { className: "empty card" }, text));
}

// ---- what is remembered

function remember() {
  const chosen = new URLSearchParams();
  if (model.value) chosen.set("model", model.value);
  if (rival.value) chosen.set("rival", rival.value);
  if (history.entries.length > 0) chosen.set("history", JSON.stringify(history.entries));
  window.history.replaceState(null, "", `#${chosen}`);
}

function restore() {
  const chosen = new URLSearchParams(window.location.hash.slice(1));
  const wanted = chosen.get("model");
  const found = known.find((entry) => entry.name === wanted);
  if (found) domain.value = domainOf(found);
  fillModels(wanted, chosen.get("rival"));
  history.set(entriesFrom(chosen.get("history")));
}

/** Read a history from the address; whatever is no entry is left out. */
function entriesFrom(text) {
  let read;
  try {
    read = JSON.parse(text ?? "[]");
  } catch {
    return [];
  }
  const isEntry = (entry) => typeof entry?.title === "string" && ["string", "undefined"].includes(typeof entry.item_id);
  return Array.isArray(read) ? read.filter(isEntry).map((entry) => entryOf(entry, entry.model)) : [];
}

// ---- start

for (const picker of [domain, model]) {
  picker.addEventListener("change", () => {
    fillModels();
    drawExamples();
    refresh();
  });
}
rival.addEventListener("change", refresh);
part("report").addEventListener("click", saveReport);
for (const option of OPTIONS) option.addEventListener("change", refresh);
part("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(part("key").value);
  start();
});
start();
