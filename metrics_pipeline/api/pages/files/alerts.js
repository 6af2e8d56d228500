// Alerts: what is unusual, beside what is usual, since when.

import { h, table } from "./dom.js";
import { counted, day, instant, inWords, money, percent, unitMoney, whole } from "./format.js";
import { agentLink, value } from "./parts.js";

const SHOWN_ALERTS = 6;

// A sign beside the word, so that nobody needs the colour.
const SEVERITIES = { critical: "▲ critical", warning: "△ warning" };

const WRITERS = {
  success_rate: percent,
  total_cost_usd: money,
  avg_cost_per_execution: unitMoney,
};
const writerOf = (metric) => WRITERS[metric] ?? (metric?.endsWith("_ms") ? (number) => `${whole(number)} ms` : whole);

function usualOf({ rule, metric, usual_low: low, usual_high: high }) {
  const write = writerOf(metric);
  const word = rule.startsWith("unusual_") ? "usual" : "allowed";
  if (low === null && high === null) return "";
  if (low === null || (Number(low) === 0 && word === "allowed")) return `${word}: at most ${write(high)}`;
  if (high === null) return `${word}: at least ${write(low)}`;
  return `${word}: ${write(low)} to ${write(high)}`;
}

const DETAILS = {
  said: (text) => text,
  error_type: (text) => `error type “${text}”`,
  silent_days: (days) => `silent for ${counted(days, "day")}`,
  projected_usd: (text, { projected_low: low, projected_high: high }) =>
    `projected for the whole month: ${money(text)} (${money(low)} to ${money(high)})`,
};

/** The value beside its usual range, with every digit of the value for programs; and what else the rule found. */
function evidence(alert) {
  const write = writerOf(alert.metric);
  const found = Object.entries(DETAILS)
    .filter(([name]) => alert.details[name] !== undefined)
    .map(([name, words]) => words(alert.details[name], alert.details));
  const usual = usualOf(alert);
  return [
    alert.value !== null && [
      `${inWords(alert.metric)} `,
      h("strong", {}, value(alert.value, write(alert.value))),
      usual && ` (${usual})`,
      alert.executions !== null &&
        alert.metric !== "total_executions" &&
        ` of ${counted(alert.executions, alert.metric === "skipped_logs" ? "log" : "execution")}`,
    ],
    alert.value !== null && found.length > 0 && "; ",
    found.join("; "),
  ];
}

/** An alert in one line of plain text, for the readout of a chart. */
export const said = (alert) =>
  `${SEVERITIES[alert.severity]}: ${inWords(alert.rule)}${alert.value === null ? "" : `, ${usualOf(alert)}`}`;

const ABOUT = { fleet: "All agents", pipeline: "Pipeline" };
const badge = (alert) => h("span", { class: `severity ${alert.severity}` }, SEVERITIES[alert.severity]);

const line = (alert, period) =>
  h(
    "li",
    {},
    badge(alert),
    h(
      "div",
      {},
      h(
        "p",
        {},
        alert.agent_id === null ? ABOUT[alert.scope] : agentLink(alert.agent_id, period),
        `: ${inWords(alert.rule)}`,
      ),
      h("p", { class: "note" }, evidence(alert)),
    ),
    h("p", { class: "note since" }, "since ", h("a", { href: `?day=${alert.opened_on}` }, day(alert.opened_on))),
  );

/** The open alerts, the critical first. Says so if there is none. */
export function openAlerts(alerts, period) {
  const sorted = [
    ...alerts.filter(({ severity }) => severity === "critical"),
    ...alerts.filter(({ severity }) => severity !== "critical"),
  ];
  const [shown, rest] = [sorted.slice(0, SHOWN_ALERTS), sorted.slice(SHOWN_ALERTS)];
  const list = (part) =>
    h(
      "ul",
      { class: "alerts" },
      part.map((alert) => line(alert, period)),
    );
  return h(
    "section",
    { "aria-labelledby": "open-alerts" },
    h("h2", { id: "open-alerts" }, alerts.length === 1 ? "1 open alert" : `${alerts.length || "No"} open alerts`),
    shown.length > 0 && list(shown),
    rest.length > 0 && h("details", {}, h("summary", {}, `${rest.length} more`), list(rest)),
  );
}

/** An agent's alerts of a period, whatever became of them. */
export function alertTable(alerts) {
  if (alerts.length === 0) return h("p", { class: "note" }, "There was no alert in this period.");
  const became = {
    open: () => "open",
    resolved: ({ resolved_on: on }) => `resolved ${day(on)}`,
    withdrawn: ({ withdrawn_at: at }) => `withdrawn ${instant(at)}, because a day was restated`,
  };
  return table({
    class: "restatements",
    id: "alerts",
    names: ["Opened", "Severity", "Rule", "Newest unusual day", "State"],
    rows: alerts.map((alert) => [
      h("a", { href: `?day=${alert.opened_on}` }, alert.opened_on),
      badge(alert),
      inWords(alert.rule),
      evidence(alert),
      became[alert.state](alert),
    ]),
  });
}
