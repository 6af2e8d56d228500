// The states of days: a name, a sign that needs no colour, and what it means.

import { get } from "./api.js";
import { daysBetween, mondayOf } from "./format.js";

const STATES = {
  aggregated: { sign: "", meaning: "its metrics equal its logs" },
  no_activity: { sign: "0", meaning: "its metrics equal its logs, and there is not one log" },
  sealed: { sign: "▪", meaning: "its raw logs were pruned, its metrics are final" },
  missing: { sign: "✕", meaning: "never aggregated", isDoubtful: true },
  dirty: { sign: "≠", meaning: "its logs have changed since it was aggregated", isDoubtful: true },
  damaged: { sign: "!", meaning: "its stored rows are not those that were published", isDoubtful: true },
  shrunk: { sign: "▾", meaning: "logs or columns that are in its metrics are gone", isDoubtful: true },
  unreadable: { sign: "?", meaning: "one of its logs cannot be read", isDoubtful: true },
  other_zone: { sign: "z", meaning: "stored as a day of another time zone", isDoubtful: true },
  expired: {
    sign: "–",
    meaning: "its metrics were older than the retention period and were deleted",
    isDoubtful: true,
  },
  not_over: { sign: "…", meaning: "the day has not ended, and is in no total", isDoubtful: true },
  without_dimension: { sign: "∅", meaning: "stored without this dimension", isDoubtful: true },
  in_part: { sign: "½", meaning: "a week of which the period has a part", isDoubtful: true },
  before: { sign: "", meaning: "the first day of this pipeline", isDoubtful: true },
};

export const NAMES = Object.keys(STATES);
export const describe = (name) => ({ name, ...(STATES[name] ?? { sign: "?", meaning: name, isDoubtful: true }) });

/** The largest number of days that are drawn one by one for each agent or value; a longer period is drawn by week. */
const BY_DAY = 92;

/** GET /api/v1/coverage of the part of the period in which days can have a state. */
export async function coverageOf({ first, last }, info) {
  const from = first < info.start_date ? info.start_date : first;
  return from > last ? [] : get("coverage", { start_date: from, end_date: last });
}

/** The states of days as GET /api/v1/coverage gives them; of other days, what the calendar says. */
export function statesOf(coverage, info) {
  return { days: new Map(coverage.map((row) => [row.metric_date, row])), info, withoutDimension: new Set() };
}

export function stateOf({ days, info, withoutDimension }, iso) {
  const row = days.get(iso);
  if (row && withoutDimension.has(iso) && !describe(row.state).isDoubtful) return describe("without_dimension");
  if (row) return { ...row, ...describe(row.state) };
  return describe(iso > info.newest_whole_day ? "not_over" : "before");
}

/** Whether a value of the day, or the lack of one, must not be taken at face value. */
export const isDoubtful = (state) => state.isDoubtful === true;

export const drawnBy = ({ length }) => (length <= BY_DAY ? "day" : "week");

/**
 * A period as it is drawn: { by, days, states }, by week if it is long. The state of a week is that of its worst day; the
 * first and the last week may be in the period in part, and are smaller than the others for that reason only.
 */
export function drawnDays(period, coverage, info) {
  const days = daysBetween(period.first, period.last);
  const by = drawnBy(period);
  if (by === "day") return { by, days, states: statesOf(coverage, info) };
  const states = statesOf([], info);
  for (const row of coverage) {
    const monday = mondayOf(row.metric_date);
    if (!states.days.has(monday) || describe(row.state).isDoubtful)
      states.days.set(monday, { ...row, metric_date: monday, reason: `${row.metric_date}: ${row.reason}` });
  }
  for (const [monday, ofWeek] of Map.groupBy(coverage, (row) => mondayOf(row.metric_date))) {
    const worst = states.days.get(monday);
    if (ofWeek.length < 7 && !describe(worst.state).isDoubtful)
      states.days.set(monday, { ...worst, state: "in_part", reason: `${ofWeek.length} of its 7 days` });
  }
  return { by, days: [...new Set(days.map(mondayOf))], states };
}

/** Of each day or week, its row of GET /api/v1/activity, or null. */
export function rowsOf(days, rows) {
  const by = new Map(rows.map((row) => [row.metric_date ?? row.week, row]));
  return days.map((each) => by.get(each) ?? null);
}
