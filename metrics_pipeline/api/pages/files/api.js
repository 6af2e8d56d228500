// Asking the public API. Money and rates arrive as text with the digits of the database.

const TOKEN = "metrics_pipeline token";

/** An answer that is not the one that was asked for: an RFC 9457 problem. */
export class Problem extends Error {
  constructor(status, problem) {
    super(problem.detail ?? `The server answered ${status}.`);
    this.status = status;
    this.kind = problem.type?.split(":").pop();
  }
}

/** The read token is kept for this tab only, and goes away with it. */
export const token = {
  get: () => sessionStorage.getItem(TOKEN),
  set: (value) => sessionStorage.setItem(TOKEN, value),
  forget: () => sessionStorage.removeItem(TOKEN),
};

// Of each address, the state of the stored days with which it was last answered in this tab.
const ANSWERED = "metrics_pipeline answered";
const answered = new Map(JSON.parse(sessionStorage.getItem(ANSWERED) ?? "[]"));
let stored = null;

/** What is computed from stored days stays the same while this text of GET /api/v1/info does. */
export function storedDaysAre(version) {
  stored = version;
  for (const [url, known] of answered) if (known !== version) answered.delete(url);
}

let unlogged = [];

/** The figures that the logs say nothing about: a 0 of them is unknown, not free, so answers have null. */
export function unloggedAre(names) {
  unlogged = names;
}

export const isLogged = (name) => !unlogged.includes(name);

const withoutUnlogged = (row) => {
  for (const part of [row, row.previous, row.change])
    for (const name of unlogged) if (part && name in part) part[name] = null;
  return row;
};

/** The relative address of a question; parameters without a value are left out. */
export function address(path, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined);
  return `api/v1/${path}?${new URLSearchParams(given)}`;
}

async function ask(url, cache = "no-cache") {
  const headers = token.get() ? { Authorization: `Bearer ${token.get()}` } : {};
  const response = await fetch(url, { headers, cache });
  if (response.ok) return response;
  throw new Problem(response.status, await response.json().catch(() => ({})));
}

// These change without a day being stored, so that a copy is shown only until the server has answered.
const LIVE = ["coverage", "agents", "alerts", "skipped"];
let unchecked = [];

/** Whether one of the copies that are shown differs from what the server says now. Asked when all is drawn. */
export async function areCopiesOld() {
  const shown = unchecked;
  unchecked = [];
  const now = await Promise.all(shown.map(({ url }) => ask(url)));
  return now.some((response, index) => response.headers.get("ETag") !== shown[index].tag);
}

async function askOrKnow(path, url) {
  if (path === "info") return ask(url);
  const isLive = LIVE.includes(path);
  const known = answered.get(url);
  const isKnown = known !== undefined && (isLive || known === stored);
  const response = await ask(url, isKnown ? "force-cache" : "no-cache");
  if (isKnown && isLive) unchecked.push({ url, tag: response.headers.get("ETag") });
  answered.set(url, stored);
  sessionStorage.setItem(ANSWERED, JSON.stringify([...answered]));
  return response;
}

/** One object, or all rows of a list, page by page. The browser's own copy serves while the stored days are the same. */
export async function get(path, parameters) {
  const hasDecimals = path !== "info" && !path.endsWith("/compare");
  let url = address(path, hasDecimals ? { decimals: "string", ...parameters } : parameters);
  let rows = null;
  while (url) {
    const response = await askOrKnow(path, url);
    const answer = await response.json();
    if (!Array.isArray(answer)) return answer;
    rows = [...(rows ?? []), ...answer.map(withoutUnlogged)];
    const next = /<([^>]*)>; rel="next"/.exec(response.headers.get("Link"))?.[1];
    url = next && `api/v1/${path}${next}`;
  }
  return rows;
}

/** Downloads what a link names. A link alone cannot send the token. */
export async function download(event) {
  if (!token.get()) return;
  event.preventDefault();
  const link = event.currentTarget;
  const response = await ask(link.href);
  const copy = document.createElement("a");
  copy.href = URL.createObjectURL(await response.blob());
  copy.download = link.download;
  copy.click();
  URL.revokeObjectURL(copy.href);
}
