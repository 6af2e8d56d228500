// All agents over a period: totals, a table that can be sorted and searched, cost and executions by day, error types.

import { openAlerts } from "./alerts.js";
import { csvLink, get } from "./api.js";
import { dayChart, executionsChart, linear, sparkline, swatch } from "./charts.js";
import { fill, h, s, table } from "./dom.js";
import { counted, instant, money, moneyAxis, percent, sum, whole } from "./format.js";
import {
  agentLink,
  dayNotice,
  figureCards,
  OF_DISTRIBUTIONS,
  periodForm,
  periodNote,
  periodOf,
  SUMS,
  value,
} from "./parts.js";
import { coverageOf, drawnBy, drawnDays, rowsOf } from "./states.js";
import { figureColumns, sortableTable } from "./table.js";

/** When the browser has drawn what is in the document; at once in a hidden tab, which draws nothing. */
const drawn = () => new Promise((done) => (document.hidden ? done() : requestAnimationFrame(() => setTimeout(done))));

const SHOWN_AGENTS = 7;
const RETIRED = "retired";

/** Somebody retired the agent on purpose, so the checks leave it out. The search finds the word. */
const retiredMark = ({ acknowledged_at: since, acknowledged_reason: reason }) =>
  h("span", { class: "mark", title: `Acknowledged ${instant(since)}: ${reason}` }, RETIRED);

export async function fleet(main, query, info) {
  document.title = "Fleet · metrics_pipeline";
  const period = periodOf(query, info);
  const window = { start_date: period.first, end_date: period.last };
  const [rows, [total], agents, alerts] = await Promise.all([
    get("activity", { group_by: "agent", fields: SUMS, ...window }),
    get("activity", { fields: SUMS, ...window }),
    get("agents"),
    get("alerts"),
  ]);
  const notice = h("div", { role: "status" }, h("p", { class: "notice calm" }, "Looking at the state of each day …"));
  const head = [
    h("h1", {}, "Fleet"),
    periodForm(period, info, {}),
    periodNote(period, info, total),
    notice,
    openAlerts(alerts, period),
  ];
  if (!total) {
    notice.replaceChildren(dayNotice(await coverageOf(period, info), period));
    fill(
      main,
      head,
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
  const by = drawnBy(period);
  const sparks = new Map();
  const agentTable = tableOfAgents({ rows, agents, period, by, sparks, query });
  const cards = figureCards();
  cards.fill(total);
  const charts = h("div", { class: "later" });
  fill(
    main,
    head,
    cards.element,
    h(
      "section",
      {},
      h("h2", {}, "Agents"),
      agentTable.element,
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
        csvLink({
          path: "activity",
          parameters: { group_by: "agent", compare: "previous", ...window },
          name: "agents.csv",
        }),
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
  let areDaysKnown = false;
  try {
    const states = coverageOf(period, info).then((coverage) => {
      notice.replaceChildren(dayNotice(coverage, period));
      areDaysKnown = true;
      return drawnDays(period, coverage, info);
    });
    const changes = Promise.all([
      get("activity", { ...compared, fields: SUMS }).then(([row]) => cards.fill(row)),
      get("activity", { ...compared, group_by: "agent", fields: "success_rate,total_cost_usd" }).then(agentTable.fill),
    ]);
    const [parts, errors, drawnPeriod] = await Promise.all([
      get("activity", {
        group_by: `agent,${by}`,
        fields: "total_executions,successful_executions,failed_executions,total_cost_usd",
        ...window,
      }),
      get("activity", { group_by: "error_type", ...window }),
      states,
      changes,
    ]);
    const { days } = drawnPeriod;
    const series = new Map([...Map.groupBy(parts, keyOf)].map(([id, ofAgent]) => [id, rowsOf(days, ofAgent)]));
    for (const [id, ofAgent] of series) sparks.set(id, sparkline(days, ofAgent));
    agentTable.show();
    fill(
      charts,
      total.total_cost_usd !== null && h("section", { class: "charts" }, costChart(rows, series, drawnPeriod, window)),
      h(
        "section",
        { class: "charts" },
        executions(series, drawnPeriod, window),
        errorTable(errors, total.failed_executions, window),
      ),
    );
    agentTable.fill(await get("activity", { group_by: "agent", fields: OF_DISTRIBUTIONS, ...window }));
    const [row] = await get("activity", { ...compared, fields: OF_DISTRIBUTIONS });
    cards.fill(row);
  } catch (error) {
    // What is shown stays, and says what has not come. The page says why.
    agentTable.fail();
    cards.fail();
    if (!charts.hasChildNodes()) charts.remove();
    if (!areDaysKnown)
      notice.replaceChildren(h("p", { class: "notice calm" }, "The states of the days are not known."));
    throw error;
  }
}

const keyOf = (row) => row.agent_id;

function tableOfAgents({ rows, agents, period, by, sparks, query }) {
  const plain = (text) => text.toLowerCase().replaceAll(/[^a-z0-9]/g, "");
  const names = new Map(
    agents
      .filter(({ agent_id: id, name }) => name && !plain(id).startsWith(plain(name)))
      .map(({ agent_id: id, name }) => [id, name]),
  );
  const retired = new Map(agents.filter((each) => each.acknowledged_at).map((each) => [each.agent_id, each]));
  return sortableTable({
    id: "agents",
    label: "Agents",
    noun: "agent",
    rows,
    columns: [
      {
        key: "agent_id",
        name: "Agent",
        cell: ({ agent_id: id }) =>
          h(
            "th",
            { scope: "row", title: id },
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
        cell: ({ agent_id: id }, absent) => h("td", { class: "sparks" }, sparks.get(id) ?? absent),
      },
      ...figureColumns("success_rate", "total_cost_usd"),
    ],
    keyOf,
    textOf: ({ agent_id: id }) => `${id} ${names.get(id) ?? ""} ${retired.has(id) ? RETIRED : ""}`,
    sort: "-total_executions",
    query,
  });
}

function costChart(rows, series, { by, days, states }, window) {
  const sorted = rows.toSorted((left, right) => right.total_cost_usd - left.total_cost_usd);
  const [shown, rest] = [sorted.slice(0, SHOWN_AGENTS), sorted.slice(SHOWN_AGENTS)];
  const cost = (list) =>
    days.map((_, index) => {
      const found = list.map((row) => series.get(row.agent_id)[index]?.total_cost_usd ?? null);
      const known = found.filter((each) => each !== null);
      return known.length ? sum(known) : null;
    });
  const groups = shown.map((row, index) => ({ name: row.agent_id, kind: `c${index}`, texts: cost([row]) }));
  if (rest.length) groups.push({ name: counted(rest.length, "other"), kind: "others", texts: cost(rest) });
  const totals = cost(rows);
  const numbers = (texts) => texts.map((text) => (text === null ? null : Number(text)));
  return dayChart({
    title: `Cost by agent and ${by}`,
    unit: "USD",
    by,
    days,
    states,
    axis: linear(numbers(totals)),
    write: moneyAxis,
    legend: groups,
    layers: [{ type: "bars", parts: groups.map(({ texts, kind }) => ({ values: numbers(texts), kind })) }],
    read: (index) =>
      totals[index] === null
        ? rows.some((row) => series.get(row.agent_id)[index])
          ? "not known"
          : "not stored"
        : `${money(totals[index])}; ${groups
            .slice(0, 3)
            .map(({ name, texts }) => `${name} ${money(texts[index])}`)
            .join(", ")}`,
    columns: {
      "All agents": (index) => totals[index],
      ...Object.fromEntries(groups.map(({ name, texts }) => [name, (index) => texts[index]])),
    },
    csv: { path: "activity", parameters: { group_by: `agent,${by}`, ...window }, name: "cost.csv" },
    tall: true,
  });
}

function executions(series, { by, days, states }, window) {
  const counts = ["total_executions", "successful_executions", "failed_executions"];
  const rows = days.map((_, index) => {
    const found = [...series.values()].map((ofAgent) => ofAgent[index]).filter(Boolean);
    const add = (name) => found.reduce((total, row) => total + row[name], 0);
    return found.length ? Object.fromEntries(counts.map((name) => [name, add(name)])) : null;
  });
  return executionsChart({
    title: `Executions by ${by}`,
    by,
    days,
    states,
    rows,
    read: (index) =>
      rows[index] === null
        ? "not stored"
        : `${counted(rows[index].total_executions, "execution")}, ${whole(rows[index].failed_executions)} failed`,
    csv: { path: "activity", parameters: { group_by: by, ...window }, name: "executions.csv" },
  });
}

function errorTable(errors, failed, window) {
  const rows = errors.toSorted((left, right) => right.failed_executions - left.failed_executions);
  const bar = (count) =>
    s(
      "svg",
      { class: "length", viewBox: "0 0 100 10", preserveAspectRatio: "none", height: 10, "aria-hidden": "true" },
      s("rect", {
        class: "bar failed",
        height: 10,
        width: Math.max(1, (100 * count) / rows[0].failed_executions),
      }),
    );
  return h(
    "figure",
    { class: "chart" },
    h("figcaption", {}, h("h3", {}, "Failed executions by error type")),
    rows.length === 0
      ? h("p", { class: "note" }, "No execution failed.")
      : table({
          names: ["Error type", "Failed", "Share", "Compared"],
          numbers: [1, 2],
          rows: rows.map(({ error_type: type, failed_executions: count }) => [
            type,
            value(count, whole(count)),
            percent(count / failed),
            bar(count),
          ]),
        }),
    h(
      "div",
      { class: "under" },
      csvLink({ path: "activity", parameters: { group_by: "error_type", ...window }, name: "errors.csv" }),
    ),
  );
}
