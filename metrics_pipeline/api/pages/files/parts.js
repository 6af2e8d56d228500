// What the views share: the period, figures with their change, notices about days, runs.

import { h, table } from "./dom.js";
import {
  addDays,
  countDays,
  counted,
  day,
  dayOfMonth,
  dayOrNull,
  exact,
  instant,
  inWords,
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
const SHOWN_DAYS = 8;
const PRESETS = [7, 30, 90, 365];

/** The asked period, whole days only, and as many days just before it. */
export function periodOf(query, info) {
  const newest = info.newest_whole_day;
  const asked = dayOrNull(query.get("to"));
  const last = asked && asked < newest ? asked : newest;
  const earliest = addDays(last, 1 - LONGEST);
  let first = dayOrNull(query.get("from")) ?? addDays(last, 1 - DEFAULT_DAYS);
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

/** total: the figures of the whole period; undefined if no day of it is stored. */
export const periodNote = (period, info, total) =>
  h(
    "p",
    { class: "note" },
    `${range(period)} (${counted(period.length, "day")}, ${info.time_zone}). Changes (+, −) are against ${range(period.before)}. Today is not over and is in no number.${withoutColumn(total)}`,
  );

/** On how many days the logs did not have a column. */
function withoutColumn(total) {
  const lacked = Object.entries(total?.days_without_column ?? {}).map(
    ([column, days]) => `${column} on ${counted(days, "day")}`,
  );
  return lacked.length
    ? ` The logs did not have ${lacked.join(", ")}: figures that need it are those of the other days.`
    : "";
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
  "human_intervention_rate",
  "days_without_column",
].join();
export const OF_DISTRIBUTIONS = [
  ...named(true),
  "is_exact",
  "latency_error",
  "unique_users_error",
  "days_without_distribution",
].join();

/** The 95% interval of a success rate. */
export const interval = (row) =>
  row.success_rate_low ? `${percent(row.success_rate_low).slice(0, -1)}–${percent(row.success_rate_high)}` : NONE;

/** What stands beside a figure of a period. */
const DETAILS = {
  total_executions: (row) => `${whole(row.failed_executions)} failed`,
  success_rate: (row) => `95%: ${interval(row)}`,
  human_interventions: (row) =>
    row.human_intervention_rate === null ? "" : `${percent(row.human_intervention_rate)} of executions`,
};

/** The figures of a period. fill() shows what a row of GET /api/v1/activity has of them; the rest keeps its place. */
export function figureCards() {
  const boxes = CARDS.map((names) => ({
    names,
    figure: h("dd", {}, "…"),
    change: h("span", { title: "Change against the days before" }),
    detail: h("span"),
  }));
  const note = h("p", { class: "note" }, " ");
  const label = (names) => {
    const { unit } = FIGURES[names[0]];
    const labels = names.map((name) => FIGURES[name].label).join(" · ");
    return unit ? `Latency ${labels} (${unit})` : labels;
  };
  const joined = (list) => list.flatMap((each, index) => (index ? [" · ", each] : [each]));
  const fill = (row) => {
    for (const { names, figure, detail, change } of boxes) {
      const isEstimate = FIGURES[names[0]].isLate && row.is_exact === false && row[names[0]] !== null;
      const values = names
        .filter((name) => name in row)
        .map((name) => value(row[name], FIGURES[name].write(row[name])));
      if (values.length > 0) {
        figure.replaceChildren(isEstimate ? "≈ " : "", ...joined(values));
        detail.textContent = (row[names[0]] !== null && DETAILS[names[0]]?.(row)) || "";
      }
      const changes = names
        .filter((name) => (row.change?.[name] ?? null) !== null)
        .map((name) => value(row.change[name], FIGURES[name].change(row.change[name])));
      if (changes.length > 0) change.replaceChildren(...joined(changes), row.is_comparable ? "" : " *");
    }
    const why = "is_exact" in row && inexact(row);
    const notes = [why && `Percentiles and users: ${why}.`, "change" in row && comparisonNote(row)].filter(Boolean);
    if (notes.length > 0) note.textContent = notes.join(" ");
  };
  return {
    element: [
      h(
        "dl",
        { class: "cards" },
        boxes.map(({ names, figure, detail, change }) =>
          h(
            "div",
            { class: names.length > 1 && "several" },
            h("dt", {}, label(names)),
            figure,
            h("dd", { class: "more" }, names[0] in DETAILS && h("div", {}, detail), h("div", {}, change)),
          ),
        ),
      ),
      note,
    ],
    fill,
    /** What has not come will not. */
    fail: () => {
      for (const { figure } of boxes) if (figure.textContent === "…") figure.textContent = NONE;
    },
  };
}

/** Says so if there is nothing to compare with, or if the change of a sum is due to days that are not stored. */
const comparisonNote = (row) =>
  !row.previous
    ? "Nothing to compare with: no day of the days before is stored."
    : row.is_comparable
      ? ""
      : "* The days before have another number of stored days, or of days without a column, so sums cannot be compared with theirs.";

/** Which days of the period are not as they should be, each with the way to its page; or that all are. */
export function dayNotice(coverage, period) {
  const wrong = coverage.filter((row) => describe(row.state).isDoubtful).toReversed();
  const unknown = period.length - coverage.length;
  const sentences = NAMES.filter((name) => wrong.some((row) => row.state === name)).map((name) => {
    const rows = wrong.filter((row) => row.state === name);
    const { sign, meaning } = describe(name);
    return [
      h("strong", { title: meaning }, `${sign} ${counted(rows.length, "day is", "days are")} ${inWords(name)}`),
      ": ",
      rows
        .slice(0, SHOWN_DAYS)
        .map((row, index) => [
          index > 0 && ", ",
          h("a", { href: `?day=${row.metric_date}`, title: row.reason }, dayOfMonth(row.metric_date)),
        ]),
      rows.length > SHOWN_DAYS && `, and ${rows.length - SHOWN_DAYS} more`,
      ". ",
    ];
  });
  if (sentences.length === 0 && coverage.length > 0)
    sentences.push("✓ No day of the period is missing or differs from its logs. ");
  // Days before the first one are not a fault.
  if (unknown > 0) sentences.push(`${counted(unknown, "day is", "days are")} before the first day of this pipeline.`);
  return h("p", { class: wrong.length > 0 ? "notice" : "notice calm" }, sentences);
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
    return `not known: ${counted(row.days_without_distribution.length, "day has", "days have")} no distribution, the first is ${row.days_without_distribution[0]}`;
  if (row.is_exact) return null;
  const users =
    row.unique_users === null
      ? "users hashed with several keys"
      : row.unique_users_error > 0
        ? `users ± ${row.unique_users_error * 100}%`
        : null;
  return `estimate: ${[row.latency_error > 0 ? "percentiles to 0.1%" : null, users].filter(Boolean).join(", ")}`;
}

/** Counts by name, the largest first. */
export const byCount = (counts) => Object.entries(counts).toSorted(([, left], [, right]) => right - left);

/** The largest of them in words. */
export const countsInWords = (counts, shown) =>
  byCount(counts)
    .slice(0, shown)
    .map(([name, count]) => `${name} ${whole(count)}`)
    .join(", ");

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
  const ofAgent = (cell) => (withAgent ? [cell] : []);
  return table({
    class: "restatements",
    names: ["Day", ...ofAgent("Agent"), "Replaced", "Reason", "Run", "Old → new values"],
    rows: rows.map((row) => [
      h("a", { href: `?day=${row.metric_date}` }, row.metric_date),
      ...ofAgent(agentLink(row.agent_id)),
      instant(row.replaced_at),
      row.reason,
      run(row.run_id, info),
      h("ul", { class: "differences" }, differences(row)),
    ]),
  });
}
