// The state of every day of a year, and one day: which logs are in its metrics, by which run, and that none is lost.

import { csvLink, get } from "./api.js";
import { underChart } from "./charts.js";
import { fill, h, table } from "./dom.js";
import {
  addDays,
  counted,
  day,
  dayOrNull,
  daysBetween,
  dayWithWeekday,
  instant,
  inWords,
  month,
  NONE,
  percent,
  whole,
} from "./format.js";
import { agentLink, restatementTable, run, value } from "./parts.js";
import { coverageOf, describe, isDoubtful, NAMES, stateOf, statesOf } from "./states.js";
import { figureColumns, sortableTable } from "./table.js";

export async function calendar(main, query, info) {
  const newest = Number(info.newest_whole_day.slice(0, 4));
  const year = /^\d{4}$/.test(query.get("days")) ? Number(query.get("days")) : newest;
  document.title = `Days of ${year} · metrics_pipeline`;
  const bounds = { first: `${year}-01-01`, last: `${year}-12-31` };
  const known = {
    first: bounds.first,
    last: bounds.last < info.newest_whole_day ? bounds.last : info.newest_whole_day,
  };
  const coverage = await coverageOf(known, info);
  const states = statesOf(coverage, info);
  const days = daysBetween(bounds.first, bounds.last);
  const counts = Map.groupBy(days, (each) => stateOf(states, each).name);
  const link = (to, name) => h("a", { href: `?days=${to}`, rel: to < year ? "prev" : "next" }, name);
  const faults = alike(coverage.filter((row) => isDoubtful(describe(row.state))));
  fill(
    main,
    h("h1", {}, `Days of ${year}`),
    h(
      "p",
      { class: "tools" },
      year > Number(info.start_date.slice(0, 4)) && link(year - 1, `← ${year - 1}`),
      " ",
      year < newest && link(year + 1, `${year + 1} →`),
    ),
    h("p", { class: "note" }, `Each day of ${info.time_zone} as its logs were last looked at.`),
    h(
      "ul",
      { class: "states" },
      NAMES.filter((name) => counts.has(name)).map((name) =>
        h(
          "li",
          {},
          h("span", { class: `day ${name}`, "aria-hidden": "true" }, describe(name).sign),
          h("strong", {}, `${counts.get(name).length} ${inWords(name)}`),
          ` ${describe(name).meaning}`,
        ),
      ),
    ),
    h(
      "div",
      { class: "year" },
      [...Map.groupBy(days, (each) => each.slice(0, 7)).values()].map((ofMonth) => monthGrid(ofMonth, states)),
    ),
    h(
      "section",
      {},
      h("h2", {}, "Days that need a look"),
      faults.length === 0
        ? h("p", { class: "note" }, "None.")
        : table({
            names: ["Day", "State", "Why"],
            rows: faults.map(({ row, last }) => [
              [
                h("a", { href: `?day=${row.metric_date}` }, row.metric_date),
                last !== row.metric_date && [" back to ", h("a", { href: `?day=${last}` }, last)],
              ],
              badge(row),
              row.reason,
            ]),
          }),
    ),
    coverage.length > 0 &&
      underChart(() => coverageTable(coverage, info), {
        path: "coverage",
        parameters: { start_date: coverage.at(-1).metric_date, end_date: coverage[0].metric_date },
        name: `days-${year}.csv`,
      }),
  );
}

/** Consecutive days with the same state and reason, newest first: half a year of missing days is one row. */
function alike(rows) {
  const found = [];
  for (const row of rows) {
    const latest = found.at(-1);
    if (
      latest?.row.state === row.state &&
      latest.row.reason === row.reason &&
      addDays(latest.last, -1) === row.metric_date
    )
      latest.last = row.metric_date;
    else found.push({ row, last: row.metric_date });
  }
  return found;
}

const badge = (row) => h("span", { class: `badge ${row.state}` }, describe(row.state).sign, " ", inWords(row.state));

function monthGrid(ofMonth, states) {
  const first = (new Date(ofMonth[0]).getUTCDay() + 6) % 7;
  return h(
    "section",
    { class: "month" },
    h("h2", {}, month(ofMonth[0])),
    h(
      "p",
      { class: "weekdays", "aria-hidden": "true" },
      ["M", "T", "W", "T", "F", "S", "S"].map((name) => h("span", {}, name)),
    ),
    h(
      "ol",
      {},
      ofMonth.map((each, index) => {
        const state = stateOf(states, each);
        const words = `${dayWithWeekday(each)}: ${inWords(state.name)}${state.reason ? `, ${state.reason}` : ""}${state.is_outdated ? ", older definition" : ""}`;
        const number = Number(each.slice(8));
        const inside = [h("span", { "aria-hidden": "true" }, number), h("b", { "aria-hidden": "true" }, state.sign)];
        const attributes = { class: `day ${state.name}`, title: words, "aria-label": words };
        return h(
          "li",
          { class: index === 0 && `start${first}` },
          state.reason
            ? h("a", { href: `?day=${each}`, ...attributes }, inside)
            : h("span", { role: "img", ...attributes }, inside),
        );
      }),
    ),
  );
}

const coverageTable = (coverage, info) =>
  table({
    names: ["Day", "State", "Logs read", "Aggregated", "Skipped", "Agents", "Stored", "Run"],
    numbers: [2, 3, 4, 5],
    rows: coverage.map((row) => [
      h("a", { href: `?day=${row.metric_date}` }, row.metric_date),
      inWords(row.state),
      whole(row.source_logs),
      whole(row.aggregated_logs),
      whole(row.skipped_logs),
      whole(row.agents),
      instant(row.aggregated_at),
      run(row.run_id, info),
    ]),
  });

/** What people may do about a day: words, and options of the command. */
const REMEDIES = {
  missing: ["To aggregate it now: ", ""],
  dirty: ["To aggregate it again now: ", ""],
  shrunk: ["Its metrics stay as they are. If what is gone was wrong: ", " --accept-deleted-logs"],
};

function remedy({ state, metric_date: iso }) {
  const [words, option] = REMEDIES[state];
  return h("p", { class: "note" }, words, h("code", {}, `metrics-pipeline aggregate --date ${iso}${option}`));
}

export async function oneDay(main, query, info) {
  const iso = dayOrNull(query.get("day")) ?? info.newest_whole_day;
  document.title = `${iso} · metrics_pipeline`;
  const ofDay = { start_date: iso, end_date: iso };
  const neighbours = h(
    "p",
    { class: "tools" },
    h("a", { href: `?day=${addDays(iso, -1)}`, rel: "prev" }, `← ${day(addDays(iso, -1))}`),
    " ",
    h("a", { href: `?day=${addDays(iso, 1)}`, rel: "next" }, `${day(addDays(iso, 1))} →`),
    " ",
    h("a", { href: `?days=${iso.slice(0, 4)}` }, `All days of ${iso.slice(0, 4)}`),
  );
  const [row] = iso > info.newest_whole_day || iso < info.start_date ? [] : await get("coverage", ofDay);
  if (!row) {
    fill(
      main,
      h("h1", {}, dayWithWeekday(iso)),
      neighbours,
      h(
        "p",
        { class: "notice" },
        iso < info.start_date
          ? `The first day of this pipeline is ${day(info.start_date)}.`
          : "This day is not over, so it has no metrics and is in no total.",
      ),
    );
    return;
  }
  const [agents, skipped, restated] = await Promise.all([
    get("activity", { group_by: "agent", ...ofDay }),
    row.skipped_logs > 0 ? get("skipped", { date: iso }) : [],
    get("restatements", ofDay),
  ]);
  const agentTable = sortableTable({
    id: "agents",
    label: "Agents",
    noun: "agent",
    rows: agents,
    columns: [
      {
        key: "agent_id",
        name: "Agent",
        cell: ({ agent_id: id }) => h("th", { scope: "row" }, agentLink(id, { first: addDays(iso, -29), last: iso })),
      },
      ...figureColumns(),
    ],
    keyOf: (each) => each.agent_id,
    textOf: (each) => each.agent_id,
    sort: "-total_executions",
    query,
  });
  fill(
    main,
    h("h1", {}, dayWithWeekday(iso)),
    neighbours,
    h(
      "p",
      { class: "verdict" },
      badge(row),
      " ",
      row.reason,
      row.is_outdated && "; stored under an older definition of the metrics",
    ),
    row.state in REMEDIES && remedy(row),
    h(
      "dl",
      { class: "facts" },
      [
        ...(row.aggregated_at ? factsOfStored(row, info) : []),
        ["Logs last read", row.verified_at ? instant(row.verified_at) : "not since it was stored"],
        ["State last confirmed", row.confirmed_at ? `${instant(row.confirmed_at)}, by ${row.judged_by}` : NONE],
      ].map(([name, text]) => h("div", {}, h("dt", {}, name), h("dd", {}, text))),
    ),
    row.aggregated_at && h("section", {}, h("h2", {}, "No log is lost"), proof(row, agents, skipped)),
    skipped.length > 0 && skippedTable(skipped, row, iso),
    agents.length > 0 &&
      h(
        "section",
        {},
        h("h2", {}, "Agents"),
        agentTable.element,
        h("p", { class: "under" }, csvLink({ path: "metrics", parameters: { date: iso }, name: `${iso}.csv` })),
      ),
    h("section", {}, h("h2", {}, "Replaced values"), restatementTable(restated, info, true)),
  );
}

const factsOfStored = (row, info) => [
  ["Logs read", value(row.source_logs, whole(row.source_logs))],
  ["Aggregated", value(row.aggregated_logs, whole(row.aggregated_logs))],
  ["Skipped", value(row.skipped_logs, whole(row.skipped_logs))],
  ["Agents with a row", value(row.agents, whole(row.agents))],
  ["Stored", [instant(row.aggregated_at), row.run_id && [" by run ", run(row.run_id, info)]]],
  ["Definition", row.definition_version],
];

function proof(row, agents, skipped) {
  if (row.state === "expired")
    return h("p", { class: "note" }, "The rows of this day were deleted, so only its counts are left.");
  const add = (rows, name) => rows.reduce((all, each) => all + each[name], 0);
  const errors = agents
    .flatMap((each) => Object.values(each.error_distribution))
    .reduce((all, count) => all + count, 0);
  const equations = [
    [
      "logs read",
      row.source_logs,
      "aggregated + skipped",
      row.aggregated_logs + row.skipped_logs,
      `${whole(row.aggregated_logs)} + ${whole(row.skipped_logs)}`,
    ],
    [
      "aggregated",
      row.aggregated_logs,
      `executions of ${counted(agents.length, "agent")}`,
      add(agents, "total_executions"),
    ],
    row.skipped_logs > 0 && ["skipped", row.skipped_logs, "logs of those who are named below", add(skipped, "logs")],
    ["failed executions", add(agents, "failed_executions"), "their error types", errors],
  ].filter(Boolean);
  return h(
    "ul",
    { class: "proof" },
    equations.map(([left, leftNumber, right, rightNumber, detail]) => {
      const holds = leftNumber === rightNumber;
      return h(
        "li",
        { class: holds ? "holds" : "fails" },
        h("b", {}, holds ? "✓" : "✗"),
        ` ${left} ${whole(leftNumber)} ${holds ? "=" : "≠"} ${right} ${whole(rightNumber)}`,
        detail && h("span", { class: "note" }, ` (${detail})`),
      );
    }),
  );
}

function skippedTable(skipped, row, iso) {
  const who = { agent: ({ agent_id: id }) => id, none: () => "logs without an agent", others: () => "others" };
  const why = {
    agent: ({ status }) => (status === null ? "not registered" : `${status} in the registry now`),
    none: () => "agent_id is NULL",
    others: () => (skipped.length === 1 ? "stored before their names were recorded" : "agents with fewer skipped logs"),
  };
  return h(
    "section",
    {},
    h("h2", {}, "Skipped logs"),
    h(
      "p",
      { class: "note" },
      "Their agents were not active or not registered when the day was aggregated, so they are in no metric.",
    ),
    table({
      id: "skipped",
      names: ["Whose", "Why", "Logs", "Of the logs read"],
      numbers: [2, 3],
      rows: skipped.map((each) => [
        each.kind === "agent" ? who.agent(each) : h("em", {}, who[each.kind](each)),
        why[each.kind](each),
        value(each.logs, whole(each.logs)),
        percent(each.logs / row.source_logs),
      ]),
    }),
    h("p", { class: "under" }, csvLink({ path: "skipped", parameters: { date: iso }, name: `${iso}-skipped.csv` })),
  );
}
