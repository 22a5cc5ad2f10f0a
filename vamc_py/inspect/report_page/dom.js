"use strict";

/* What a report says becomes a text node or the value of a fixed attribute; it is never read as HTML. */

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else if (name === "style") setStyle(node, value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/* The policy of the page forbids style attributes; properties set one by one are allowed. */
function setStyle(node, properties) {
  for (const [name, value] of Object.entries(properties)) node.style.setProperty(name, value);
}

/* html("button", {class: "quiet", click: open}, "text", child): an element; a function is a listener. */
function html(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function byId(id) {
  return document.getElementById(id);
}

/* Prose with its `code` as code; a backtick alone stays. */
function withCode(text) {
  return text.split(/`([^`]+)`/).map((part, index) => (index % 2 === 1 ? html("code", {}, part) : part));
}

/* A horizontal bar of this share of the place it stands in. */
function barOf(share) {
  return html("span", { class: "bar", style: { width: `${Math.min(1, share) * 100}%` } });
}

/* A text behind the dot of its family's colour. */
function ofFamily(kind, ...children) {
  return html("span", { class: `family-${familyOf(kind)}` }, html("span", { class: "dot" }), ...children);
}

/* A table in a box that scrolls sideways by itself. Columns: {title, number, cell: row => child}. */
function table(columns, rows, attributes = {}) {
  const head = columns.map((column) => html("th", { scope: "col", class: column.number && "number" }, column.title));
  const body = rows.map((row) =>
    html(
      "tr",
      {},
      columns.map((column) => html("td", { class: column.number && "number" }, column.cell(row))),
    ),
  );
  return html(
    "div",
    { class: "scroll-x" },
    html("table", { class: "table", ...attributes }, html("thead", {}, html("tr", {}, head)), html("tbody", {}, body)),
  );
}

/* Calls `draw` with the width of `node` now, and again whenever that width changes. */
function drawAtWidth(node, draw) {
  let drawn = 0;
  const observer = new ResizeObserver(() => {
    const width = Math.floor(node.clientWidth);
    if (width === drawn || width === 0) return;
    drawn = width;
    draw(width);
  });
  observer.observe(node);
}

function prefersStillness() {
  return window.matchMedia("(prefers-reduced-motion: reduce)").matches;
}
