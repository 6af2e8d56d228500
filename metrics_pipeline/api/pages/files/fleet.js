// All agents over a period: totals, a table that can be sorted and searched, cost and executions by day, error types.

import { openAlerts } from "./alerts.js";
import { address, get, isLogged, Problem } from "./api.js";
import { dayChart, linear, sparkline, swatch, underChart } from "./charts.js";
import { h, s } from "./dom.js";
import { instant, money, moneyAxis, moneyChange, percent, pointsChange, short, sum, whole } from "./format.js";
import {
  agentLink,
  comparisonNote,
  dayNotice,
  figureCards,
  OF_DISTRIBUTIONS,
  periodForm,
  periodNote,
  periodOf,
  SUMS,
  value,
} from "./parts.js";
import { coverageOf, drawnBy, drawnDays } from "./states.js";
import { figureColumn, intervalColumn, sortableTable } from "./table.js";

/** When the browser has drawn what is in the document; at once in a hidden tab, which draws nothing. */
const drawn = () => new Promise((done) => (document.hidden ? done() : requestAnimationFrame(() => setTimeout(done))));

const SHOWN_AGENTS = 7;
const RETIRED = "retired";

/** Somebody retired the agent on purpose, so the checks leave it out. The search finds the word. */
const retiredMark = ({ acknowledged_at: since, acknowledged_reason: reason }) =>
  h("span", { class: "mark", title: `Acknowledged ${instant(since)}: ${reason}` }, RETIRED);

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
  const [rows, [total], agents, alerts] = await Promise.all([
    get("activity", { group_by: "agent", fields: SUMS, limit: 10_000, ...window }),
    get("activity", { fields: SUMS, ...window }),
    get("agents", { limit: 1000 }),
    get("alerts", { limit: 1000 }),
  ]);
  const notice = h("div", { role: "status" }, h("p", { class: "note" }, "Looking at the state of each day …"));
  const head = [
    h("h1", {}, "Fleet"),
    periodForm(period, info, {}),
    periodNote(period, info),
    notice,
    openAlerts(alerts, period),
  ];
  if (!total) {
    notice.replaceChildren(dayNotice(await coverageOf(period, info), period));
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
  const retired = new Map(agents.filter((each) => each.acknowledged_at).map((each) => [each.agent_id, each]));
  const by = drawnBy(period);
  let sparkOf = () => "…";
  const columns = [
    {
      key: "agent_id",
      name: "Agent",
      cell: ({ agent_id: id }) =>
        h(
          "th",
          { scope: "row" },
          agentLink(id, period),
          // Below the id, of which a long one is cut off.
          (names.has(id) || retired.has(id)) &&
            h("span", { class: "name" }, retired.has(id) && retiredMark(retired.get(id)), names.get(id)),
        ),
    },
    {
      key: "spark",
      name: `By ${by}`,
      isUnsorted: true,
      isText: true,
      cell: (row) => h("td", { class: "sparks" }, sparkOf(row.agent_id)),
    },
    figureColumn("total_executions"),
    figureColumn("success_rate"),
    intervalColumn,
    figureColumn("success_rate", pointsChange),
    figureColumn("p50_latency_ms"),
    figureColumn("p95_latency_ms"),
    figureColumn("p99_latency_ms"),
    figureColumn("unique_users"),
    figureColumn("total_cost_usd"),
    figureColumn("total_cost_usd", moneyChange),
    figureColumn("cost_per_unassisted_success"),
    figureColumn("human_interventions"),
  ];
  const table = sortableTable({
    id: "agents",
    label: "Agents",
    noun: "agent",
    rows,
    columns,
    keyOf: (row) => row.agent_id,
    textOf: ({ agent_id: id }) => `${id} ${names.get(id) ?? ""} ${retired.has(id) ? RETIRED : ""}`,
    sort: "-total_executions",
    query,
  });
  const cards = figureCards();
  cards.fill(total);
  const note = h("p", { class: "note" }, " ");
  const charts = h("section", { class: "charts" });
  main.replaceChildren(
    ...head,
    cards.element,
    note,
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
  await drawn();

  // What takes longer follows, in the order in which people read: the states of the days, for which the server adds up
  // every stored row again, the changes, the days of every agent, and last the percentiles and users, which are
  // computed from distributions.
  const compared = { compare: "previous", ...window };
  const states = coverageOf(period, info).then((coverage) => {
    notice.replaceChildren(dayNotice(coverage, period));
    return drawnDays(period, coverage, info);
  });
  const changes = Promise.all([
    get("activity", { ...compared, fields: SUMS }).then(([row]) => {
      cards.fill(row);
      note.textContent = comparisonNote(row) || " ";
    }),
    get("activity", { ...compared, group_by: "agent", fields: "success_rate,total_cost_usd", limit: 10_000 }).then(
      table.fill,
    ),
  ]);
  const [parts, errors, drawnPeriod] = await Promise.all([
    get("activity", {
      group_by: `agent,${by}`,
      fields: "total_executions,failed_executions,total_cost_usd",
      limit: 10_000,
      ...window,
    }),
    get("activity", { group_by: "error_type", limit: 10_000, ...window }),
    states,
    changes,
  ]);
  const { days } = drawnPeriod;
  const place = new Map(days.map((each, index) => [each, index]));
  const series = new Map(rows.map((row) => [row.agent_id, days.map(() => null)]));
  for (const row of parts) series.get(row.agent_id)[place.get(row.metric_date ?? row.week)] = row;
  sparkOf = (id) => sparkline(days, series.get(id));
  table.show();
  charts.replaceChildren(
    isLogged("total_cost_usd") ? costChart(rows, series, drawnPeriod, window) : "",
    executionsChart(rows, series, drawnPeriod, window),
    errorTable(errors, total.failed_executions, csv("errors.csv", { group_by: "error_type", ...window })),
  );

  try {
    table.fill(await get("activity", { group_by: "agent", fields: OF_DISTRIBUTIONS, limit: 10_000, ...window }));
    const [row] = await get("activity", { ...compared, fields: OF_DISTRIBUTIONS });
    cards.fill(row);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    table.fail();
    cards.fail(error.message);
  }
}

const csv = (name, parameters) =>
  underChart(() => "", { href: address("activity", { ...parameters, limit: 10_000, format: "csv" }), name }).lastChild;

function costChart(rows, series, { by, days, states }, window) {
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
  const totals = days.map((_, at) => {
    const stored = groups.map(({ texts }) => texts[at]).filter((text) => text !== null);
    return stored.length ? sum(stored) : null;
  });
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

function executionsChart(rows, series, { by, days, states }, window) {
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
