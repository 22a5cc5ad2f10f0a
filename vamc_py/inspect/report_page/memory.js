"use strict";

/* What takes memory: the three parts as bars, then the activations over time with the storages below, as lanes. */

const LIVE_HEIGHT = 130;
const LANE_HEIGHT = 20;

function renderMemory(report) {
  byId("memory-bars").append(memoryBars(report.memory));
  const chart = byId("memory-chart");
  if (report.memory.live.length === 0) {
    chart.append(html("p", { class: "empty" }, "The step keeps no activations."));
    return;
  }
  const readout = html("output", { class: "readout" });
  const picture = html("div", { class: "picture" });
  const scrubber = html("input", {
    type: "range",
    min: 0,
    max: report.memory.live.length - 1,
    value: peakOf(report.memory.live),
    "aria-label": "Node of the step",
  });
  chart.append(picture, scrubber, readout);
  let show = () => {};
  drawAtWidth(picture, (width) => {
    show = drawActivations(report, picture, scrubber, readout, width);
    show(Number(scrubber.value));
  });
  scrubber.addEventListener("input", () => show(Number(scrubber.value)));
  byId("memory-table").append(storageTable(report));
}

function peakOf(live) {
  return live.indexOf(Math.max(...live));
}

function memoryBars(memory) {
  const parts = [
    { name: "parameters", bytes: memory.parameters, text: "weights as the module reads them, mapped from the file" },
    { name: "caches", bytes: memory.caches, text: "keys and values of one sequence of the whole context" },
    { name: "activations", bytes: memory.activations, text: "all storages of the largest step" },
  ];
  const rows = parts.map((part) =>
    html(
      "div",
      { class: `memory-row ${part.name}` },
      html("span", { class: "memory-name" }, part.name),
      html("span", { class: "memory-bar" }, barOf(shareOf(part.bytes, memory.peak))),
      html("span", { class: "number" }, formatBytes(part.bytes)),
      html("span", { class: "number muted" }, formatShare(shareOf(part.bytes, memory.peak))),
      html("span", { class: "memory-text muted" }, part.text),
    ),
  );
  const total = html(
    "div",
    { class: "memory-row total" },
    html("span", { class: "memory-name" }, "together"),
    html(
      "span",
      { class: "memory-bar strip", "aria-hidden": "true" },
      parts.map((part) => stripPart(part)),
    ),
    html("b", { class: "number" }, formatBytes(memory.peak)),
  );
  return html("div", { class: "memory-rows" }, rows, total);
}

function stripPart(part) {
  return html("span", { class: part.name, style: { "flex-grow": String(part.bytes) } });
}

function shareOf(part, whole) {
  return whole === 0 ? 0 : part / whole;
}

/* Draws curve and lanes at this width; the value shows one node: a line in the picture, and what lives then. */
function drawActivations(report, picture, scrubber, readout, width) {
  const { live, storages } = report.memory;
  const left = width < 520 ? 84 : 150;
  const plot = { left, right: width - 12, top: 20, bottom: 20 + LIVE_HEIGHT, count: live.length };
  plot.x = (index) => plot.left + (index / plot.count) * (plot.right - plot.left);
  const lanesTop = plot.bottom + 34;
  const height = lanesTop + storages.length * LANE_HEIGHT + 6;
  const cursor = svg("rect", {
    class: "cursor",
    y: plot.top,
    height: height - plot.top,
    width: Math.max(1.5, plot.x(1) - plot.x(0)),
  });
  const root = svg(
    "svg",
    {
      width,
      height,
      role: "img",
      "aria-label": "Bytes of activations while each node runs, and the storages they lie in",
    },
    layerBands(report, plot, height),
    liveCurve(report, plot),
    storages.map((storage, lane) => storageLane(report, storage, plot, lanesTop + lane * LANE_HEIGHT)),
    cursor,
  );
  picture.replaceChildren(root);
  setStyle(scrubber, { "margin-left": `${plot.left - 8}px`, width: `${plot.right - plot.left + 16}px` });
  const show = (index) => {
    cursor.setAttribute("x", plot.x(index));
    readout.replaceChildren(...readoutAt(report, index));
  };
  const point = (event) => {
    const x = event.clientX - root.getBoundingClientRect().left;
    const index = Math.floor(((x - plot.left) / (plot.right - plot.left)) * plot.count);
    if (index < 0 || index >= plot.count) return;
    scrubber.value = String(index);
    show(index);
  };
  root.addEventListener("pointermove", point);
  root.addEventListener("pointerdown", point);
  return show;
}

/* Every other layer is shaded; numbers stand below the curve where there is room. */
function layerBands(report, plot, height) {
  const runs = [];
  report.nodes.forEach((node, index) => {
    if (runs.length > 0 && runs.at(-1).layer === node.layer) runs.at(-1).end = index + 1;
    else runs.push({ layer: node.layer, start: index, end: index + 1 });
  });
  const bands = [];
  const texts = [];
  let free = -Infinity;
  for (const { layer, start, end } of runs) {
    if (layer === null) continue;
    const x = plot.x(start);
    const box = { class: "layer-band", x, y: plot.top, width: plot.x(end) - x, height: height - plot.top };
    if (layer % 2 === 0) bands.push(svg("rect", box));
    if (x < free) continue;
    texts.push(svg("text", { class: "tick", x: x + 2, y: plot.bottom + 16 }, String(layer)));
    free = x + 26;
  }
  texts.push(svg("text", { class: "tick", x: plot.left - 8, y: plot.bottom + 16, "text-anchor": "end" }, "layer"));
  return svg("g", {}, bands, texts);
}

function liveCurve(report, plot) {
  const { live } = report.memory;
  const most = Math.max(...live, 1);
  const y = (bytes) => plot.bottom - (bytes / most) * (plot.bottom - plot.top - 14);
  const steps = live.map((bytes, index) => `V${y(bytes).toFixed(1)}H${plot.x(index + 1).toFixed(1)}`).join("");
  const ticks = byteTicks(most).map((bytes) => [
    svg("line", { class: "grid", x1: plot.left, x2: plot.right, y1: y(bytes), y2: y(bytes) }),
    svg("text", { class: "tick", x: plot.left - 8, y: y(bytes) + 4, "text-anchor": "end" }, formatBytes(bytes)),
  ]);
  const peak = peakOf(live);
  const middle = plot.x(peak + 0.5);
  const atRight = middle > (plot.left + plot.right) / 2;
  const text = `peak ${formatBytes(live[peak])}`;
  return svg(
    "g",
    {},
    ticks,
    svg("path", { class: "live", d: `M${plot.left} ${plot.bottom}${steps}V${plot.bottom}Z` }),
    svg("circle", { class: "peak", cx: middle, cy: y(live[peak]), r: 4 }),
    svg(
      "text",
      {
        class: "peak-text",
        x: middle + (atRight ? -9 : 9),
        y: y(live[peak]) - 5,
        "text-anchor": atRight ? "end" : "start",
      },
      text,
    ),
  );
}

/* Three to six round numbers of bytes from 0: powers of two. */
function byteTicks(most) {
  let step = 1;
  while (most / step > 5) step *= 2;
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, index) => index * step);
}

function storageLane(report, storage, plot, y) {
  const narrow = plot.left < 100;
  const first = plot.x(storage.first);
  const name = narrow ? formatBytes(storage.bytes) : `${shortened(storage.name, 12)}  ${formatBytes(storage.bytes)}`;
  return svg(
    "g",
    {},
    svg("text", { class: "tick lane-name", x: plot.left - 8, y: y + 14, "text-anchor": "end" }, name),
    svg("rect", {
      class: "lane",
      x: first,
      y: y + 2,
      width: plot.x(storage.last + 1) - first,
      height: LANE_HEIGHT - 4,
    }),
    valuesOf(report, storage).map(({ kind, start, end }) =>
      svg("rect", {
        class: `value family-${familyOf(kind)}`,
        x: plot.x(start) + 0.4,
        y: y + 2,
        width: Math.max(0.8, plot.x(end) - plot.x(start) - 0.8),
        height: LANE_HEIGHT - 4,
      }),
    ),
  );
}

/* The values of a storage in turn: each from its writer to the next one, the last to the last reader. */
function valuesOf(report, storage) {
  const positions = positionsOf(report);
  const starts = storage.values.filter((id) => positions.has(id)).map((id) => ({ id, start: positions.get(id) }));
  starts.sort((a, b) => a.start - b.start);
  return starts.map(({ id, start }, index) => ({
    id,
    kind: report.nodes[start].kind,
    start,
    end: index + 1 < starts.length ? starts[index + 1].start : storage.last + 1,
  }));
}

const POSITIONS = new WeakMap();

function positionsOf(report) {
  if (!POSITIONS.has(report)) POSITIONS.set(report, new Map(report.nodes.map((node, index) => [node.id, index])));
  return POSITIONS.get(report);
}

function shortened(text, length) {
  return text.length <= length ? text : `${text.slice(0, length - 1)}…`;
}

function readoutAt(report, index) {
  const node = report.nodes[index];
  const { live, storages } = report.memory;
  const lives = (value) => value.start <= index && index < value.end;
  const held = storages.flatMap((storage) =>
    valuesOf(report, storage)
      .filter(lives)
      .map((value) => ({ storage, value })),
  );
  const order = `node ${formatCount(index + 1)} of ${formatCount(live.length)}`;
  const place = node.layer === null ? "in no layer" : `layer ${node.layer}`;
  return [
    html("span", {}, `${order}: `, html("b", {}, node.kind), " ", html("code", {}, node.id), `, ${place}`),
    html("span", {}, html("b", {}, formatBytes(live[index])), " live"),
    ...held.map(({ storage, value }) => ofFamily(value.kind, html("code", {}, value.id), ` in ${storage.name}`)),
  ];
}

function storageTable(report) {
  const { storages } = report.memory;
  const columns = [
    { title: "storage", cell: (row) => html("code", {}, row.name) },
    { title: "size", number: true, cell: (row) => formatBytes(row.bytes) },
    { title: "values", number: true, cell: (row) => formatCount(row.values.length) },
    { title: "first written by", cell: (row) => html("code", {}, report.nodes[row.first]?.id ?? NOTHING) },
    { title: "last read by", cell: (row) => html("code", {}, report.nodes[row.last]?.id ?? NOTHING) },
  ];
  return html(
    "details",
    {},
    html("summary", {}, `Table of the ${counted(storages.length, "storage")}`),
    table(columns, storages),
  );
}
