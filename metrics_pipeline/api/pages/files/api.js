// Asking the public API. Money and rates arrive as text with the digits of the database.

import { h } from "./dom.js";

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

// The largest pages that the API gives.
const LIMITS = { activity: 10_000, agents: 1000, alerts: 1000, metrics: 1000, restatements: 1000 };

/** The relative address of a question. */
const address = (path, parameters) =>
  `api/v1/${path}?${new URLSearchParams({ ...(path in LIMITS && { limit: LIMITS[path] }), ...parameters })}`;

async function ask(url, cache = "no-cache") {
  const headers = token.get() ? { Authorization: `Bearer ${token.get()}` } : {};
  const response = await fetch(url, { headers, cache }).catch(() => {
    throw new Problem(0, {
      detail: `${location.host} does not answer. Look whether the server runs and the network is up.`,
    });
  });
  if (response.ok) return response;
  throw new Problem(response.status, await response.json().catch(() => ({})));
}

/** The rest of a list that is longer than a page. */
function nextOf(response, path) {
  const next = /<([^>]*)>; rel="next"/.exec(response.headers.get("Link"))?.[1];
  return next && `api/v1/${path}${next}`;
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
  let url = address(path, { ...(hasDecimals && { decimals: "string" }), ...parameters });
  const rows = [];
  while (url) {
    const response = await askOrKnow(path, url);
    const answer = await response.json();
    if (!Array.isArray(answer)) return answer;
    rows.push(...answer);
    url = nextOf(response, path);
  }
  return rows;
}

/** The way to an answer as CSV. The link alone could send no token, and would give the first page only. */
export function csvLink({ path, parameters, name }) {
  const href = address(path, { ...parameters, format: "csv" });
  const download = async () => {
    const parts = [];
    for (let url = href; url; ) {
      const response = await ask(url);
      const lines = await response.text();
      // Every page begins with the names of the columns.
      parts.push(parts.length ? lines.slice(lines.indexOf("\n") + 1) : lines);
      url = nextOf(response, path);
    }
    const whole = URL.createObjectURL(new Blob(parts, { type: "text/csv" }));
    h("a", { href: whole, download: name }).click();
    URL.revokeObjectURL(whole);
  };
  const click = (event) => {
    event.preventDefault();
    download().catch((error) => event.target.after(h("span", { role: "alert" }, ` ${error.message}`)));
  };
  return h("a", { href, download: name, click }, "CSV");
}
