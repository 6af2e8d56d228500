// What the views share: the period, figures with their change, notices about days, runs.

import { isLogged } from "./api.js";
import { h } from "./dom.js";
import {
  addDays,
  countDays,
  day,
  dayOfMonth,
  exact,
  instant,
  money,
  moneyChange,
  NONE,
  percent,
  pointsChange,
  unitMoney,
  unitMoneyChange,
  whole,
  wholeChange,
} from "./format.js";
import { describe, NAMES } from "./states.js";

const DEFAULT_DAYS = 30;
const LONGEST = 366;
const PRESETS = [7, 30, 90, 365];

/** The asked period, whole days only, and as many days just before it. */
export function periodOf(query, info) {
  const valid = (text) => (/^\d{4}-\d{2}-\d{2}$/.test(text ?? "") && !Number.isNaN(Date.parse(text)) ? text : null);
  const newest = info.newest_whole_day;
  const asked = valid(query.get("to"));
  const last = asked && asked < newest ? asked : newest;
  const earliest = addDays(last, 1 - LONGEST);
  let first = valid(query.get("from")) ?? addDays(last, 1 - DEFAULT_DAYS);
  if (first > last) first = last;
  if (first < earliest) first = earliest;
  const length = countDays(first, last);
  return { first, last, length, before: { first: addDays(first, -length), last: addDays(first, -1) } };
}

export const range = ({ first, last }) => (first === last ? day(first) : `${day(first)} to ${day(last)}`);

/** A form whose answer is another URL of the same view. */
export function periodForm(period, info, kept) {
  const link = (days) => {
    const from = addDays(info.newest_whole_day, 1 - days);
    const isCurrent = period.first === from && period.last === info.newest_whole_day;
    const query = new URLSearchParams({ ...kept, from, to: info.newest_whole_day });
    return h("a", { href: `?${query}`, "aria-current": isCurrent && "true" }, `${days} days`);
  };
  return h(
    "form",
    { class: "period", method: "get" },
    Object.entries(kept).map(([name, value]) => h("input", { type: "hidden", name, value })),
    h(
      "label",
      {},
      "From ",
      h("input", { type: "date", name: "from", value: period.first, max: info.newest_whole_day, required: true }),
    ),
    h(
      "label",
      {},
      "to ",
      h("input", { type: "date", name: "to", value: period.last, max: info.newest_whole_day, required: true }),
    ),
    h("button", {}, "Show"),
    h("span", { class: "presets" }, PRESETS.map(link)),
  );
}

export const periodNote = (period, info) =>
  h(
    "p",
    { class: "note" },
    `${range(period)} (${period.length} ${period.length === 1 ? "day" : "days"}, ${info.time_zone}). Changes (+, −) are against ${range(period.before)}. Today is not over and is in no number.${unloggedNote()}`,
  );

/** Which figures are unknown because the logs do not have their column. */
function unloggedNote() {
  const labels = Object.keys(FIGURES).filter((name) => !isLogged(name));
  return labels.length ? ` Not logged, so unknown: ${labels.map((name) => FIGURES[name].label).join(", ")}.` : "";
}

/** A number: what people read, and every digit of the API for the pointer and for programs. */
export const value = (raw, text, title = exact(raw)) => h("data", { value: raw ?? "", title }, text);

/** The figures of a window by their names in the API. isLate: computed from distributions, which takes longer. */
export const FIGURES = {
  total_executions: { label: "Executions", write: whole, change: wholeChange },
  success_rate: { label: "Success rate", write: percent, change: pointsChange },
  total_cost_usd: { label: "Cost", write: money, change: moneyChange },
  cost_per_unassisted_success: { label: "Cost per unassisted success", write: unitMoney, change: unitMoneyChange },
  human_interventions: { label: "Human interventions", write: whole, change: wholeChange },
  unique_users: { label: "Users", write: whole, change: wholeChange, isLate: true },
  p50_latency_ms: { label: "p50", unit: "ms", write: whole, change: wholeChange, isLate: true },
  p95_latency_ms: { label: "p95", unit: "ms", write: whole, change: wholeChange, isLate: true },
  p99_latency_ms: { label: "p99", unit: "ms", write: whole, change: wholeChange, isLate: true },
};
const named = (isLate) => Object.keys(FIGURES).filter((name) => Boolean(FIGURES[name].isLate) === isLate);
const PERCENTILES = named(true).filter((name) => name.startsWith("p"));
const CARDS = [
  ...Object.keys(FIGURES)
    .filter((name) => !PERCENTILES.includes(name))
    .map((name) => [name]),
  PERCENTILES,
];

/** What GET /api/v1/activity is asked for: `fields` of sums, which come at once, and of figures that come later. */
export const SUMS = [
  ...named(false),
  "successful_executions",
  "failed_executions",
  "success_rate_low",
  "success_rate_high",
  "days_stored",
].join();
export const OF_DISTRIBUTIONS = [
  ...named(true),
  "is_exact",
  "latency_error",
  "unique_users_error",
  "days_without_distribution",
].join();

/** The 95 % interval of a success rate. */
export const interval = (row) =>
  row.success_rate_low ? `${percent(row.success_rate_low)} – ${percent(row.success_rate_high)}` : NONE;

/** The figures of a period. fill() shows what a row of GET /api/v1/activity has of them; the rest keeps its place. */
export function figureCards() {
  const boxes = CARDS.map((names) => ({
    names,
    figure: h("dd", {}, "…"),
    detail: h("dd", { class: "more" }, " "),
    change: h("dd", { class: "more", title: "Change against the days before" }, " "),
  }));
  const label = (names) =>
    names.length > 1 ? `Latency ${names.map((name) => FIGURES[name].label).join(" · ")}` : FIGURES[names[0]].label;
  const joined = (list) => list.flatMap((each, index) => (index ? [" · ", each] : [each]));
  const fill = (row) => {
    for (const { names, figure, detail, change } of boxes) {
      const [{ isLate, unit }] = names.map((name) => FIGURES[name]);
      const suffix = unit ? ` ${unit}` : "";
      const why = isLate && "is_exact" in row ? inexact(row) : null;
      if (names[0] in row)
        figure.replaceChildren(
          why ? "≈ " : "",
          ...joined(names.map((name) => value(row[name], FIGURES[name].write(row[name])))),
          suffix,
        );
      if (names[0] === "success_rate" && "success_rate_low" in row) detail.replaceChildren(`95 %: ${interval(row)}`);
      if (why) detail.replaceChildren(why);
      if (row.change === null || (row.change && names[0] in row.change))
        change.replaceChildren(...changed(row, names, suffix));
    }
  };
  return {
    element: h(
      "dl",
      { class: "cards" },
      boxes.map(({ names, figure, detail, change }) =>
        h("div", { class: names.length > 1 && "several" }, h("dt", {}, label(names)), figure, change, detail),
      ),
    ),
    fill,
    /** Says why the figures that have not come will not. */
    fail: (message) => {
      for (const { figure } of boxes)
        if (figure.textContent === "…") figure.replaceChildren(h("span", { class: "note" }, message));
    },
  };
  function changed(row, names, suffix) {
    if (!row.change || names.every((name) => row.change[name] === null))
      return [h("span", { title: "nothing to compare with" }, "–")];
    const changes = names.map((name) => value(row.change[name], FIGURES[name].change(row.change[name])));
    return [...joined(changes), suffix, row.is_comparable ? "" : " *"];
  }
}

/** Says so if the change of a sum is due to days that are not stored. */
export const comparisonNote = (row) =>
  row.is_comparable || !row.previous
    ? ""
    : "* The days before have another number of stored days, so sums cannot be compared with theirs.";

/** Which days of the period are not as they should be, each with the way to its page; or that all are. */
export function dayNotice(coverage, period) {
  const wrong = coverage
    .filter((row) => describe(row.state).isDoubtful)
    .sort((a, b) => a.metric_date.localeCompare(b.metric_date));
  const unknown = period.length - coverage.length;
  if (wrong.length === 0 && unknown === 0)
    return h("p", { class: "note" }, "No day of the period is missing or differs from its logs.");
  const kinds = NAMES.filter((name) => wrong.some((row) => row.state === name));
  return h(
    "div",
    // Days before the first one are no fault.
    { class: wrong.length > 0 ? "notice" : "note" },
    kinds.map((name) => {
      const rows = wrong.filter((row) => row.state === name);
      const { sign, meaning } = describe(name);
      return h(
        "p",
        {},
        h(
          "strong",
          {},
          `${sign} ${rows.length} ${rows.length === 1 ? "day is" : "days are"} ${name.replace("_", " ")}`,
        ),
        ` (${meaning}): `,
        rows
          .slice(0, 8)
          .map((row, index) => [
            index > 0 && ", ",
            h("a", { href: `?day=${row.metric_date}`, title: row.reason }, dayOfMonth(row.metric_date)),
          ]),
        rows.length > 8 && `, and ${rows.length - 8} more`,
        ".",
      );
    }),
    unknown > 0 &&
      h("p", {}, `${unknown} ${unknown === 1 ? "day is" : "days are"} before the first day of this pipeline.`),
  );
}

/** A run, with the way to it in the Dagster UI. */
export const run = (runId, info) =>
  runId
    ? h(
        "a",
        { href: `${info.dagster_url}/runs/${encodeURIComponent(runId)}`, rel: "noreferrer" },
        h("code", {}, runId.slice(0, 8)),
      )
    : NONE;

export const agentLink = (agentId, period) => {
  const query = new URLSearchParams({ agent: agentId, ...(period && { from: period.first, to: period.last }) });
  return h("a", { href: `?${query}` }, agentId);
};

/** Why percentiles and users are empty or estimated. */
export function inexact(row) {
  if (row.days_without_distribution.length > 0)
    return `not known: ${row.days_without_distribution.length} days have no distribution, the first is ${row.days_without_distribution[0]}`;
  if (row.is_exact) return null;
  const users =
    row.unique_users === null
      ? "users hashed with several keys"
      : row.unique_users_error > 0
        ? `users ± ${row.unique_users_error * 100} %`
        : null;
  return `estimate: ${[row.latency_error > 0 ? "percentiles to 0.1 %" : null, users].filter(Boolean).join(", ")}`;
}

/** The rows of restatements: what changed, from which value to which. */
export function restatementTable(rows, info, withAgent) {
  if (rows.length === 0) return h("p", { class: "note" }, "No stored value of these days was ever replaced.");
  const text = (each) =>
    each === null || each === undefined ? NONE : typeof each === "object" ? JSON.stringify(each) : exact(each);
  const differences = ({ old_row: old, new_row: now }) =>
    now === null
      ? h("li", {}, "the day was cleared")
      : Object.keys(old)
          .filter((name) => text(old[name]) !== text(now[name]))
          .map((name) => h("li", {}, `${name}: `, h("del", {}, text(old[name])), " → ", h("ins", {}, text(now[name]))));
  return h(
    "div",
    { class: "scroll" },
    h(
      "table",
      { class: "restatements" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["Day", withAgent && "Agent", "Replaced", "Reason", "Run", "Old → new values"]
            .filter(Boolean)
            .map((name) => h("th", { scope: "col" }, name)),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((row) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, h("a", { href: `?day=${row.metric_date}` }, row.metric_date)),
            withAgent && h("td", {}, agentLink(row.agent_id)),
            h("td", {}, instant(row.replaced_at)),
            h("td", {}, row.reason),
            h("td", {}, run(row.run_id, info)),
            h("td", {}, h("ul", { class: "differences" }, differences(row))),
          ),
        ),
      ),
    ),
  );
}
