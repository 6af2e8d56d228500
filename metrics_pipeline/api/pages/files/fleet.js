// All agents over a period: totals, a table that can be sorted and searched, cost and executions by day, error types.

import { address, get, Problem } from "./api.js";
import { dayChart, linear, sparkline, swatch, underChart } from "./charts.js";
import { h, s } from "./dom.js";
import {
  addDays,
  daysBetween,
  money,
  moneyAxis,
  moneyChange,
  NONE,
  percent,
  pointsChange,
  short,
  sum,
  unitMoney,
  unitMoneyChange,
  whole,
  wholeChange,
} from "./format.js";
import {
  agentLink,
  cards,
  changed,
  comparisonNote,
  dayNotice,
  inexact,
  periodForm,
  periodNote,
  periodOf,
  value,
} from "./parts.js";
import { isDoubtful, stateOf, statesOf } from "./states.js";

const SUMS = [
  "total_executions",
  "successful_executions",
  "failed_executions",
  "success_rate",
  "success_rate_low",
  "success_rate_high",
  "total_cost_usd",
  "cost_per_unassisted_success",
  "human_interventions",
  "days_stored",
].join();
const OF_DISTRIBUTIONS = [
  "p50_latency_ms",
  "p95_latency_ms",
  "p99_latency_ms",
  "unique_users",
  "is_exact",
  "latency_error",
  "unique_users_error",
  "days_without_distribution",
].join();
/** The largest number of days that are drawn one by one for each agent; a longer period is drawn by week. */
const BY_DAY = 92;
const SHOWN_AGENTS = 7;
/** The rows of the table before somebody asks for all of them: laying out 500 took a second. */
const AT_FIRST = 50;
const PERCENTILES = ["p50_latency_ms", "p95_latency_ms", "p99_latency_ms"];

const interval = (row) =>
  row.success_rate_low && `${percent(row.success_rate_low)} – ${percent(row.success_rate_high)}`;

const COLUMNS = [
  { key: "agent_id", name: "Agent" },
  { key: "spark", name: "By day", unsorted: true },
  { key: "total_executions", name: "Executions", write: whole },
  { key: "success_rate", name: "Success rate", write: percent },
  { key: "interval", name: "95 % interval", unsorted: true },
  {
    key: "change.success_rate",
    name: "Change",
    write: pointsChange,
    title: "Change of the success rate, in percentage points",
  },
  { key: "p50_latency_ms", name: "p50 ms", write: whole, late: true },
  { key: "p95_latency_ms", name: "p95 ms", write: whole, late: true },
  { key: "p99_latency_ms", name: "p99 ms", write: whole, late: true },
  { key: "unique_users", name: "Users", write: whole, late: true },
  { key: "total_cost_usd", name: "Cost", write: money },
  { key: "change.total_cost_usd", name: "Change", write: moneyChange, title: "Change of the cost" },
  { key: "cost_per_unassisted_success", name: "Per unassisted success", write: unitMoney },
  { key: "human_interventions", name: "Interventions", write: whole },
];

const pick = (row, key) => key.split(".").reduce((object, name) => object?.[name], row);

/** The table of the agents. Its state is in the URL, so that a link shows the same rows in the same order. */
function agentTable(rows, names, period, query) {
  let sorted = query.get("sort") ?? "-total_executions";
  let isWhole = false;
  let sparkOf = () => "…";
  let absent = "…";
  const remember = (name, text) => {
    const now = new URLSearchParams(location.search);
    if (text) now.set(name, text);
    else now.delete(name);
    history.replaceState(null, "", `?${now}`);
  };
  const sortBy = (key) => {
    sorted = sorted === `-${key}` ? key : `-${key}`;
    remember("sort", sorted);
    show();
  };
  const heads = COLUMNS.map(({ key, name, title, unsorted }) =>
    h(
      "th",
      { scope: "col", class: key !== "agent_id" && "number" },
      unsorted ? name : h("button", { type: "button", title, click: () => sortBy(key) }, name),
    ),
  );
  const body = h("tbody");
  const count = h("output", { class: "note" });
  const more = h("button", {
    type: "button",
    click: () => {
      isWhole = true;
      show();
    },
  });
  const box = h("input", {
    type: "search",
    value: query.get("q") ?? "",
    input: () => {
      remember("q", box.value);
      show();
    },
  });

  const cell = (row, { key, write, late }) => {
    if (key === "agent_id")
      return h(
        "th",
        { scope: "row" },
        agentLink(row.agent_id, period),
        names.has(row.agent_id) && h("span", { class: "name" }, names.get(row.agent_id)),
      );
    if (key === "interval") return h("td", { class: "number note" }, interval(row) ?? NONE);
    if (key === "spark") return h("td", {}, sparkOf(row.agent_id));
    if (late && !("is_exact" in row)) return h("td", { class: "number" }, absent);
    const raw = pick(row, key);
    const why = late && inexact(row);
    return h("td", { class: "number" }, value(raw, (why && raw !== null ? "≈ " : "") + write(raw), why || undefined));
  };
  function show() {
    const key = sorted.replace(/^-/, "");
    const sign = sorted.startsWith("-") ? -1 : 1;
    const wanted = box.value.trim().toLowerCase();
    const found = rows.filter(({ agent_id: id }) => `${id} ${names.get(id) ?? ""}`.toLowerCase().includes(wanted));
    found.sort((one, other) => {
      const [left, right] = [one, other].map((row) => pick(row, key) ?? null);
      if (left === null || right === null) return (left === null) - (right === null);
      return sign * (key === "agent_id" ? left.localeCompare(right) : left - right);
    });
    const shown = isWhole ? found : found.slice(0, AT_FIRST);
    body.replaceChildren(
      ...shown.map((row) =>
        h(
          "tr",
          {},
          COLUMNS.map((column) => cell(row, column)),
        ),
      ),
    );
    heads.forEach((head, index) => {
      if (COLUMNS[index].key === key) head.setAttribute("aria-sort", sign < 0 ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    count.textContent =
      found.length === rows.length ? `${rows.length} agents` : `${found.length} of ${rows.length} agents`;
    more.hidden = shown.length === found.length;
    more.textContent = `Show all ${found.length}`;
  }
  show();
  return {
    element: [
      h("p", { class: "tools" }, h("label", {}, "Find an agent ", box), count),
      h(
        "div",
        { class: "scroll tall" },
        h("table", { id: "agents" }, h("thead", {}, h("tr", {}, heads)), body),
        h("p", { class: "more" }, more),
      ),
    ],
    spark: (of) => {
      sparkOf = of;
      show();
    },
    fill: (late) => {
      const byAgent = new Map(late.map((row) => [row.agent_id, row]));
      for (const row of rows) Object.assign(row, byAgent.get(row.agent_id));
      show();
    },
    fail: () => {
      absent = NONE;
      show();
    },
  };
}

/** The state of a week is that of its most doubtful day. */
function weekStates(coverage, info) {
  const weeks = new Map();
  for (const row of coverage) {
    const monday = mondayOf(row.metric_date);
    if (!weeks.has(monday) || isDoubtful(stateOf(statesOf([row], info), row.metric_date)))
      weeks.set(monday, { ...row, metric_date: monday, reason: `${row.metric_date}: ${row.reason}` });
  }
  return { days: weeks, info };
}
const mondayOf = (iso) => addDays(iso, -((new Date(iso).getUTCDay() + 6) % 7));

function errorTable(errors, failed, csv) {
  const rows = errors.toSorted((left, right) => right.failed_executions - left.failed_executions);
  const largest = rows[0]?.failed_executions ?? 1;
  return h(
    "figure",
    { class: "chart" },
    h("figcaption", {}, h("h3", {}, "Failed executions by error type")),
    rows.length === 0
      ? h("p", { class: "note" }, "No execution failed.")
      : h(
          "div",
          { class: "scroll errors" },
          h(
            "table",
            {},
            h(
              "thead",
              {},
              h(
                "tr",
                {},
                ["Error type", "Failed", "Share", ""].map((name, index) =>
                  h("th", { scope: "col", class: index ? "number" : "" }, name),
                ),
              ),
            ),
            h(
              "tbody",
              {},
              rows.map((row) =>
                h(
                  "tr",
                  {},
                  h("th", { scope: "row" }, row.error_type),
                  h("td", { class: "number" }, value(row.failed_executions, whole(row.failed_executions))),
                  h("td", { class: "number" }, percent(row.failed_executions / failed)),
                  h(
                    "td",
                    {},
                    s(
                      "svg",
                      { width: 120, height: 10, "aria-hidden": "true" },
                      s("rect", {
                        class: "bar failed",
                        height: 10,
                        width: Math.max(1, (120 * row.failed_executions) / largest),
                      }),
                    ),
                  ),
                ),
              ),
            ),
          ),
        ),
    h("div", { class: "under" }, h("span", {}), csv),
  );
}

export async function fleet(main, query, info) {
  document.title = "Fleet · metrics_pipeline";
  const period = periodOf(query, info);
  const window = { start_date: period.first, end_date: period.last };
  const [rows, [total], coverage, agents] = await Promise.all([
    get("activity", { group_by: "agent", compare: "previous", fields: SUMS, limit: 10_000, ...window }),
    get("activity", { compare: "previous", fields: SUMS, ...window }),
    coverageOf(period, info),
    get("agents", { limit: 1000 }),
  ]);
  const head = [
    h("h1", {}, "Fleet"),
    periodForm(period, info, {}),
    periodNote(period, info),
    dayNotice(coverage, period),
  ].filter(Boolean);
  if (!total) {
    main.replaceChildren(
      ...head,
      h(
        "p",
        { class: "notice" },
        "No day of this period is stored, so there is no number to show. ",
        h("a", { href: "?days" }, "The days"),
        " say why.",
      ),
    );
    return;
  }
  const plain = (text) => text.toLowerCase().replaceAll(/[^a-z0-9]/g, "");
  const names = new Map(
    agents
      .filter(({ agent_id: id, name }) => name && !plain(id).startsWith(plain(name)))
      .map(({ agent_id: id, name }) => [id, name]),
  );
  const table = agentTable(rows, names, period, query);
  const charts = h("section", { class: "charts" });
  main.replaceChildren(
    ...head,
    figures(total),
    comparisonNote(total) ?? "",
    h(
      "section",
      {},
      h("h2", {}, "Agents"),
      table.element,
      h(
        "div",
        { class: "under" },
        h(
          "span",
          { class: "note" },
          swatch("good"),
          " executions that did not fail ",
          swatch("failed"),
          " failed; each agent has its own scale",
        ),
        csv("agents.csv", { group_by: "agent", compare: "previous", ...window }),
      ),
    ),
    charts,
  );
  document.documentElement.dataset.ready = "sums";

  // What takes longer follows: the days of every agent, then the percentiles and users, which are computed from distributions.
  const by = period.length > BY_DAY ? "week" : "day";
  const [parts, errors] = await Promise.all([
    get("activity", {
      group_by: `agent,${by}`,
      fields: "total_executions,failed_executions,total_cost_usd",
      limit: 10_000,
      ...window,
    }),
    get("activity", { group_by: "error_type", limit: 10_000, ...window }),
  ]);
  const days = [...new Set(daysBetween(period.first, period.last).map(by === "day" ? String : mondayOf))];
  const states = by === "day" ? statesOf(coverage, info) : weekStates(coverage, info);
  const place = new Map(days.map((each, index) => [each, index]));
  const series = new Map(rows.map((row) => [row.agent_id, days.map(() => null)]));
  for (const row of parts) series.get(row.agent_id)[place.get(row.metric_date ?? row.week)] = row;
  table.spark((id) => sparkline(days, series.get(id)));
  charts.replaceChildren(
    costChart(rows, series, days, states, by, window),
    executionsChart(rows, series, days, states, by, window),
    errorTable(errors, total.failed_executions, csv("errors.csv", { group_by: "error_type", ...window })),
  );

  const late = { fields: OF_DISTRIBUTIONS, limit: 10_000, ...window };
  try {
    table.fill(await get("activity", { group_by: "agent", ...late }));
    lateFigures((await get("activity", { compare: "previous", ...late }))[0]);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    table.fail();
    for (const id of ["latency", "users"])
      document.querySelector(`#${id} dd`).replaceChildren(h("span", { class: "note" }, error.message));
  }
}

function figures(total) {
  const late = { raw: null, text: "…" };
  return cards([
    {
      label: "Executions",
      raw: total.total_executions,
      text: whole(total.total_executions),
      change: changed(total, "total_executions", wholeChange),
    },
    {
      label: "Success rate",
      raw: total.success_rate,
      text: percent(total.success_rate),
      more: `95 %: ${interval(total) ?? NONE}`,
      change: changed(total, "success_rate", pointsChange),
    },
    {
      label: "Cost",
      raw: total.total_cost_usd,
      text: money(total.total_cost_usd),
      change: changed(total, "total_cost_usd", moneyChange),
    },
    {
      label: "Cost per unassisted success",
      raw: total.cost_per_unassisted_success,
      text: unitMoney(total.cost_per_unassisted_success),
      change: changed(total, "cost_per_unassisted_success", unitMoneyChange),
    },
    {
      label: "Human interventions",
      raw: total.human_interventions,
      text: whole(total.human_interventions),
      change: changed(total, "human_interventions", wholeChange),
    },
    { label: "Users", id: "users", ...late },
    { label: "Latency p50 · p95 · p99", id: "latency", ...late },
  ]);
}

function lateFigures(row) {
  const why = inexact(row);
  const mark = why ? "≈ " : "";
  document
    .querySelector("#latency dd")
    .replaceChildren(
      ...PERCENTILES.flatMap((name, index) => [index ? " · " : mark, value(row[name], whole(row[name]))]),
      " ms",
    );
  document.querySelector("#latency").append(
    h("dd", { class: "more" }, why ?? "of all executions together"),
    h(
      "dd",
      { class: "more" },
      "p95 ",
      changed(row, "p95_latency_ms", (each) => `${wholeChange(each)} ms`),
    ),
  );
  document.querySelector("#users dd").replaceChildren(mark, value(row.unique_users, whole(row.unique_users)));
  document.querySelector("#users").append(h("dd", { class: "more" }, changed(row, "unique_users", wholeChange)));
}

const csv = (name, parameters) =>
  underChart(() => "", { href: address("activity", { ...parameters, limit: 10_000, format: "csv" }), name }).lastChild;

/** GET /api/v1/coverage of the part of the period in which days can have a state. */
export async function coverageOf({ first, last }, info) {
  const from = first < info.start_date ? info.start_date : first;
  return from > last ? [] : get("coverage", { start_date: from, end_date: last });
}

function costChart(rows, series, days, states, by, window) {
  const sorted = rows.toSorted((left, right) => right.total_cost_usd - left.total_cost_usd);
  const [shown, rest] = [sorted.slice(0, SHOWN_AGENTS), sorted.slice(SHOWN_AGENTS)];
  const cost = (list, index) => {
    const found = list.map((row) => series.get(row.agent_id)[index]).filter(Boolean);
    return found.length ? sum(found.map((each) => each.total_cost_usd)) : null;
  };
  const groups = shown.map((row, index) => ({
    name: row.agent_id,
    kind: `c${index}`,
    texts: days.map((_, at) => cost([row], at)),
  }));
  if (rest.length)
    groups.push({ name: `${rest.length} others`, kind: "others", texts: days.map((_, at) => cost(rest, at)) });
  const totals = days.map((_, at) => cost(rows, at));
  const number = (text) => (text === null ? null : Number(text));
  return dayChart({
    title: `Cost by agent and ${by}`,
    unit: "USD",
    days,
    states,
    axis: linear(totals.map(number)),
    write: moneyAxis,
    legend: groups,
    layers: [{ type: "bars", parts: groups.map(({ texts, kind }) => ({ values: texts.map(number), kind })) }],
    read: (index) =>
      totals[index] === null
        ? "not stored"
        : `${money(totals[index])}; ${groups
            .slice(0, 3)
            .map(({ name, texts }) => `${name} ${money(texts[index])}`)
            .join(", ")}`,
    columns: {
      "All agents": (index) => totals[index],
      ...Object.fromEntries(groups.map(({ name, texts }) => [name, (index) => texts[index]])),
    },
    csv: {
      href: address("activity", { group_by: `agent,${by}`, limit: 10_000, format: "csv", ...window }),
      name: "cost.csv",
    },
    tall: true,
  });
}

function executionsChart(rows, series, days, states, by, window) {
  const count = (name) =>
    days.map((_, index) => {
      const found = rows.map((row) => series.get(row.agent_id)[index]).filter(Boolean);
      return found.length ? found.reduce((total, row) => total + row[name], 0) : null;
    });
  const [total, failed] = [count("total_executions"), count("failed_executions")];
  const others = total.map((each, index) => (each === null ? null : each - failed[index]));
  return dayChart({
    title: `Executions by ${by}`,
    unit: "executions",
    days,
    states,
    axis: linear(total),
    write: short,
    legend: [
      { kind: "good", name: "not failed" },
      { kind: "failed", name: "failed" },
    ],
    layers: [
      {
        type: "bars",
        parts: [
          { values: others, kind: "good" },
          { values: failed, kind: "failed" },
        ],
      },
    ],
    read: (index) =>
      total[index] === null ? "not stored" : `${whole(total[index])} executions, ${whole(failed[index])} failed`,
    columns: { Executions: (index) => total[index], Failed: (index) => failed[index] },
    csv: {
      href: address("activity", { group_by: by, limit: 10_000, format: "csv", ...window }),
      name: "executions.csv",
    },
  });
}
