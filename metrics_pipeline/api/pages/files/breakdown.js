// The metrics of an agent by the values of a dimension.

import { csvLink, get, Problem } from "./api.js";
import { dayChart, linear } from "./charts.js";
import { compareForm, comparison } from "./comparison.js";
import { h, s } from "./dom.js";
import { dayOfMonth, mondayOf, percent, percentAxis, whole } from "./format.js";
import { countsInWords, OF_DISTRIBUTIONS, SUMS, value } from "./parts.js";
import { drawnDays, rowsOf } from "./states.js";
import { figureColumns, sortableTable } from "./table.js";

const SHOWN_VALUES = 6;
const KINDS = {
  none: "the executions that say nothing of it",
  list: "those that say a list or an object, which is never split",
  other: "of each day, all values but the 50 with the most executions, exact as a sum",
};
const keyOf = (row) => `${row.value_kind} ${row.value}`;
const nameOf = (row) => (row.value_kind === "value" ? row.value : h("em", {}, row.value));
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
  const window = { agent_id: id, start_date: period.first, end_date: period.last };
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
    h(
      "div",
      { class: "under" },
      csvLink({
        path: "activity",
        parameters: { group_by: dimension, ...window },
        name: `${id}-${dimension}.csv`,
      }),
    ),
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
  return sortableTable({
    id: "values",
    label: `Values of ${dimension}`,
    noun: "value",
    rows,
    columns: [
      { key: "value", name: dimension, cell: (row) => h("th", { scope: "row" }, nameOf(row)) },
      { key: "share", name: "Share", isUnsorted: true, cell: share },
      ...figureColumns(),
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
        cell: (row) => h("td", { class: "note" }, countsInWords(row.error_distribution, 2)),
      },
    ],
    keyOf,
    textOf: (row) => row.value,
    sort: "-total_executions",
    query,
  }).element;
}

function shareChart(rows, parts, { by, days, states }, dimension, window) {
  const series = Map.groupBy(parts, keyOf);
  const counts = new Map(
    rows.map((row) => [
      keyOf(row),
      rowsOf(days, series.get(keyOf(row)) ?? []).map((each) => each?.total_executions ?? 0),
    ]),
  );
  const totals = days.map((_, index) => rows.reduce((all, row) => all + counts.get(keyOf(row))[index], 0));
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
    by,
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
      path: "activity",
      parameters: { group_by: `${dimension},${by}`, ...window },
      name: `${dimension}-by-${by}.csv`,
    },
    tall: true,
  });
}
