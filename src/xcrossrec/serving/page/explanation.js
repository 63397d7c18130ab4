// Why an item has its score: matched history items, and a heat map of layers and sources.

import { bar, element, number, signed } from "./dom.js";

/** Set an explanation out. */
export function explanationView(explanation) {
  const view = element("div", { className: "explanation" });
  view.append(element("p", { className: "summary" }, summary(explanation)));
  view.append(...matches(explanation.matches));
  if (explanation.layers.length > 0) view.append(...heatMap(explanation));
  return view;
}

function summary({ score, integration_effect: effect, layers, sources }) {
  if (effect === null || effect === undefined || layers.length === 0) {
    if (sources.length > 1) {
      const added = sources.map((each) => `${each.source} ${signed(each.stream_effect)}`).join(", ");
      return `Score ${number(score)}. The sources are merged into one stream; what each adds: ${added}.`;
    }
    return `Score ${number(score)}. This model has one source, so nothing was integrated.`;
  }
  const strongest = layers.reduce((best, each) => (Math.abs(each.effect) > Math.abs(best.effect) ? each : best));
  return (
    `Integration moved the score of ${number(score)} by ${signed(effect)}. ` +
    `The strongest single place is ${strongest.source} at layer ${strongest.layer} (${signed(strongest.effect)}).`
  );
}

/** What a match is ranked by: its share, else its effect, else its similarity. */
function weight(match) {
  return match.share ?? match.effect ?? match.cosine ?? 0;
}

function matches(list) {
  const ordered = [...list].sort((a, b) => weight(b) - weight(a));
  const shares = ordered.every((match) => typeof match.share === "number"); // parts of a whole: shown as such
  const top = shares ? 1 : Math.max(...ordered.map((match) => Math.abs(weight(match))), 1e-9);
  const rows = ordered.map((match) => {
    const kind = weight(match) < 0 ? "minus" : "";
    return element(
      "li",
      {},
      element("span", { className: "matched" }, match.title),
      bar(Math.abs(weight(match)) / top, kind),
      element("span", { className: "facts" }, facts(match)),
    );
  });
  return [element("h4", {}, "Matched in the history"), element("ol", { className: "matches" }, ...rows)];
}

function facts(match) {
  const parts = [];
  if (typeof match.share === "number") parts.push(`${Math.round(match.share * 100)}% of the match`);
  if (typeof match.effect === "number") parts.push(`${signed(match.effect)} to the score`);
  if (typeof match.cosine === "number") parts.push(`similarity ${number(match.cosine, 2)}`);
  return parts.join(", ");
}

function heatMap({ layers, sources }) {
  const names = sources.map((each) => each.source);
  const top = Math.max(...layers.map((each) => Math.abs(each.effect)), 1e-9);
  const head = element("tr", {}, element("th", { scope: "col" }, "Layer"));
  head.append(...names.map((name) => element("th", { scope: "col" }, name)));
  const body = element("tbody");
  for (const layer of [...new Set(layers.map((each) => each.layer))]) {
    const row = element("tr", {}, element("th", { scope: "row" }, String(layer)));
    for (const name of names) {
      const found = layers.find((each) => each.layer === layer && each.source === name);
      row.append(heatCell(found, top));
    }
    body.append(row);
  }
  const caption = "How much each source moved the score at each layer";
  const table = element("table", { className: "heat" }, element("caption", {}, caption));
  table.append(element("thead", {}, head), body, totals(sources));
  return [element("h4", {}, "Where the sources worked"), element("div", { className: "wide" }, table), legend(top)];
}

function heatCell(found, top) {
  if (found === undefined) return element("td");
  const cell = element("td", {
    className: found.effect < 0 ? "minus" : "plus",
    title: `${found.source}, layer ${found.layer}: ${signed(found.effect)}, mean coefficient ${number(found.coefficient)}`,
  });
  cell.style.setProperty("--heat", (Math.abs(found.effect) / top).toFixed(3));
  cell.append(signed(found.effect));
  return cell;
}

function totals(sources) {
  const line = (label, text) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, label),
      ...sources.map((each) => element("td", {}, text(each))),
    );
  return element(
    "tfoot",
    {},
    line("all", (each) => signed(each.effect)),
    line("weight", (each) => `${Math.round(each.stream_share * 100)}%`),
  );
}

function legend(top) {
  return element(
    "p",
    { className: "legend" },
    element("span", {}, `${signed(-top)} lowered`),
    element("span", { className: "scale", "aria-hidden": "true" }),
    element("span", {}, `raised ${signed(top)}`),
  );
}
