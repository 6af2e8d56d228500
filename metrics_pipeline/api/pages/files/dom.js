// Building elements. Every text becomes a text node, so foreign names and error types can never be markup.

const SVG = "http://www.w3.org/2000/svg";

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** An HTML element. An attribute that is a function listens to the event of that name. */
export const h = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);

/** Gives an element other children: elements, texts, lists of them, and what is left out if a condition is false. */
export function fill(element, ...children) {
  element.replaceChildren();
  build(element, {}, children);
}

/** An SVG element. */
export const s = (tag, attributes, ...children) => build(document.createElementNS(SVG, tag), attributes, children);

/**
 * A table that scrolls sideways where it is too wide. names: of the columns; `numbers` are the indices of those that hold
 * numbers. rows: lists of cells, the first of which names the row.
 */
export function table({ names, numbers = [], rows, ...attributes }) {
  const kind = (index) => ({ class: numbers.includes(index) && "number" });
  const cell = (content, index) => (index === 0 ? h("th", { scope: "row" }, content) : h("td", kind(index), content));
  return h(
    "div",
    { class: "scroll" },
    h(
      "table",
      attributes,
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          names.map((name, index) => h("th", { scope: "col", ...kind(index) }, name)),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((cells) => h("tr", {}, cells.map(cell))),
      ),
    ),
  );
}
