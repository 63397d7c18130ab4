// Why an item has its score: matched history items, and a heat map of layers and sources.

import { bar, element, number, signed, written } from "./dom.js";

/** Set an explanation out. */
export function explanationView(explanation) {
  const view = element("div", { className: "explanation" });
  if (explanation.reasons.length > 0) { // no history item decided
    view.append(...explanation.reasons.map((reason) => element("p", { className: "summary" }, written(reason))));
    return view;
  }
  view.append(element("p", { className: "summary" }, summary(explanation) + added(explanation.copurchase_effect)));
  view.append(...matches(explanation.matches));
  if (explanation.layers.length > 0) view.append(...heatMap(explanation));
  return view;
}

function summary({ score, integration_effect: effect, layers, sources }) {
  if (!sources.length) return `Score ${number(score)}. This model combines no other categories.`;
  if (effect === null) {
    const added = sources.map((each) => `${each.source} ${signed(each.stream_effect)}`).join(", ");
    return `Score ${number(score)}. The sources are merged; what each adds: ${added}.`;
  }
  const strongest = layers.reduce((best, each) => (Math.abs(each.effect) > Math.abs(best.effect) ? each : best));
  return (
    `Integration moved the score of ${number(score)} by ${signed(effect)}. ` +
    `The largest single effect is that of ${strongest.source} at layer ${strongest.layer} (${signed(strongest.effect)}).`
  );
}

function added(effect) {
  return effect ? ` Co-purchases add ${signed(effect)}.` : "";
}

/** What a match is ranked by: its share, else its effect, else its similarity. */
function weight(match) {
  return match.share ?? match.effect ?? match.cosine ?? 0;
}

function matches(list) {
  const ordered = [...list].sort((a, b) => weight(b) - weight(a));
  const shares = ordered.every((match) => match.share !== null); // parts of a whole: shown as such
  const top = shares ? 1 : Math.max(...ordered.map((match) => Math.abs(weight(match))), 1e-9);
  const rows = ordered.map((match) => {
    const kind = weight(match) < 0 ? "minus" : "";
    return element(
      "li",
      {},
      element("span", { className: "matched" }, written(match.title)),
      bar(Math.abs(weight(match)) / top, kind),
      element("span", { className: "facts" }, facts(match)),
    );
  });
  return [element("h4", {}, "Matched in the history"), element("ol", { className: "matches" }, ...rows)];
}

function facts(match) {
  const parts = [];
  if (match.share !== null) parts.push(`${Math.round(match.share * 100)}% of the match`);
  if (match.effect !== null) parts.push(`${signed(match.effect)} to the score`);
  if (match.cosine !== null) parts.push(`similarity ${number(match.cosine, 2)}`);
  if (match.bought_together) parts.push(`bought together by ${match.bought_together} customer${match.bought_together > 1 ? "s" : ""}`);
  return parts.join(", ");
}

function heatMap({ layers, sources }) {
  const names = sources.map((each) => each.source);
  const top = Math.max(...layers.map((each) => Math.abs(each.effect)), 1e-9);
  const head = element("tr", {}, element("th", { scope: "col" }, "Layer"));
  head.append(...names.map((name) => element("th", { scope: "col" }, name)));
  const numbers = [...new Set(layers.map((each) => each.layer))];
  const rows = numbers.map((layer) => {
    const found = names.map((name) => layers.find((each) => each.layer === layer && each.source === name));
    return row(String(layer), found.map((each) => heatCell(each, top)));
  });
  const caption = "How much each source moved the score at each layer";
  const table = element("table", { className: "heat" }, element("caption", {}, caption));
  table.append(element("thead", {}, head), element("tbody", {}, ...rows), totals(sources));
  return [element("h4", {}, "Effect of the sources by layer"), element("div", { className: "wide" }, table), legend(top)];
}

function heatCell(found, top) {
  const cell = element("td", {
    className: found.effect < 0 ? "minus" : "plus",
    title: `${found.source}, layer ${found.layer}: ${signed(found.effect)}, mean coefficient ${number(found.coefficient)}`,
  });
  cell.style.setProperty("--heat", (Math.abs(found.effect) / top).toFixed(3));
  cell.append(signed(found.effect));
  return cell;
}

function totals(sources) {
  const effects = row("all", sources.map((each) => element("td", {}, signed(each.effect))));
  const weights = row("weight", sources.map((each) => element("td", {}, `${Math.round(each.stream_share * 100)}%`)));
  return element("tfoot", {}, effects, weights);
}

function row(label, cells) {
  return element("tr", {}, element("th", { scope: "row" }, label), ...cells);
}

function legend(top) {
  const [lowered, raised] = [`${signed(-top)} lowered`, `raised ${signed(top)}`].map((text) => element("span", {}, text));
  const scale = element("span", { className: "scale", "aria-hidden": "true" });
  return element("p", { className: "legend" }, lowered, scale, raised);
}
