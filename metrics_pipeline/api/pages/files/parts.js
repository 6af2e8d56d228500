// What the views share: the period, figures with their change, notices about days, runs.

import { h } from "./dom.js";
import { addDays, countDays, day, dayOfMonth, exact, NONE } from "./format.js";
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
    `${range(period)} (${period.length} ${period.length === 1 ? "day" : "days"}, ${info.time_zone}), compared with ${range(period.before)}. Today is not over and is in no number.`,
  );

/** A number: what people read, and every digit of the API for the pointer and for programs. */
export const value = (raw, text, title = exact(raw)) => h("data", { value: raw ?? "", title }, text);

/** The figures of a period. figures: { label, raw, text, more, change }. */
export const cards = (figures) =>
  h(
    "dl",
    { class: "cards" },
    figures.map(({ label, raw, text, more, change, id }) =>
      h(
        "div",
        { id },
        h("dt", {}, label),
        h("dd", {}, value(raw, text)),
        more && h("dd", { class: "more" }, more),
        change && h("dd", { class: "more" }, change),
      ),
    ),
  );

/** How a number changed, as the API gives it; says so if the periods cannot be compared day by day. */
export function changed(row, name, write) {
  if (!row.change || row.change[name] === null) return "nothing to compare with";
  return [value(row.change[name], write(row.change[name])), row.is_comparable ? " vs. before" : " vs. before *"];
}

/** Says so if the change of a sum is due to days that are not stored. */
export const comparisonNote = (row) =>
  row.is_comparable || !row.previous
    ? null
    : h(
        "p",
        { class: "note" },
        "* The days before have another number of stored days, so sums cannot be compared with theirs.",
      );

/** Which days of the period are not as they should be, each with the way to its page. */
export function dayNotice(coverage, period) {
  const wrong = coverage
    .filter((row) => describe(row.state).isDoubtful)
    .sort((a, b) => a.metric_date.localeCompare(b.metric_date));
  const unknown = period.length - coverage.length;
  if (wrong.length === 0 && unknown === 0) return null;
  const kinds = NAMES.filter((name) => wrong.some((row) => row.state === name));
  return h(
    "div",
    // Days before the first one are no fault.
    { class: wrong.length > 0 ? "notice" : "note", role: "status" },
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
            h(
              "td",
              {},
              `${row.replaced_at.slice(0, 16).replace("T", " ")} ${row.replaced_at.slice(19).replace(/^\.\d+/, "")}`,
            ),
            h("td", {}, row.reason),
            h("td", {}, run(row.run_id, info)),
            h("td", {}, h("ul", { class: "differences" }, differences(row))),
          ),
        ),
      ),
    ),
  );
}
