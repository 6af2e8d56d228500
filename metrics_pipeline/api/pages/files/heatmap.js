// How the latencies of each day are distributed.

import { dayChart } from "./charts.js";
import { short, whole } from "./format.js";

const LEVELS = 6;

/** Executions by day and interval of latency: the darker, the more. counts: rows of GET /api/v1/latencies. */
export function heatMap({ title, note, days, states, counts, csv }) {
  const found = [...new Map(counts.map((row) => [row.from_ms ?? -1, row])).values()].sort(
    (a, b) => (a.from_ms ?? -1) - (b.from_ms ?? -1),
  );
  // Intervals without an execution have no row: the axis has one for all of those between two others.
  const intervals = found.flatMap((each, index) => {
    const below = found[index - 1]?.below_ms ?? each.from_ms;
    return below === each.from_ms ? [each] : [{ from_ms: below, below_ms: each.from_ms }, each];
  });
  const largest = Math.max(1, ...counts.map((row) => row.executions));
  const place = new Map(days.map((each, index) => [each, index]));
  const row = new Map(intervals.map((each, index) => [each.from_ms ?? -1, index]));
  const cells = counts.map((each) => ({
    index: place.get(each.metric_date),
    row: row.get(each.from_ms ?? -1),
    // By powers of the largest count, because a few executions in the tail matter.
    level: Math.ceil((Math.log(each.executions + 1) / Math.log(largest + 1)) * LEVELS),
    ...each,
  }));
  const rows = Math.max(1, intervals.length);
  const name = (each) =>
    each.below_ms === null
      ? `from ${whole(each.from_ms)}`
      : `${each.from_ms === null ? "below 0" : `${whole(each.from_ms)} to ${whole(each.below_ms)}`}`;
  const every = Math.ceil(rows / 8);
  return dayChart({
    title,
    note,
    unit: "ms",
    days,
    states,
    csv,
    axis: {
      ticks: intervals.map((_, index) => index).filter((index) => index % every === 0),
      place: (index) => index / rows,
    },
    write: (index) => short(intervals[index].from_ms ?? 0),
    legend: Array.from({ length: LEVELS }, (_, index) => ({
      kind: `level${index + 1}`,
      name: index === 0 ? "1 execution" : index === LEVELS - 1 ? `${whole(largest)}` : "",
    })),
    layers: [{ type: "cells", cells, rows }],
    read: (index) => {
      const most = cells.filter((each) => each.index === index).sort((a, b) => b.executions - a.executions);
      return most.length === 0
        ? "no latencies"
        : `most often ${most
            .slice(0, 3)
            .map((each) => `${name(each)} ms (${whole(each.executions)})`)
            .join(", ")}`;
    },
    columns: Object.fromEntries(
      intervals.map((each, index) => [
        `${name(each)} ms`,
        (at) => cells.find((cell) => cell.index === at && cell.row === index)?.executions ?? null,
      ]),
    ),
  });
}
