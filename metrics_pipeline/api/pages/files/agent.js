// One agent over a period: every metric by day, how its latencies are distributed, and the values that were replaced.

import { alertTable, said } from "./alerts.js";
import { get } from "./api.js";
import { breakdown } from "./breakdown.js";
import { dayChart, executionsChart, linear, logarithmic } from "./charts.js";
import { fill, h } from "./dom.js";
import { counted, daysBetween, money, moneyAxis, percent, percentAxis, short, whole } from "./format.js";
import { heatMap } from "./heatmap.js";
import {
  byCount,
  countsInWords,
  dayNotice,
  figureCards,
  inexact,
  interval,
  periodForm,
  periodNote,
  periodOf,
  restatementTable,
} from "./parts.js";
import { coverageOf, rowsOf, statesOf } from "./states.js";

const SHOWN_ERRORS = 6;

export async function agent(main, query, info) {
  const id = query.get("agent");
  document.title = `${id} · metrics_pipeline`;
  const period = periodOf(query, info);
  const window = { agent_id: id, start_date: period.first, end_date: period.last };
  const [rows, [total], counts, coverage, restated, alerts] = await Promise.all([
    get("activity", { group_by: "day", ...window }),
    get("activity", { compare: "previous", ...window }),
    get("latencies", window),
    coverageOf(period, info),
    get("restatements", window),
    get("alerts", { state: "all", ...window }),
  ]);
  const head = [h("h1", {}, id), periodForm(period, info, { agent: id }), periodNote(period, info, total)];
  const notice = dayNotice(coverage, period);
  if (!total) {
    fill(
      main,
      head,
      notice,
      h("p", { class: "notice" }, "No day of this agent is stored in this period, so there is no number to show."),
    );
    return;
  }
  const days = daysBetween(period.first, period.last);
  const shared = {
    days,
    states: statesOf(coverage, info),
    csv: { path: "activity", parameters: { group_by: "day", ...window }, name: `${id}.csv` },
  };
  const values = h("section", { class: "breakdown" });
  const cards = figureCards();
  cards.fill(total);
  fill(
    main,
    head,
    notice,
    cards.element,
    h("h2", {}, "By day"),
    h(
      "section",
      { class: "charts" },
      charts({
        shared,
        stored: rowsOf(days, rows),
        total,
        alerts,
        counts,
        csv: { path: "latencies", parameters: window, name: `${id}-latencies.csv` },
      }),
    ),
    info.dimensions.length > 0 && values,
    h("section", {}, h("h2", {}, "Alerts"), alertTable(alerts)),
    h("section", {}, h("h2", {}, "Replaced values"), restatementTable(restated, info, false)),
  );
  document.documentElement.dataset.ready = "sums";
  if (info.dimensions.length > 0) await breakdown(values, { id, period, query, info, coverage });
}

/**
 * Every metric by day. stored: of each day its row of GET /api/v1/activity, or null. counts: rows of GET
 * /api/v1/latencies, of which `csv` is the CSV.
 */
function charts({ shared, stored, total, alerts, counts, csv }) {
  const raw = (name) => stored.map((row) => row?.[name] ?? null);
  const numbers = (name) => raw(name).map((each) => (each === null ? null : Number(each)));
  const columns = (...names) => Object.fromEntries(names.map((name) => [name, (index) => raw(name)[index]]));
  const read = (say) => (index) =>
    stored[index] ? (stored[index].total_executions === 0 ? "no executions" : say(stored[index])) : "not stored";
  const marks = (...metrics) =>
    alerts
      .filter(({ state, metric }) => state !== "withdrawn" && metrics.includes(metric))
      .map((alert) => ({ first: alert.opened_on, last: alert.last_seen_on, words: said(alert) }));
  const bars = (title, unit, name, write, axis = short) =>
    raw(name).some((each) => each !== null) &&
    dayChart({
      ...shared,
      title,
      unit,
      axis: linear(numbers(name)),
      write: axis,
      layers: [{ type: "bars", parts: [{ values: numbers(name), kind: "good" }] }],
      marks: marks(name, name === "total_cost_usd" && "avg_cost_per_execution"),
      read: read((row) =>
        row[name] === null ? "not known" : `${write(row[name])} ${unit === "USD" ? "" : unit}`.trim(),
      ),
      columns: columns(name),
    });

  const success = () => {
    const [low, high] = [numbers("success_rate_low"), numbers("success_rate_high")];
    const least = Math.min(...low.filter((each) => each !== null), 1);
    // Without a value, the axis has a length nevertheless.
    const bottom = Math.min(Math.floor(least * 10) / 10, 0.9);
    return dayChart({
      ...shared,
      title: "Success rate",
      note: `With its 95% Wilson interval.${bottom > 0 ? ` The axis begins at ${percentAxis(bottom)}.` : ""}`,
      unit: "of executions",
      axis: linear(high, { low: bottom, high: 1 }),
      write: percentAxis,
      layers: [
        { type: "band", low, high, kind: "c0" },
        { type: "line", values: numbers("success_rate"), kind: "c0" },
      ],
      marks: marks("success_rate"),
      read: read(
        (row) => `${percent(row.success_rate)} (${interval(row)}) of ${counted(row.total_executions, "execution")}`,
      ),
      columns: columns("success_rate", "success_rate_low", "success_rate_high", "total_executions"),
    });
  };

  const latency = () => {
    const names = ["p50_latency_ms", "p95_latency_ms", "p99_latency_ms"];
    const [p50, p95, p99] = names.map(numbers);
    const estimated = stored.filter((row) => row && !row.is_exact).length;
    return dayChart({
      ...shared,
      title: "Latency",
      note: `Logarithmic axis.${estimated ? ` On ${counted(estimated, "day")} the values are estimates or not known.` : ""}`,
      unit: "ms",
      axis: logarithmic([...p50, ...p99]),
      write: short,
      legend: [
        { kind: "line c1", name: "p50" },
        { kind: "band c1", name: "p50 to p95" },
        { kind: "band c2", name: "p95 to p99" },
      ],
      layers: [
        { type: "band", low: p95, high: p99, kind: "c2" },
        { type: "band", low: p50, high: p95, kind: "c1" },
        { type: "line", values: p50, kind: "c1" },
      ],
      marks: marks(...names),
      read: read(
        (row) =>
          `p50 ${whole(row.p50_latency_ms)}, p95 ${whole(row.p95_latency_ms)}, p99 ${whole(row.p99_latency_ms)} ms${row.is_exact ? "" : ` (${inexact(row)})`}`,
      ),
      columns: columns(...names, "is_exact"),
    });
  };

  const errors = () => {
    const types = byCount(total.error_distribution).map(([type]) => type);
    const [shown, rest] = [types.slice(0, SHOWN_ERRORS), types.slice(SHOWN_ERRORS)];
    const count = (list) =>
      stored.map((row) => (row ? list.reduce((all, type) => all + (row.error_distribution[type] ?? 0), 0) : null));
    const parts = shown.map((type, index) => ({ name: type, kind: `c${index}`, values: count([type]) }));
    if (rest.length) parts.push({ name: counted(rest.length, "other type"), kind: "others", values: count(rest) });
    return dayChart({
      ...shared,
      title: "Failed executions by error type",
      unit: "failed executions",
      axis: linear(numbers("failed_executions")),
      write: short,
      legend: parts,
      layers: [{ type: "bars", parts }],
      marks: marks("error_distribution"),
      read: read((row) => countsInWords(row.error_distribution, 4) || "none failed"),
      columns: {
        failed_executions: (index) => raw("failed_executions")[index],
        ...Object.fromEntries(parts.map(({ name, values }) => [name, (index) => values[index]])),
      },
    });
  };

  return [
    success(),
    latency(),
    heatMap({
      ...shared,
      title: "Distribution of latencies",
      note: "Executions by latency, from the stored distributions: it stays after the logs are deleted.",
      counts,
      csv,
    }),
    executionsChart({
      ...shared,
      title: "Executions",
      rows: stored,
      marks: marks("total_executions", "successful_executions", "failed_executions"),
      read: read((row) => `${counted(row.total_executions, "execution")}, ${whole(row.failed_executions)} failed`),
    }),
    bars("Cost", "USD", "total_cost_usd", money, moneyAxis),
    errors(),
    bars("Tokens", "tokens", "total_tokens", whole),
    bars("Users", "users of the day", "unique_users", whole),
    bars("Human interventions", "executions", "human_interventions", whole),
  ];
}
