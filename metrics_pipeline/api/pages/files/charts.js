// Charts over days, as SVG: lines, bands, stacked bars, heat maps, sparklines. A day without a value is a gap.

import { csvLink } from "./api.js";
import { h, s, table } from "./dom.js";
import { day, dayOfMonth, dayWithWeekday, exact, inWords, short } from "./format.js";
import { isDoubtful, stateOf } from "./states.js";

const HEIGHT = 230;
const MARGIN = { top: 22, right: 10, bottom: 42, left: 58 };
const LABEL_WIDTH = 62;

/** Draws again whenever the width of its figure changes. */
const resizing = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) target.draw(Math.round(contentRect.width));
});

/** Numbers at which people expect an axis to have a line: 1, 2, 2.5 or 5 times a power of ten, whole ones for counts. */
function ticks(low, high, areCounts) {
  const rough = Math.max((high - low) / 4, areCounts ? 1 : 0);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10]
    .map((factor) => factor * power)
    .find((each) => each >= rough * 0.999 && !(areCounts && each % 1));
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, index) => (first + index) * step);
}

/** From `low` up to at least the largest value. */
export function linear(values, { low = 0, high = Number.NEGATIVE_INFINITY } = {}) {
  const given = values.filter((value) => value !== null);
  const top = Math.max(high, ...given) || 1;
  const marks = ticks(low, top, high < top && given.every(Number.isInteger));
  const end = high === top ? top : Math.max(top, marks.at(-1) + (marks.at(-1) < top ? marks[1] - marks[0] : 0));
  return { ticks: end > marks.at(-1) ? [...marks, end] : marks, place: (value) => (value - low) / (end - low) };
}

/** For latencies, whose p99 is many times their median. Zero and less is drawn at the bottom. */
export function logarithmic(values) {
  const known = values.filter((value) => value > 0);
  const bottom = known.length ? Math.floor(Math.log10(Math.min(...known))) : 0;
  const top = Math.log10(Math.max(...known, 10 ** bottom * 10)) + 0.02;
  const marks = [];
  for (let exponent = bottom; exponent <= top; exponent += 1)
    for (const factor of top - bottom > 3 ? [1] : [1, 3])
      if (exponent + Math.log10(factor) <= top) marks.push(factor * 10 ** exponent);
  return { ticks: marks, place: (value) => (Math.log10(Math.max(value, 10 ** bottom)) - bottom) / (top - bottom) };
}

const known = (value) => value !== null && value !== undefined;

/** The stretches of consecutive indices that have a value. */
function stretches(values) {
  const found = [];
  values.forEach((value, index) => {
    if (!known(value)) return;
    if (index > 0 && known(values[index - 1])) found.at(-1).push(index);
    else found.push([index]);
  });
  return found;
}

const LAYERS = {
  line({ values, kind }, { x, y }) {
    return stretches(values).map((indices) => [
      s("path", {
        class: `line ${kind}`,
        d: `M${indices.map((index) => `${x(index)},${y(values[index])}`).join("L")}`,
      }),
      (indices.length === 1 || values.length <= 62) &&
        indices.map((index) => s("circle", { class: `dot ${kind}`, cx: x(index), cy: y(values[index]), r: 2 })),
    ]);
  },
  band({ low, high, kind }, { x, y, step }) {
    return stretches(low).map((indices) => {
      // A day alone is as wide as its bar would be.
      const places =
        indices.length > 1
          ? indices.map((i) => [x(i), i])
          : [-0.3, 0.3].map((d) => [x(indices[0]) + d * step, indices[0]]);
      const up = places.map(([at, index]) => `${at},${y(high[index])}`);
      const down = places.toReversed().map(([at, index]) => `${at},${y(low[index])}`);
      return s("path", { class: `band ${kind}`, d: `M${[...up, ...down].join("L")}Z` });
    });
  },
  bars({ parts }, { x, y, step }) {
    const width = Math.max(1, step * 0.72);
    return (parts[0]?.values ?? []).map((_, index) => {
      let below = 0;
      return parts.map(({ values, kind }) => {
        if (!known(values[index])) return null;
        const [from, to] = [y(below), y(below + values[index])];
        below += values[index];
        return s("rect", {
          class: `bar ${kind}`,
          x: x(index) - width / 2,
          y: to,
          width,
          height: Math.max(0, from - to),
        });
      });
    });
  },
  cells({ cells, rows }, { x, step, inner }) {
    const height = inner / rows;
    return cells.map(({ index, row, level }) =>
      s("rect", {
        class: `cell level${level}`,
        x: x(index) - step / 2,
        y: MARGIN.top + inner - (row + 1) * height,
        width: step,
        height: height + 0.3,
      }),
    );
  },
};

let patterns = 0;

/**
 * A figure with a chart over `days`, what the pointed day says, the table of the same values, and its CSV.
 *
 * by: "day", or "week" if `days` are Mondays. states: the state of each day. axis: { ticks, place } and `write` for its labels. read(index): a day in words.
 * columns: { name: index => value }, the table. csv: { href, name }. marks: { first, last, words }, the alerts about it.
 */
export function dayChart({
  title,
  note,
  unit,
  by = "day",
  days,
  states,
  axis,
  write,
  layers,
  legend = [],
  read,
  columns,
  csv,
  tall,
  marks = [],
}) {
  const marksOn = (iso) => marks.filter(({ first, last }) => first <= iso && iso <= last);
  const readout = h("output");
  const frame = h("div", { class: "frame" });
  const height = tall ? HEIGHT * 1.3 : HEIGHT;
  const noted = (index) =>
    marksOn(days[index])
      .map(({ words }) => words)
      .join(". ") || null;
  const say = (index) => {
    readout.textContent = [
      `${by === "week" ? `Week of ${day(days[index])}` : dayWithWeekday(days[index])}: ${read(index)}${said(states, days[index])}`,
      noted(index),
    ]
      .filter(Boolean)
      .join(". ");
  };
  // Until somebody points at a day, the newest is read.
  say(days.length - 1);
  let shown = null;

  frame.draw = (width) => {
    if (width < 50) return;
    const step = (width - MARGIN.left - MARGIN.right) / days.length;
    const inner = height - MARGIN.top - MARGIN.bottom;
    const x = (index) => MARGIN.left + (index + 0.5) * step;
    const y = (value) => MARGIN.top + inner * (1 - axis.place(value));
    const bottom = MARGIN.top + inner;
    patterns += 1;
    const hatch = `hatch${patterns}`;
    const every = Math.ceil(LABEL_WIDTH / step);
    const guide = s("line", { class: "guide", y1: MARGIN.top, y2: bottom, visibility: "hidden" });
    const columnsOfDays = days.map((each, index) => {
      const state = stateOf(states, each);
      if (!isDoubtful(state)) return null;
      return [
        s("rect", { x: x(index) - step / 2, y: MARGIN.top, width: step, height: inner, fill: `url(#${hatch})` }),
        step > 7 && s("text", { class: "state", x: x(index), y: bottom + 13 }, state.sign),
      ];
    });
    const point = (index) => {
      shown = Math.min(days.length - 1, Math.max(0, index));
      guide.setAttribute("x1", x(shown));
      guide.setAttribute("x2", x(shown));
      guide.setAttribute("visibility", "visible");
      say(shown);
    };
    const leave = () => {
      shown = null;
      guide.setAttribute("visibility", "hidden");
      say(days.length - 1);
    };
    const keys = { ArrowLeft: -1, ArrowRight: 1, Home: -days.length, End: days.length };
    frame.replaceChildren(
      s(
        "svg",
        {
          width,
          height,
          viewBox: `0 0 ${width} ${height}`,
          role: "img",
          tabindex: 0,
          "aria-label": `${title}, ${day(days[0])} to ${day(days.at(-1))}. The arrow keys read the days; the table below has all values.`,
          pointermove: (event) => point(Math.floor((event.offsetX - MARGIN.left) / step)),
          pointerleave: leave,
          blur: leave,
          keydown: (event) => {
            if (event.key === "Enter" && shown !== null) location.search = `?day=${days[shown]}`;
            if (!(event.key in keys)) return;
            event.preventDefault();
            point((shown ?? (keys[event.key] > 0 ? -1 : days.length)) + keys[event.key]);
          },
        },
        s(
          "defs",
          {},
          s(
            "pattern",
            { id: hatch, width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
            s("line", { class: "hatch", y2: 6 }),
          ),
        ),
        axis.ticks.map((tick) => [
          s("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(tick), y2: y(tick) }),
          s("text", { class: "tick", x: MARGIN.left - 6, y: y(tick) + 4 }, write(tick)),
        ]),
        s("text", { class: "unit", x: 2, y: 12 }, unit),
        columnsOfDays,
        days.map(
          (each, index) =>
            marksOn(each).length > 0 && s("text", { class: "alert", x: x(index), y: MARGIN.top - 8 }, "▲"),
        ),
        layers.map((layer) => LAYERS[layer.type](layer, { x, y, step, inner })),
        s("line", { class: "axis", x1: MARGIN.left, x2: width - MARGIN.right, y1: bottom, y2: bottom }),
        days.map(
          (each, index) =>
            (days.length - 1 - index) % every === 0 &&
            x(index) > MARGIN.left + 14 &&
            s("text", { class: "date", x: Math.min(x(index), width - 22), y: bottom + 30 }, dayOfMonth(each)),
        ),
        guide,
      ),
    );
  };
  resizing.observe(frame);
  return h(
    "figure",
    { class: "chart" },
    h("figcaption", {}, h("h3", {}, title), note && h("p", { class: "note" }, note)),
    legend.length > 0 &&
      h(
        "ul",
        { class: "legend" },
        legend.map(({ kind, name }) => h("li", { "aria-hidden": name === "" && "true" }, swatch(kind), name)),
      ),
    frame,
    h("p", { class: "readout" }, readout),
    underChart(() => tableOf(by, days, { ...columns, ...(marks.length > 0 && { Alerts: noted }) }, states), csv),
  );
}

export const swatch = (kind) =>
  s(
    "svg",
    { class: "swatch", width: 12, height: 12, "aria-hidden": "true" },
    s("rect", { class: `bar ${kind}`, width: 12, height: 12, rx: 2 }),
  );

function said(states, iso) {
  const { name, reason } = stateOf(states, iso);
  return name === "aggregated" || name === "sealed" ? "" : ` (${inWords(name)}${reason ? `: ${reason}` : ""})`;
}

/** The way to the same values as a table and as CSV. The table is made when it is opened. */
export function underChart(build, csv) {
  const details = h("details", {}, h("summary", {}, "Table"));
  details.addEventListener("toggle", () => details.children.length === 1 && details.append(build()));
  return h("div", { class: "under" }, details, csvLink(csv));
}

function tableOf(by, days, columns, states) {
  const names = Object.keys(columns);
  return table({
    names: [by === "week" ? "Week of" : "Day", "State", ...names],
    numbers: names.map((_, index) => index + 2),
    rows: days.map((each, index) => [
      h("a", { href: `?day=${each}` }, each),
      inWords(stateOf(states, each).name),
      ...names.map((name) => exact(columns[name](index))),
    ]),
  });
}

/** Executions of each day as bars, failed ones on top, each agent on its own scale. */
export function sparkline(days, rows) {
  const [width, height] = [Math.max(90, days.length * 3), 22];
  const step = width / days.length;
  const largest = Math.max(1, ...rows.map((row) => row?.total_executions ?? 0));
  const path = (part) =>
    rows
      .map((row, index) => {
        if (!row) return "";
        const [low, high] = part(row).map((value) => height - (value / largest) * (height - 1));
        return low === high
          ? ""
          : `M${(index * step).toFixed(1)},${low.toFixed(1)}V${high.toFixed(1)}h${(step * 0.75).toFixed(1)}V${low.toFixed(1)}Z`;
      })
      .join("");
  return s(
    "svg",
    {
      class: "spark",
      width: 90,
      height,
      viewBox: `0 0 ${width} ${height}`,
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": `executions a day, at most ${largest}`,
    },
    s("path", { class: "bar good", d: path((row) => [0, row.total_executions - row.failed_executions]) }),
    s("path", {
      class: "bar failed",
      d: path((row) => [row.total_executions - row.failed_executions, row.total_executions]),
    }),
  );
}

/** The executions of each day by their outcome. rows: of each day its counts, or null. */
export function executionsChart({ rows, ...shared }) {
  const count = (of) => rows.map((row) => (row ? of(row) : null));
  const total = count((row) => row.total_executions);
  const outcomes = [
    { kind: "good", name: "successful", values: count((row) => row.successful_executions) },
    {
      kind: "others",
      name: "any other status",
      values: count((row) => row.total_executions - row.successful_executions - row.failed_executions),
    },
    { kind: "failed", name: "failed", values: count((row) => row.failed_executions) },
  ];
  return dayChart({
    unit: "executions",
    axis: linear(total),
    write: short,
    legend: outcomes,
    layers: [{ type: "bars", parts: outcomes }],
    columns: {
      Executions: (index) => total[index],
      ...Object.fromEntries(outcomes.map(({ name, values }) => [name, (index) => values[index]])),
    },
    ...shared,
  });
}
