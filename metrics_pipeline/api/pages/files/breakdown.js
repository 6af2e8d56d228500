// The metrics of an agent by the values of a dimension, and two of these values side by side.

import { address, get, Problem } from "./api.js";
import { dayChart, linear, logarithmic, underChart } from "./charts.js";
import { h, s } from "./dom.js";
import { dayOfMonth, mondayOf, NONE, percent, percentAxis, pointsChange, short, whole, wholeChange } from "./format.js";
import { inexact, interval, OF_DISTRIBUTIONS, SUMS, value } from "./parts.js";
import { drawnDays } from "./states.js";
import { figureColumn, intervalColumn, sortableTable } from "./table.js";

const SHOWN_VALUES = 6;
const KINDS = {
  none: "the executions that say nothing of it",
  list: "those that say a list or an object, which is never split",
  other: "of each day, all values but the 50 with the most executions, exact as a sum",
};
const keyOf = (row) => `${row.value_kind} ${row.value}`;
const nameOf = (row) => (row.value_kind === "value" ? row.value : h("em", {}, row.value));
const errorsOf = (row) =>
  Object.entries(row.error_distribution)
    .toSorted(([, left], [, right]) => right - left)
    .slice(0, 2)
    .map(([type, failed]) => `${type} ${whole(failed)}`)
    .join(", ");

/** Fills the section with the breakdown by the dimension that the URL names, or by the first one. */
export async function breakdown(section, { id, period, query, info, coverage }) {
  const dimension = info.dimensions.includes(query.get("by")) ? query.get("by") : info.dimensions[0];
  const kept = { agent: id, from: period.first, to: period.last };
  const head = [
    h("h2", { id: "breakdown" }, `By ${dimension}`),
    info.dimensions.length > 1 &&
      h(
        "nav",
        { class: "presets", "aria-label": "Dimensions" },
        info.dimensions.map((by) =>
          h(
            "a",
            { href: `?${new URLSearchParams({ ...kept, by })}#breakdown`, "aria-current": by === dimension && "true" },
            by,
          ),
        ),
      ),
  ].filter(Boolean);
  section.replaceChildren(...head);
  const window = { agent_id: id, start_date: period.first, end_date: period.last, limit: 10_000 };
  const drawn = drawnDays(period, coverage, info);
  let answers;
  try {
    answers = await Promise.all([
      get("activity", { group_by: dimension, fields: `${SUMS},${OF_DISTRIBUTIONS},error_distribution`, ...window }),
      get("activity", { group_by: `${dimension},${drawn.by}`, fields: "total_executions", ...window }),
    ]);
  } catch (error) {
    if (!(error instanceof Problem) || error.status === 401) throw error;
    section.append(h("p", { class: "note" }, error.message));
    return;
  }
  const [rows, parts] = answers;
  if (rows.length === 0) {
    section.append(h("p", { class: "note" }, "No executions in this period."));
    return;
  }
  rows.sort((left, right) => right.total_executions - left.total_executions);
  const without = rows[0].days_without_dimension;
  for (const each of without) drawn.states.withoutDimension.add(drawn.by === "week" ? mondayOf(each) : each);
  section.append(
    ...notes(rows, without, dimension),
    ...valueTable(rows, dimension, query),
    h("div", { class: "under" }, h("span"), csv(`${id}-${dimension}.csv`, { group_by: dimension, ...window })),
    h("section", { class: "charts" }, shareChart(rows, parts, drawn, dimension, window)),
    h("h2", { id: "compare" }, `Compare two values of ${dimension}`),
    compareForm(rows, kept, dimension, query),
  );
  if (query.has("a") && query.has("b"))
    section.append(...(await comparison([query.get("a"), query.get("b")], dimension, drawn, window)));
}

function notes(rows, without, dimension) {
  const kinds = Object.keys(KINDS).filter((kind) => rows.some((row) => row.value_kind === kind));
  return [
    kinds.length > 0 &&
      h(
        "p",
        { class: "note" },
        kinds.map((kind, index) => [index ? "; " : "", h("em", {}, `(${kind})`), `: ${KINDS[kind]}`]),
        ".",
      ),
    rows.some((row) => !row.is_complete) &&
      h("p", { class: "note" }, "≥: on some day, executions of this value are in (other)."),
    without.length > 0 &&
      h(
        "p",
        { class: "notice" },
        `${without.length} stored ${without.length === 1 ? "day is" : "days are"} not broken down by ${dimension}, and in no number of this part: `,
        without.slice(0, 8).map(dayOfMonth).join(", "),
        without.length > 8 && `, and ${without.length - 8} more`,
        ".",
      ),
  ].filter(Boolean);
}

function valueTable(rows, dimension, query) {
  const all = rows.reduce((total, row) => total + row.total_executions, 0);
  const share = ({ total_executions: part }) =>
    h(
      "td",
      { class: "number" },
      percent(part / all),
      s(
        "svg",
        { class: "share", width: 60, height: 10, "aria-hidden": "true" },
        s("rect", { class: "bar c0", height: 10, width: Math.max(1, (60 * part) / all) }),
      ),
    );
  const executions = figureColumn("total_executions");
  return sortableTable({
    id: "values",
    label: `Values of ${dimension}`,
    noun: "value",
    rows,
    columns: [
      { key: "value", name: dimension, cell: (row) => h("th", { scope: "row" }, nameOf(row)) },
      { key: "share", name: "Share", isUnsorted: true, cell: share },
      {
        ...executions,
        cell: (row) =>
          row.is_complete
            ? executions.cell(row)
            : h("td", { class: "number" }, "≥ ", value(row.total_executions, whole(row.total_executions))),
      },
      figureColumn("success_rate"),
      intervalColumn,
      figureColumn("p50_latency_ms"),
      figureColumn("p95_latency_ms"),
      figureColumn("p99_latency_ms"),
      figureColumn("unique_users"),
      figureColumn("total_cost_usd"),
      figureColumn("cost_per_unassisted_success"),
      figureColumn("human_interventions"),
      {
        key: "failed_executions",
        name: "Failed",
        cell: (row) => h("td", { class: "number" }, value(row.failed_executions, whole(row.failed_executions))),
      },
      {
        key: "errors",
        name: "Most frequent errors",
        isUnsorted: true,
        isText: true,
        cell: (row) => h("td", { class: "note" }, errorsOf(row)),
      },
    ],
    keyOf,
    textOf: (row) => row.value,
    sort: "-total_executions",
    query,
  }).element;
}

function shareChart(rows, parts, { by, days, states }, dimension, window) {
  const place = new Map(days.map((each, index) => [each, index]));
  const counts = new Map(rows.map((row) => [keyOf(row), days.map(() => 0)]));
  const totals = days.map(() => 0);
  for (const row of parts) {
    const index = place.get(row.metric_date ?? row.week);
    counts.get(keyOf(row))[index] += row.total_executions;
    totals[index] += row.total_executions;
  }
  const own = rows.filter((row) => row.value_kind !== "other").slice(0, SHOWN_VALUES);
  const rest = rows.filter((row) => !own.includes(row));
  const groups = own.map((row, index) => ({ name: row.value, kind: `c${index}`, rows: [row] }));
  if (rest.length) groups.push({ name: rest.length === 1 ? rest[0].value : "all others", kind: "others", rows: rest });
  for (const group of groups)
    group.counts = days.map((_, index) =>
      totals[index] === 0 ? null : group.rows.reduce((all, row) => all + counts.get(keyOf(row))[index], 0),
    );
  const share = (group, index) => group.counts[index] / totals[index];
  return dayChart({
    title: `Share of each ${dimension} by ${by}`,
    unit: "of executions",
    days,
    states,
    axis: linear([1], { high: 1 }),
    write: percentAxis,
    legend: groups,
    layers: [
      {
        type: "bars",
        parts: groups.map((group) => ({
          kind: group.kind,
          values: days.map((_, index) => (totals[index] === 0 ? null : share(group, index))),
        })),
      },
    ],
    read: (index) =>
      totals[index] === 0
        ? "no executions"
        : groups
            .filter((group) => group.counts[index] > 0)
            .toSorted((left, right) => right.counts[index] - left.counts[index])
            .slice(0, 4)
            .map((group) => `${group.name} ${percent(share(group, index))}`)
            .join(", "),
    columns: {
      Executions: (index) => totals[index] || null,
      ...Object.fromEntries(groups.map((group) => [group.name, (index) => group.counts[index]])),
    },
    csv: {
      href: address("activity", { group_by: `${dimension},${by}`, format: "csv", ...window }),
      name: `${dimension}-by-${by}.csv`,
    },
    tall: true,
  });
}

/** A form whose answer is another URL of this view. */
function compareForm(rows, kept, dimension, query) {
  const choice = (name, label, otherwise) => {
    const chosen = query.get(name) ?? otherwise?.value;
    return h(
      "label",
      {},
      label,
      h(
        "select",
        { name },
        rows.map((row) => h("option", { selected: row.value === chosen }, row.value)),
      ),
    );
  };
  return h(
    "form",
    { class: "period", method: "get", action: "#compare" },
    Object.entries({ ...kept, by: dimension }).map(([name, given]) =>
      h("input", { type: "hidden", name, value: given }),
    ),
    choice("b", "Is ", rows[1] ?? rows[0]),
    choice("a", "better than ", rows[0]),
    h("button", {}, "Compare"),
  );
}

async function comparison([a, b], dimension, { by, days, states }, window) {
  const { agent_id: id, ...ofPeriod } = window;
  const bounds = { start_date: ofPeriod.start_date, end_date: ofPeriod.end_date };
  const side = (name) =>
    get("activity", {
      group_by: by,
      fields: `total_executions,success_rate,success_rate_low,success_rate_high,${OF_DISTRIBUTIONS}`,
      [dimension]: name,
      ...window,
    });
  const path = `metrics/${encodeURIComponent(id)}/compare`;
  const [found, ...sides] = await Promise.all([get(path, { dimension, a, b, ...bounds }), side(a), side(b)]);
  const place = new Map(days.map((each, index) => [each, index]));
  const series = sides.map((rows) => {
    const placed = days.map(() => null);
    for (const row of rows) placed[place.get(row.metric_date ?? row.week)] = row;
    return placed;
  });
  const shared = { days, states, by, names: [a, b], series, window, dimension };
  return [
    ...comparisonTable(found, [a, b]),
    h(
      "p",
      { class: "note" },
      "The interval encloses the true difference with a probability of 95 %. A value is called higher or lower only if it does not contain 0. Executions are taken as independent of each other.",
    ),
    h(
      "section",
      { class: "charts" },
      sideBySide({
        ...shared,
        title: "Success rate",
        name: "success_rate",
        band: ["success_rate_low", "success_rate_high"],
        unit: "of executions",
        write: percent,
        mark: percentAxis,
      }),
      sideBySide({ ...shared, title: "p95", name: "p95_latency_ms", unit: "ms", write: whole, mark: short }),
    ),
  ];
}

function comparisonTable(found, [a, b]) {
  const rates = { write: percent, difference: pointsChange, counted: "executions" };
  const latencies = {
    write: (raw) => `${whole(raw)}${raw === null ? "" : " ms"}`,
    difference: (raw) => `${wholeChange(raw)}${raw === null ? "" : " ms"}`,
    counted: "latencies",
  };
  const words = ({ verdict, minimum }, counted) =>
    ({
      higher: `${b} is higher`,
      lower: `${b} is lower`,
      "too few": `too few ${counted}: each side needs ${minimum}`,
    })[verdict] ?? verdict;
  const line = (label, name, { write, difference, counted }) => {
    const figure = found[name];
    const cell = (each) => {
      const isEstimate = name === "p95_latency_ms" && !each.is_exact;
      return h(
        "td",
        { class: "number" },
        isEstimate ? "≈ " : "",
        value(each[name], write(each[name])),
        h("span", { class: "name" }, `of ${each.is_complete ? "" : "≥ "}${whole(each[counted])} ${counted}`),
      );
    };
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, label),
      cell(found.a),
      cell(found.b),
      h("td", { class: "number" }, value(figure.difference, difference(figure.difference))),
      h(
        "td",
        { class: "number" },
        figure.low === null ? NONE : `${difference(figure.low)} to ${difference(figure.high)}`,
      ),
      h("td", {}, forest(figure)),
      h("td", {}, h("strong", {}, words(figure, counted))),
    );
  };
  const shown = [
    ["Success rate", found.success_rate, rates],
    ["p95", found.p95_latency_ms, latencies],
  ].map(([label, figure, { counted }]) => `${label}: ${words(figure, counted)}. `);
  return [
    h("p", { class: "verdict" }, shown),
    h(
      "div",
      { class: "scroll" },
      h(
        "table",
        { id: "comparison" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            ["", a, b, "Difference", "95 % interval", "Below 0 · above", "Shown"].map((name, index) =>
              h("th", { scope: "col", class: index > 0 && index < 5 && "number" }, name),
            ),
          ),
        ),
        h("tbody", {}, line("Success rate", "success_rate", rates), line("p95", "p95_latency_ms", latencies)),
      ),
    ),
  ];
}

/** The difference with its interval, 0 in the middle. */
function forest({ difference, low, high }) {
  if (low === null) return "";
  const [width, middle] = [160, 80];
  const scale = (middle - 6) / Math.max(Math.abs(low), Math.abs(high), Number.MIN_VALUE);
  const at = (each) => middle + each * scale;
  return s(
    "svg",
    { width, height: 20, "aria-hidden": "true" },
    s("line", { class: "guide", x1: middle, x2: middle, y1: 0, y2: 20 }),
    s("line", { class: "line c0", x1: at(low), x2: at(high), y1: 10, y2: 10 }),
    s("circle", { class: "dot c0", cx: at(difference), cy: 10, r: 4 }),
  );
}

function sideBySide({ title, name, band, unit, write, mark, days, states, by, names, series, window, dimension }) {
  const numbers = (index, field) => series[index].map((row) => (row?.[field] == null ? null : Number(row[field])));
  const values = [0, 1].map((index) => numbers(index, name));
  const kinds = ["c0", "c2"];
  const low = band ? Math.min(...series.flatMap((rows) => rows.map((row) => Number(row?.[band[0]] ?? 1))), 1) : 0;
  return dayChart({
    title: `${title} by ${by}`,
    note: band ? "With the 95 % Wilson intervals." : "Logarithmic axis.",
    unit,
    days,
    states,
    axis: band ? linear([1], { low: Math.floor(low * 10) / 10, high: 1 }) : logarithmic(values.flat()),
    write: mark,
    legend: names.map((each, index) => ({ name: each, kind: kinds[index] })),
    layers: [
      ...(band
        ? kinds.map((kind, index) => ({
            type: "band",
            low: numbers(index, band[0]),
            high: numbers(index, band[1]),
            kind,
          }))
        : []),
      ...kinds.map((kind, index) => ({ type: "line", values: values[index], kind })),
    ],
    read: (at) =>
      names
        .map((each, index) => {
          const row = series[index][at];
          if (!row) return `${each} no executions`;
          const why = !band && inexact(row);
          return `${each} ${write(row[name])}${band ? ` (${interval(row)})` : ""} of ${whole(row.total_executions)}${why ? ` (${why})` : ""}`;
        })
        .join(", "),
    columns: Object.fromEntries(
      names.flatMap((each, index) => [
        [`${each}: ${name}`, (at) => series[index][at]?.[name] ?? null],
        [`${each}: executions`, (at) => series[index][at]?.total_executions ?? null],
      ]),
    ),
    csv: {
      href: address("activity", { group_by: `${dimension},${by}`, format: "csv", ...window }),
      name: `${dimension}-by-${by}.csv`,
    },
  });
}

const csv = (name, parameters) =>
  underChart(() => "", { href: address("activity", { ...parameters, format: "csv" }), name }).lastChild;
