"use strict";

/* The picture of the final graph: boxes that are buttons, edges below them, folding, search and choosing a node. */

function renderGraph(report) {
  fill(byId("graph-legend"), {}, [
    [...new Set(report.nodes.map((node) => familyOf(node.kind)))].map((family) =>
      html("span", { class: `family-${family}` }, html("span", { class: "dot" }), family),
    ),
    report.nodes.some((node) => node.kernel === "") &&
      html("span", {}, html("span", { class: "dashed" }), "TVM's own loops"),
  ]);
  const view = new GraphView(report);
  view.draw();
  drawAtWidth(byId("graph-pane"), () => view.draw());
  return view;
}

class GraphView {
  constructor(report) {
    this.graph = readGraph(report.nodes);
    this.layers = this.graph.blocks.filter((block) => block.layer !== null).map((block) => block.layer);
    this.folded = new Set(this.layers);
    this.foldedBefore = null; // what was folded before the search
    this.matches = [];
    this.current = -1; // of the matches
    this.searched = "";
    this.chosen = null;
    this.stop = null; // the key of the one element that Tab reaches
    this.elements = new Map(); // by key, made once
    this.pane = byId("graph-pane");
    this.canvas = byId("graph-canvas");
    for (const entry of this.graph.entries) entry.text = searchText(entry.node);
    this.wire();
    showKernels(this);
  }

  /* Draws everything anew; `anchor` is the key of what shall stay where it is on the screen. */
  draw(anchor = null) {
    const focused = document.activeElement?.dataset?.key ?? null;
    const before = anchor === null ? null : this.offsetOf(anchor);
    const layout = layoutGraph(this.graph, this.folded, this.pane.clientWidth);
    this.layout = layout;
    this.canvas.classList.toggle("narrow", layout.narrow);
    setStyle(this.canvas, { width: `${layout.width}px`, height: `${layout.height}px` });
    const bands = layout.frames.map((frame) => this.band(frame));
    const buttons = layout.frames.filter(({ block }) => block.layer !== null).map((frame) => this.foldButton(frame));
    const boxes = layout.boxes.map((box) => this.box(box));
    this.canvas.replaceChildren(...bands, this.edges(layout), ...inOrder(buttons, boxes));
    this.markChosen();
    this.setStop(this.stop);
    if (before !== null) this.pane.scrollTop += this.offsetOf(anchor) - before;
    if (focused !== null) this.elements.get(focused)?.focus({ preventScroll: true });
  }

  offsetOf(key) {
    const element = this.elements.get(key);
    return element === undefined || !element.isConnected ? 0 : element.offsetTop - this.pane.scrollTop;
  }

  band({ folded, y, height }) {
    const place = { top: `${y}px`, height: `${height}px` };
    return html("div", { class: `band ${folded ? "folded" : ""}`, style: place });
  }

  foldButton({ block, folded, y }) {
    const key = `layer:${block.layer}`;
    const button = this.element(key, () => foldButton(block, () => this.toggle(block.layer)));
    button.setAttribute("aria-expanded", String(!folded));
    setStyle(button, { top: `${y + BLOCK_PADDING}px`, width: `${this.layout.gutter - 10}px` });
    return button;
  }

  box(box) {
    const element =
      box.kind === "node"
        ? this.element(box.key, () => nodeButton(box.entry, () => this.choose(box.entry)))
        : this.element(`folded ${box.key}`, () => foldedBox(box.block, () => this.toggle(box.block.layer)));
    setStyle(element, { left: `${box.x}px`, top: `${box.y}px`, width: `${box.width}px` });
    return element;
  }

  element(key, make) {
    if (!this.elements.has(key)) this.elements.set(key, make());
    return this.elements.get(key);
  }

  edges(layout) {
    const { width, height } = layout;
    const arrow = svg("path", { d: "M0 0L6 3L0 6z" });
    const size = { markerWidth: 6, markerHeight: 6, refX: 5, refY: 3 };
    const marker = { ...size, orient: "auto", markerUnits: "userSpaceOnUse", id: "arrow" };
    const near = { ...marker, id: "arrow-near" };
    this.paths = layout.edges.map((edge) => ({ edge, path: svg("path", { d: edge.path, class: "edge" }) }));
    return svg(
      "svg",
      { class: "edges", width, height, "aria-hidden": "true" },
      svg("defs", {}, svg("marker", marker, arrow), svg("marker", near, arrow.cloneNode())),
      this.paths.map(({ path }) => path),
    );
  }

  toggle(layer, folded = !this.folded.has(layer)) {
    if (folded) this.folded.add(layer);
    else this.folded.delete(layer);
    this.stop = `layer:${layer}`;
    this.draw(this.stop);
  }

  foldAll(folded) {
    this.folded = new Set(folded ? this.layers : []);
    this.draw();
  }

  /* Shows a node's details, unfolds its layer, and brings it into view. */
  choose(entry, { focus = false } = {}) {
    this.chosen = entry;
    this.stop = `node:${entry.node.id}`;
    if (this.folded.delete(entry.node.layer)) this.draw();
    this.markChosen();
    this.setStop(this.stop);
    showNode(this, entry);
    rememberPlace("node", entry.node.id);
    this.scrollTo(entry);
    if (focus) this.elements.get(this.stop).focus({ preventScroll: true });
  }

  unchoose() {
    this.chosen = null;
    this.markChosen();
    showKernels(this);
  }

  /* Scrolls the picture only as far as needed, and the page where the node would be off the screen or covered. */
  scrollTo(entry) {
    const box = this.elements.get(`node:${entry.node.id}`);
    const details = byId("graph-details");
    const covered = getComputedStyle(details).position === "fixed";
    if (covered) this.pane.scrollIntoView({ behavior: "instant" });
    const top = this.pane.getBoundingClientRect().top;
    const height = Math.min(this.pane.clientHeight, covered ? details.getBoundingClientRect().top - top : Infinity);
    const margin = Math.min(90, height / 4);
    const highest = box.offsetTop - margin;
    const lowest = box.offsetTop + BOX_HEIGHT + margin - height;
    const { scrollTop } = this.pane;
    const wanted = Math.max(0, scrollTop > highest ? highest : Math.max(scrollTop, lowest));
    const behavior = prefersStillness() || Math.abs(scrollTop - wanted) > 2 * height ? "instant" : "smooth";
    this.pane.scrollTo({ top: wanted, behavior });
    const y = top + box.offsetTop - wanted;
    if (y < 0 || y + BOX_HEIGHT > window.innerHeight)
      this.pane.scrollIntoView({ block: "nearest", behavior: "instant" });
  }

  markChosen() {
    const chosen = this.chosen === null ? null : `node:${this.chosen.node.id}`;
    const near = new Set();
    for (const { edge, path } of this.paths ?? []) {
      const touches = edge.from.key === chosen || edge.to.key === chosen;
      path.classList.toggle("near", touches);
      if (touches) path.parentNode.append(path); // above the others
    }
    const neighbours = this.chosen === null ? [] : [...this.chosen.inputs, ...this.chosen.users];
    for (const entry of neighbours) near.add(`node:${entry.node.id}`);
    for (const [key, element] of this.elements) {
      element.classList.toggle("chosen", key === chosen);
      element.classList.toggle("near", near.has(key));
    }
  }

  /* One element of the picture is reached by Tab, the others from there by the arrow keys. */
  setStop(key) {
    const stops = this.stops();
    const chosen = stops.find((element) => element.dataset.key === key) ?? stops[0];
    for (const element of stops) element.tabIndex = element === chosen ? 0 : -1;
    this.stop = chosen?.dataset.key ?? null;
  }

  stops() {
    return [...this.canvas.querySelectorAll("[data-key]")];
  }

  wire() {
    byId("unfold-all").addEventListener("click", () => this.foldAll(false));
    byId("fold-all").addEventListener("click", () => this.foldAll(true));
    this.canvas.addEventListener("keydown", (event) => this.onKey(event));
    this.canvas.addEventListener("focusin", (event) => this.setStop(event.target.dataset.key));
    const search = byId("graph-search");
    let timer = 0;
    search.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.search(search.value), 80);
    });
    search.addEventListener("keydown", (event) => {
      if (event.key === "Escape") search.value = "";
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault();
      clearTimeout(timer);
      if (search.value !== this.searched) this.search(search.value);
      if (event.key === "Enter") this.step(event.shiftKey ? -1 : 1);
    });
    byId("match-next").addEventListener("click", () => this.step(1));
    byId("match-previous").addEventListener("click", () => this.step(-1));
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.chosen !== null && event.target !== search) this.unchoose();
    });
  }

  onKey(event) {
    const key = event.target.dataset.key;
    if (key === undefined) return;
    const entry = this.graph.named.get(key.slice("node:".length));
    const layer = key.startsWith("layer:") ? Number(key.slice("layer:".length)) : (entry?.node.layer ?? null);
    const stops = this.stops();
    const at = stops.indexOf(event.target);
    if (event.key === "ArrowDown") this.focusAt(stops[at + 1]);
    else if (event.key === "ArrowUp") this.focusAt(stops[at - 1]);
    else if (event.key === "ArrowRight" && this.folded.has(layer)) this.toggle(layer, false);
    else if (event.key === "ArrowLeft" && layer !== null && !this.folded.has(layer)) {
      this.toggle(layer, true);
      this.elements.get(`layer:${layer}`).focus();
    } else return;
    event.preventDefault();
  }

  focusAt(element) {
    element?.focus({ preventScroll: true });
    element?.scrollIntoView({ block: "nearest" });
  }

  /* Marks what holds all words, unfolds the layers of it, and folds them again when the search is cleared. */
  search(text) {
    this.searched = text;
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    this.foldedBefore ??= new Set(this.folded);
    this.elements.get(this.currentKey())?.classList.remove("current");
    this.current = -1;
    const matches = (entry) => words.length > 0 && words.every((word) => entry.text.includes(word));
    this.matches = this.graph.entries.filter(matches);
    this.folded = new Set(this.foldedBefore);
    for (const entry of this.matches) this.folded.delete(entry.node.layer);
    if (words.length === 0) {
      this.foldedBefore = null;
      if (this.chosen !== null) this.folded.delete(this.chosen.node.layer);
    }
    this.canvas.classList.toggle("searching", words.length > 0);
    const matching = new Set(this.matches.map((entry) => `node:${entry.node.id}`));
    this.draw();
    for (const [key, element] of this.elements) element.classList.toggle("match", matching.has(key));
    if (this.matches.length > 0) this.scrollTo(this.matches[0]);
    this.showCount(words.length > 0);
  }

  step(by) {
    if (this.matches.length === 0) return;
    this.elements.get(this.currentKey())?.classList.remove("current");
    this.current = (this.current + by + this.matches.length) % this.matches.length;
    this.choose(this.matches[this.current]);
    this.elements.get(this.currentKey()).classList.add("current");
    this.showCount(true);
  }

  currentKey() {
    return this.current < 0 ? null : `node:${this.matches[this.current]?.node.id}`;
  }

  showCount(searching) {
    const found = this.matches.length;
    const at = this.current < 0 ? "" : `${formatCount(this.current + 1)} of `;
    const text = found === 0 ? "no match" : `${at}${counted(found, "match", "matches")}`;
    byId("match-count").textContent = searching ? text : "";
  }
}

/* Buttons of layers and nodes in the order of the picture, so that the arrow keys go from top to bottom. */
function inOrder(buttons, boxes) {
  return [...buttons, ...boxes].sort((a, b) => parseFloat(a.style.top) - parseFloat(b.style.top));
}

function searchText(node) {
  return [node.id, node.kind, node.kernel, ...node.parameters].join("\n").toLowerCase();
}

function foldButton(block, toggle) {
  const nodes = counted(block.entries.length, "node");
  return html(
    "button",
    {
      type: "button",
      class: "fold",
      "data-key": `layer:${block.layer}`,
      "aria-label": `layer ${block.layer}, ${nodes}`,
      click: toggle,
    },
    html("span", { class: "fold-name" }, html("span", { class: "fold-word" }, "layer "), String(block.layer)),
    html("span", { class: "fold-count" }, nodes),
  );
}

/* What a folded layer holds; a click anywhere on it unfolds, the keyboard uses the button beside it. */
function foldedBox(block, toggle) {
  const kinds = new Map();
  for (const { node } of block.entries) kinds.set(node.kind, (kinds.get(node.kind) ?? 0) + 1);
  const parts = [...kinds].map(([kind, count]) => ofFamily(kind, count > 1 ? `${count} ${kind}` : kind));
  const bytes = sum(block.entries.map(({ node }) => node.parameter_bytes));
  return html(
    "div",
    { class: "folded-box", click: toggle },
    html("div", { class: "folded-kinds" }, parts),
    html(
      "div",
      { class: "folded-bytes" },
      `${counted(block.entries.length, "node")}, parameters ${formatBytes(bytes)}`,
    ),
  );
}

function nodeButton({ node }, choose) {
  const kernel = node.kernel === "" ? "TVM's own loops" : node.kernel;
  return html(
    "button",
    {
      type: "button",
      class: `node family-${familyOf(node.kind)} ${node.kernel === "" ? "slow" : ""}`,
      "data-key": `node:${node.id}`,
      click: choose,
    },
    html("span", { class: "node-kind" }, node.kind),
    html("span", { class: "node-shape" }, node.shape),
    html("span", { class: "node-kernel" }, kernel),
    html("span", { class: "node-bytes" }, node.parameter_bytes === 0 ? "" : formatBytes(node.parameter_bytes)),
  );
}
