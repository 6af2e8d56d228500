// Two values of a dimension side by side.

import { get } from "./api.js";
import { dayChart, linear, logarithmic } from "./charts.js";
import { h, s, table } from "./dom.js";
import { NONE, percent, percentAxis, pointsChange, short, whole, wholeChange } from "./format.js";
import { inexact, interval, OF_DISTRIBUTIONS, value } from "./parts.js";
import { rowsOf } from "./states.js";

/** A form whose answer is another URL of this view. */
export function compareForm(rows, kept, dimension, query) {
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

/** What two values of a dimension are found to differ in, with their charts. */
export async function comparison([a, b], dimension, { by, days, states }, window) {
  const { agent_id: id, ...bounds } = window;
  const side = (name) =>
    get("activity", {
      group_by: by,
      fields: `total_executions,success_rate,success_rate_low,success_rate_high,${OF_DISTRIBUTIONS}`,
      [dimension]: name,
      ...window,
    });
  const path = `metrics/${encodeURIComponent(id)}/compare`;
  const [found, ...sides] = await Promise.all([get(path, { dimension, a, b, ...bounds }), side(a), side(b)]);
  const series = sides.map((rows) => rowsOf(days, rows));
  const shared = { days, states, by, names: [a, b], series, window, dimension };
  return [
    ...comparisonTable(found, [a, b]),
    h(
      "p",
      { class: "note" },
      "The interval encloses the true difference with a probability of 95%. A value is called higher or lower only if it does not contain 0. Executions are taken as independent of each other.",
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
      return [
        isEstimate ? "≈ " : "",
        value(each[name], write(each[name])),
        h("span", { class: "name" }, `of ${each.is_complete ? "" : "≥ "}${whole(each[counted])} ${counted}`),
      ];
    };
    return [
      label,
      cell(found.a),
      cell(found.b),
      value(figure.difference, difference(figure.difference)),
      figure.low === null ? NONE : `${difference(figure.low)} to ${difference(figure.high)}`,
      forest(figure),
      h("strong", {}, words(figure, counted)),
    ];
  };
  const shown = [
    ["Success rate", found.success_rate, rates],
    ["p95", found.p95_latency_ms, latencies],
  ].map(([label, figure, { counted }]) => `${label}: ${words(figure, counted)}. `);
  return [
    h("p", { class: "verdict" }, shown),
    table({
      id: "comparison",
      names: ["Metric", a, b, "Difference", "95% interval", "Below 0 · above", "Shown"],
      numbers: [1, 2, 3, 4],
      rows: [line("Success rate", "success_rate", rates), line("p95", "p95_latency_ms", latencies)],
    }),
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
    note: band ? "With the 95% Wilson intervals." : "Logarithmic axis.",
    unit,
    by,
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
      path: "activity",
      parameters: { group_by: `${dimension},${by}`, ...window },
      name: `${dimension}-by-${by}.csv`,
    },
  });
}
