// One agent over a period: every metric by day, how its latencies are distributed, and the values that were replaced.

import { alertTable, said } from "./alerts.js";
import { address, get, isLogged } from "./api.js";
import { breakdown } from "./breakdown.js";
import { dayChart, heatMap, linear, logarithmic } from "./charts.js";
import { h } from "./dom.js";
import { daysBetween, money, moneyAxis, percent, percentAxis, short, whole } from "./format.js";
import {
  comparisonNote,
  dayNotice,
  figureCards,
  inexact,
  periodForm,
  periodNote,
  periodOf,
  restatementTable,
} from "./parts.js";
import { coverageOf, statesOf } from "./states.js";

const SHOWN_ERRORS = 6;

export async function agent(main, query, info) {
  const id = query.get("agent");
  document.title = `${id} · metrics_pipeline`;
  const period = periodOf(query, info);
  const window = { agent_id: id, start_date: period.first, end_date: period.last };
  const [rows, [total], counts, coverage, restated, alerts] = await Promise.all([
    get("activity", { group_by: "day", limit: 10_000, ...window }),
    get("activity", { compare: "previous", ...window }),
    get("latencies", window),
    coverageOf(period, info),
    get("restatements", { limit: 1000, ...window }),
    get("alerts", { state: "all", limit: 1000, ...window }),
  ]);
  const head = [
    h("h1", {}, id),
    periodForm(period, info, { agent: id }),
    periodNote(period, info),
    dayNotice(coverage, period),
  ].filter(Boolean);
  if (!total) {
    main.replaceChildren(
      ...head,
      h("p", { class: "notice" }, "No day of this agent is stored in this period, so there is no number to show."),
    );
    return;
  }
  const days = daysBetween(period.first, period.last);
  const byDay = new Map(rows.map((row) => [row.metric_date, row]));
  const stored = days.map((each) => byDay.get(each));
  const shared = {
    days,
    states: statesOf(coverage, info),
    csv: { href: address("activity", { group_by: "day", limit: 10_000, format: "csv", ...window }), name: `${id}.csv` },
  };
  const marksOf = (...metrics) =>
    alerts
      .filter(({ state, metric }) => state !== "withdrawn" && metrics.includes(metric))
      .map((alert) => ({ first: alert.opened_on, last: alert.last_seen_on, words: said(alert) }));
  const raw = (name) => stored.map((row) => row?.[name] ?? null);
  const numbers = (name) => raw(name).map((each) => (each === null ? null : Number(each)));
  const read = (say) => (index) =>
    stored[index] ? (stored[index].total_executions === 0 ? "no executions" : say(stored[index])) : "not stored";
  const columns = (...names) => Object.fromEntries(names.map((name) => [name, (index) => raw(name)[index]]));
  const bars = (title, unit, name, write, axis = short) =>
    isLogged(name) &&
    dayChart({
      ...shared,
      title,
      unit,
      axis: linear(numbers(name)),
      write: axis,
      layers: [{ type: "bars", parts: [{ values: numbers(name), kind: "good" }] }],
      marks: marksOf(name, name === "total_cost_usd" && "avg_cost_per_execution"),
      read: read((row) => `${write(row[name])} ${unit === "USD" ? "" : unit}`.trim()),
      columns: columns(name),
    });

  const values = h("section", { class: "breakdown" });
  const cards = figureCards();
  cards.fill(total);
  main.replaceChildren(
    ...head,
    cards.element,
    h("p", { class: "note" }, comparisonNote(total)),
    h(
      "section",
      { class: "charts" },
      successChart({ ...shared, marks: marksOf("success_rate") }, numbers, read, columns),
      latencyChart(
        { ...shared, marks: marksOf("p50_latency_ms", "p95_latency_ms", "p99_latency_ms") },
        stored,
        numbers,
        read,
        columns,
      ),
      heatMap({
        ...shared,
        title: "Distribution of latencies",
        note: "Executions by latency, from the stored distributions: it stays after the logs are deleted.",
        counts,
        csv: { href: address("latencies", { format: "csv", ...window }), name: `${id}-latencies.csv` },
      }),
      executionsChart(
        { ...shared, marks: marksOf("total_executions", "successful_executions", "failed_executions") },
        numbers,
        read,
        columns,
      ),
      bars("Cost", "USD", "total_cost_usd", money, moneyAxis),
      errorChart({ ...shared, marks: marksOf("error_distribution") }, stored, total, read),
      bars("Tokens", "tokens", "total_tokens", whole),
      bars("Users", "users of the day", "unique_users", whole),
      bars("Human interventions", "executions", "human_interventions", whole),
    ),
    info.dimensions.length > 0 ? values : "",
    h("section", {}, h("h2", {}, "Alerts"), alertTable(alerts)),
    h("section", {}, h("h2", {}, "Replaced values"), restatementTable(restated, info, false)),
  );
  document.documentElement.dataset.ready = "sums";
  if (info.dimensions.length > 0) await breakdown(values, { id, period, query, info, coverage });
}

function successChart(shared, numbers, read, columns) {
  const low = numbers("success_rate_low");
  const least = Math.min(...low.filter((each) => each !== null), 1);
  // Without a value, the axis has a length nevertheless.
  const bottom = Math.min(Math.floor(least * 10) / 10, 0.9);
  return dayChart({
    ...shared,
    title: "Success rate",
    note: `With its 95 % Wilson interval.${bottom > 0 ? ` The axis begins at ${percentAxis(bottom)}.` : ""}`,
    unit: "of executions",
    axis: linear(numbers("success_rate_high"), { low: bottom, high: 1 }),
    write: percentAxis,
    layers: [
      { type: "band", low, high: numbers("success_rate_high"), kind: "c0" },
      { type: "line", values: numbers("success_rate"), kind: "c0" },
    ],
    read: read(
      (row) =>
        `${percent(row.success_rate)} (${percent(row.success_rate_low)} to ${percent(row.success_rate_high)}) of ${whole(row.total_executions)}`,
    ),
    columns: columns("success_rate", "success_rate_low", "success_rate_high", "total_executions"),
  });
}

function latencyChart(shared, stored, numbers, read, columns) {
  const [p50, p95, p99] = ["p50_latency_ms", "p95_latency_ms", "p99_latency_ms"].map(numbers);
  const estimated = stored.filter((row) => row && !row.is_exact).length;
  return dayChart({
    ...shared,
    title: "Latency",
    note: `Logarithmic axis.${estimated ? ` On ${estimated} days the values are estimates or not known.` : ""}`,
    unit: "ms",
    axis: logarithmic([...p50, ...p99]),
    write: short,
    legend: [
      { kind: "c1", name: "p50 (line) to p95" },
      { kind: "c2", name: "p95 to p99" },
    ],
    layers: [
      { type: "band", low: p95, high: p99, kind: "c2" },
      { type: "band", low: p50, high: p95, kind: "c1" },
      { type: "line", values: p50, kind: "c1" },
    ],
    read: read(
      (row) =>
        `p50 ${whole(row.p50_latency_ms)}, p95 ${whole(row.p95_latency_ms)}, p99 ${whole(row.p99_latency_ms)} ms${row.is_exact ? "" : ` (${inexact(row)})`}`,
    ),
    columns: columns("p50_latency_ms", "p95_latency_ms", "p99_latency_ms", "is_exact"),
  });
}

function executionsChart(shared, numbers, read, columns) {
  const [total, good, failed] = ["total_executions", "successful_executions", "failed_executions"].map(numbers);
  const others = total.map((each, index) => (each === null ? null : each - good[index] - failed[index]));
  return dayChart({
    ...shared,
    title: "Executions",
    unit: "executions",
    axis: linear(total),
    write: short,
    legend: [
      { kind: "good", name: "successful" },
      { kind: "others", name: "any other status" },
      { kind: "failed", name: "failed" },
    ],
    layers: [
      {
        type: "bars",
        parts: [
          { values: good, kind: "good" },
          { values: others, kind: "others" },
          { values: failed, kind: "failed" },
        ],
      },
    ],
    read: read((row) => `${whole(row.total_executions)} executions, ${whole(row.failed_executions)} failed`),
    columns: columns("total_executions", "successful_executions", "failed_executions"),
  });
}

function errorChart(shared, stored, total, read) {
  const types = Object.entries(total.error_distribution)
    .toSorted(([, left], [, right]) => right - left)
    .map(([type]) => type);
  const [shown, rest] = [types.slice(0, SHOWN_ERRORS), types.slice(SHOWN_ERRORS)];
  const count = (list) =>
    stored.map((row) => (row ? list.reduce((all, type) => all + (row.error_distribution[type] ?? 0), 0) : null));
  const parts = shown.map((type, index) => ({ name: type, kind: `c${index}`, values: count([type]) }));
  if (rest.length) parts.push({ name: `${rest.length} other types`, kind: "others", values: count(rest) });
  if (parts.length === 0) parts.push({ name: "none", kind: "failed", values: count([]) });
  return dayChart({
    ...shared,
    title: "Failed executions by error type",
    unit: "failed executions",
    axis: linear(stored.map((row) => row?.failed_executions ?? null)),
    write: short,
    legend: types.length ? parts : [],
    layers: [{ type: "bars", parts }],
    read: read(
      (row) =>
        Object.entries(row.error_distribution)
          .toSorted(([, a], [, b]) => b - a)
          .slice(0, 4)
          .map(([type, failed]) => `${type} ${whole(failed)}`)
          .join(", ") || "none failed",
    ),
    columns: Object.fromEntries(parts.map(({ name, values }) => [name, (index) => values[index]])),
  });
}
