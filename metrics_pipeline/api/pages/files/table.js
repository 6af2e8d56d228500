// A table that can be sorted and searched. Its rows are made as somebody scrolls to them: laying out 500 took a second.

import { h } from "./dom.js";
import { NONE } from "./format.js";
import { FIGURES, inexact, interval, value } from "./parts.js";

// The rows that fit into the frame, and those that a scroll adds.
const AT_FIRST = 25;
const SLICE = 100;

const pick = (row, key) => key.split(".").reduce((object, name) => object?.[name], row) ?? null;
const number = (content) => h("td", { class: "number" }, content);

/** The column of a figure, or of its change. A row that has not got it yet shows an ellipsis. */
function figureColumn(name, isChange) {
  const { label, unit, isLate, write, change } = FIGURES[name];
  const cell = (row, absent) => {
    const figures = isChange ? row.change : row;
    const raw = figures === null ? null : figures?.[name];
    if (raw === undefined) return number(absent);
    const why = isLate && inexact(row);
    const text = (isChange ? change : write)(raw);
    // Some executions of a value of a dimension may be in (other).
    const sign = why && raw !== null ? "≈ " : name === "total_executions" && row.is_complete === false ? "≥ " : "";
    return number([sign, value(raw, text, why || undefined)]);
  };
  return isChange
    ? { key: `change.${name}`, name: "Change", title: `Change of: ${label}`, cell }
    : { key: name, name: unit ? `${label}\u00a0${unit}` : label, cell };
}

const intervalColumn = {
  key: "interval",
  name: "95% interval",
  isUnsorted: true,
  cell: (row) => h("td", { class: "number note" }, interval(row)),
};

/** The columns of all figures, and those of the changes of some. */
export const figureColumns = (...changes) =>
  Object.keys(FIGURES).flatMap((name) => [
    figureColumn(name, false),
    ...(name === "success_rate" ? [intervalColumn] : []),
    ...(changes.includes(name) ? [figureColumn(name, true)] : []),
  ]);

/**
 * columns: { key, name, title, isUnsorted, isText, cell(row, absent) }; the first names the row. keyOf(row): by what fill() finds
 * it. textOf(row): what a search looks at. noun: of one row. sort: the order at first.
 * The order and the search are in the URL, so that a link shows the same rows.
 */
export function sortableTable({ id, label, rows, columns, keyOf, textOf, noun, sort, query }) {
  let sorted = query.get("sort") ?? sort;
  if (!columns.some(({ key, isUnsorted }) => !isUnsorted && key === sorted.replace(/^-/, ""))) sorted = sort;
  let wanted = AT_FIRST;
  let absent = "…";
  let found = rows;
  const remember = (name, text) => {
    const now = new URLSearchParams(location.search);
    if (text) now.set(name, text);
    else now.delete(name);
    history.replaceState(null, "", `?${now}${location.hash}`);
  };
  const heads = columns.map(({ key, name, title, isUnsorted, isText }, index) =>
    h(
      "th",
      { scope: "col", class: index > 0 && !isText && "number" },
      isUnsorted ? name : h("button", { type: "button", title, click: () => sortBy(key) }, name),
    ),
  );
  const body = h("tbody");
  const count = h("output", { class: "note" });
  const all = h("button", { type: "button", click: () => grow(Number.POSITIVE_INFINITY) });
  const more = h("p", { class: "more" }, all);
  const box = h("input", {
    type: "search",
    value: query.get("q") ?? "",
    input: () => {
      remember("q", box.value);
      wanted = AT_FIRST;
      show();
    },
  });
  function sortBy(key) {
    sorted = sorted === `-${key}` ? key : `-${key}`;
    remember("sort", sorted);
    wanted = AT_FIRST;
    show();
  }
  function grow(by) {
    wanted += by;
    draw();
  }
  /** Adds the rows that are missing, or replaces all. */
  function draw(isNew) {
    const shown = found.slice(isNew ? 0 : body.children.length, wanted);
    const made = shown.map((row) =>
      h(
        "tr",
        {},
        columns.map(({ cell }) => cell(row, absent)),
      ),
    );
    if (isNew) body.replaceChildren(...made);
    else body.append(...made);
    more.hidden = wanted >= found.length;
    all.textContent = `Show all ${found.length}`;
  }
  function show() {
    const key = sorted.replace(/^-/, "");
    const sign = sorted.startsWith("-") ? -1 : 1;
    const asked = box.value.toLowerCase();
    found = rows.filter((row) => textOf(row).toLowerCase().includes(asked));
    const by = new Map(found.map((row) => [row, pick(row, key)]));
    found.sort((one, other) => {
      const [left, right] = [by.get(one), by.get(other)];
      if (left === null || right === null) return (left === null) - (right === null);
      return sign * (key === columns[0].key ? left.localeCompare(right) : left - right);
    });
    heads.forEach((head, index) => {
      if (columns[index].key === key) head.setAttribute("aria-sort", sign < 0 ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    count.textContent = `${found.length === rows.length ? "" : `${found.length} of `}${rows.length} ${noun}${rows.length === 1 ? "" : "s"}`;
    draw(true);
  }
  const frame = h(
    "div",
    { class: "scroll tall", role: "region", "aria-label": label, tabindex: 0 },
    h("table", { id }, h("thead", {}, h("tr", {}, heads)), body),
    more,
  );
  new IntersectionObserver(([{ isIntersecting }]) => isIntersecting && grow(SLICE), {
    root: frame,
    rootMargin: "400px",
  }).observe(more);
  show();
  return {
    element: [h("p", { class: "tools" }, h("label", {}, `Find ${noun}s `, box), count), frame],
    show,
    /** Adds what has arrived to the rows with the same keys. */
    fill: (late) => {
      const byKey = new Map(late.map((row) => [keyOf(row), row]));
      for (const row of rows) Object.assign(row, byKey.get(keyOf(row)));
      show();
    },
    /** What has not arrived will not. */
    fail: () => {
      absent = NONE;
      show();
    },
  };
}
