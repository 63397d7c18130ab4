// What the page asks the server; every failure is an Error whose message is a sentence.

const KEY = "xcrossrec-key";

/** The server's refusal of the key, or of its absence. */
export class KeyNeeded extends Error {}

export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

export async function models() {
  return (await ask("GET", "v1/models")).models;
}

/** Items of a model's catalogue whose titles fit a text. */
export async function findItems(model, query, limit, signal) {
  const asked = new URLSearchParams({ model, query, limit: String(limit) });
  return (await ask("GET", `v1/items?${asked}`, undefined, signal)).items;
}

/** Ranked items for a history: `options` has k, filters, include_bought. */
export async function recommend(model, history, options, signal) {
  return ask("POST", "v1/recommend", { model, history, ...options }, signal);
}

export async function explain(model, history, item) {
  return (await ask("POST", "v1/explain", { model, history, item })).explanation;
}

/** The page that says how a model was chosen, as a file. */
export async function reportOf(model) {
  return (await reach("GET", reportAt(model))).blob();
}

export function reportAt(model) {
  return `report?${new URLSearchParams({ model })}`;
}

/** Whether requests are sent with a key, which a link cannot do. */
export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

async function ask(method, address, body, signal) {
  const response = await reach(method, address, body, signal);
  const answer = await response.json().catch(() => null);
  if (answer === null) throw failure(response, answer);
  return answer;
}

async function reach(method, address, body, signal) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(address, { method, headers, signal, body: JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer: check that it runs, then try again.");
  }
  if (response.ok) return response;
  throw failure(response, await response.json().catch(() => null));
}

function failure(response, answer) {
  const text = answer?.error?.message ?? `The server failed with status ${response.status} and gave no reason`;
  const sentence = text[0].toUpperCase() + text.slice(1);
  const message = /[.!?]$/.test(sentence) ? sentence : `${sentence}.`;
  return response.status === 401 ? new KeyNeeded(message) : new Error(message);
}
