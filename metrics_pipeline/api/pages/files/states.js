// The states of days: a name, a sign that needs no colour, and what it means.

const STATES = {
  aggregated: { sign: "", meaning: "its metrics equal its logs" },
  no_activity: { sign: "0", meaning: "its metrics equal its logs, and there is not one log" },
  sealed: { sign: "▪", meaning: "its raw logs were pruned, its metrics are final" },
  missing: { sign: "✕", meaning: "never aggregated", isDoubtful: true },
  dirty: { sign: "≠", meaning: "its logs have changed since it was aggregated", isDoubtful: true },
  damaged: { sign: "!", meaning: "its stored rows are not those that were published", isDoubtful: true },
  shrunk: { sign: "▾", meaning: "logs that are in its metrics are gone", isDoubtful: true },
  unreadable: { sign: "?", meaning: "one of its logs cannot be read", isDoubtful: true },
  other_zone: { sign: "z", meaning: "stored as a day of another time zone", isDoubtful: true },
  expired: {
    sign: "–",
    meaning: "its metrics were older than the retention period and were deleted",
    isDoubtful: true,
  },
  not_over: { sign: "…", meaning: "the day has not ended, and is in no total", isDoubtful: true },
  before: { sign: "", meaning: "before the first day of this pipeline", isDoubtful: true },
};

export const NAMES = Object.keys(STATES);
export const describe = (name) => ({ name, ...(STATES[name] ?? { sign: "?", meaning: name, isDoubtful: true }) });

/** The states of days as GET /api/v1/coverage gives them; of other days, what the calendar says. */
export function statesOf(coverage, info) {
  return { days: new Map(coverage.map((row) => [row.metric_date, row])), info };
}

export function stateOf({ days, info }, iso) {
  const row = days.get(iso);
  if (row) return { ...row, ...describe(row.state) };
  return describe(iso > info.newest_whole_day ? "not_over" : "before");
}

/** Whether a value of the day, or the lack of one, must not be taken at face value. */
export const isDoubtful = (state) => state.isDoubtful === true;
