// Small helpers: elements are made of text, never of markup.

/** Make an element; `on...` properties are listeners, `aria-...` and `data-...` are attributes. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && !name.includes("-")) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** What a shop wrote: of whatever language, and in its own direction. */
export function written(...children) {
  return element("bdi", { lang: "" }, ...children);
}

export function button(text, onclick, properties = {}) {
  return element("button", { type: "button", className: "plain", onclick, ...properties }, text);
}

/** A number with a fixed count of digits and a true minus sign. */
export function number(value, digits = 3) {
  return value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1").replace("-", "\u2212");
}

/** The same, with its sign always shown. */
export function signed(value, digits = 3) {
  const text = number(value, digits);
  return text.startsWith("\u2212") ? text : `+${text}`;
}

/** Show a sentence in an element, or hide the element. */
export function say(place, sentence) {
  place.textContent = sentence ?? "";
  place.hidden = !sentence;
}

/** A bar of a width between 0 and 1; what it shows stands beside it as text. */
export function bar(share, kind = "") {
  const fill = element("span", { className: "fill" });
  fill.style.inlineSize = `${(Math.min(Math.max(share, 0), 1) * 100).toFixed(1)}%`;
  return element("span", { className: `bar ${kind}`, "aria-hidden": "true" }, fill);
}

/** Call a function once, after a pause in which it was not asked for again. */
export function paused(wait_ms, callback) {
  let timer;
  const later = (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => callback(...values), wait_ms);
  };
  later.cancel = () => clearTimeout(timer);
  return later;
}
