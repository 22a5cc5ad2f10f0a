"use strict";

/*
 * Where each box and each edge of the graph's picture is. No document here: data in, coordinates out.
 *
 * Nodes stand in blocks from top to bottom: a block a layer, and blocks of what is in no layer. In a block a node
 * stands below all that it reads. Edges to the next row are direct; longer ones leave their row, run down in a lane at
 * the right (one lane a value, however many read it) and come in again above the row of the reader.
 */

const BOX_HEIGHT = 44;
const BOX_WIDTH = 300;
const LAYER_WIDTH = 420;
const MOST_COLUMNS = 4;
const GAP_ACROSS = 18;
const GAP_DOWN = 24;
const BLOCK_PADDING = 12;
const LANE_WIDTH = 10;
const LANE_ROOM = 44; // kept free at the right, so that a few lanes need no scrolling

/* entries: {node, position, inputs, users, block}; inputs that are no nodes (arguments, caches) are left out. */
function readGraph(nodes) {
  const entries = nodes.map((node, position) => ({ node, position, inputs: [], users: [], block: null }));
  const named = new Map(entries.map((entry) => [entry.node.id, entry]));
  for (const entry of entries) {
    for (const name of new Set(entry.node.inputs)) {
      const source = named.get(name);
      if (source === undefined) continue;
      entry.inputs.push(source);
      source.users.push(entry);
    }
  }
  return { entries, named, blocks: orderedBlocks(entries) };
}

/* Blocks so ordered that each stands below those it reads from, else in the order in which they run. */
function orderedBlocks(entries) {
  const found = new Map();
  for (const entry of entries) {
    const key = entry.node.layer ?? `alone ${entry.position}`;
    if (!found.has(key)) found.set(key, { layer: entry.node.layer, entries: [], placed: false });
    entry.block = found.get(key);
    entry.block.entries.push(entry);
  }
  const waiting = [...found.values()];
  const ordered = [];
  while (waiting.length > 0) {
    const ready = waiting.findIndex((block) =>
      block.entries.every((entry) => entry.inputs.every((input) => input.block === block || input.block.placed)),
    );
    const [block] = waiting.splice(Math.max(0, ready), 1); // a circle of blocks is cut at its first
    block.placed = true;
    ordered.push(block);
  }
  return joinFreeBlocks(ordered);
}

function joinFreeBlocks(blocks) {
  const joined = [];
  for (const block of blocks) {
    const last = joined.at(-1);
    if (block.layer === null && last !== undefined && last.layer === null) {
      last.entries.push(...block.entries);
      for (const entry of block.entries) entry.block = last;
    } else joined.push(block);
  }
  return joined;
}

/* The rows of one block: each node below what it reads, at most `columns` side by side. */
function rowsOfBlock(block, columns) {
  const rowOf = new Map();
  const rows = [];
  for (const entry of block.entries) {
    let row = 0;
    for (const input of entry.inputs) row = Math.max(row, (rowOf.get(input) ?? -1) + 1);
    while ((rows[row] ?? []).length >= columns) row += 1;
    rowOf.set(entry, row);
    (rows[row] ??= []).push(entry);
  }
  return rows;
}

/* {boxes, frames, edges, width, height}; a box is {key, kind: "node" | "layer", entry | block, x, y, width, row}. */
function layoutGraph(graph, folded, width) {
  const narrow = width < 520;
  const gutter = narrow ? 44 : 96;
  const room = width - gutter - LANE_ROOM;
  const boxWidth = Math.max(170, Math.min(BOX_WIDTH, room));
  const columns = Math.max(1, Math.min(MOST_COLUMNS, Math.floor((room + GAP_ACROSS) / (boxWidth + GAP_ACROSS))));
  const layerWidth = Math.max(boxWidth, Math.min(LAYER_WIDTH, room));
  const picture = {
    boxes: [],
    frames: [],
    rows: [],
    boxOf: new Map(),
    boxWidth,
    layerWidth,
    centre: gutter + room / 2,
  };
  let y = 0;
  for (const block of graph.blocks) y = placeBlock(picture, block, folded, columns, y);
  const edges = routeEdges(picture, graph);
  const right = Math.max(width, ...edges.map((edge) => edge.right + 10));
  return { boxes: picture.boxes, frames: picture.frames, edges, width: right, height: y, gutter, narrow };
}

function placeBlock(picture, block, folded, columns, top) {
  const isFolded = block.layer !== null && folded.has(block.layer);
  let y = top + BLOCK_PADDING;
  if (isFolded) {
    const [box] = placeRow(picture, [{ key: `layer:${block.layer}`, kind: "layer", block }], y, picture.layerWidth);
    for (const entry of block.entries) picture.boxOf.set(entry, box);
    y += BOX_HEIGHT;
  } else {
    for (const row of rowsOfBlock(block, columns)) {
      const boxes = byInputs(picture, row).map((entry) => ({ key: `node:${entry.node.id}`, kind: "node", entry }));
      for (const box of placeRow(picture, boxes, y, picture.boxWidth)) picture.boxOf.set(box.entry, box);
      y += BOX_HEIGHT + GAP_DOWN;
    }
    y -= GAP_DOWN;
  }
  y += BLOCK_PADDING;
  picture.frames.push({ block, folded: isFolded, y: top, height: y - top });
  return y;
}

/* The nodes of a row by the middle of what they read, so that fewer edges cross. */
function byInputs(picture, row) {
  const middle = (entry) => {
    const boxes = entry.inputs.map((input) => picture.boxOf.get(input)).filter((box) => box !== undefined);
    return boxes.length === 0 ? picture.centre : sum(boxes.map((box) => box.x)) / boxes.length;
  };
  const keyed = row.map((entry) => ({ entry, middle: middle(entry) }));
  return keyed.sort((a, b) => a.middle - b.middle || a.entry.position - b.entry.position).map(({ entry }) => entry);
}

function placeRow(picture, boxes, y, width) {
  const whole = boxes.length * width + (boxes.length - 1) * GAP_ACROSS;
  let x = picture.centre - whole / 2;
  for (const box of boxes) {
    Object.assign(box, { x, y, width, row: picture.rows.length });
    x += width + GAP_ACROSS;
  }
  picture.rows.push(x - GAP_ACROSS); // the right end of the row
  picture.boxes.push(...boxes);
  return boxes;
}

/* Edges between boxes, one for each pair: {from, to, path, right}. */
function routeEdges(picture, graph) {
  const direct = [];
  const long = new Map(); // box -> boxes that read it from further away
  const seen = new Set();
  for (const entry of graph.entries) {
    const to = picture.boxOf.get(entry);
    for (const input of entry.inputs) {
      const from = picture.boxOf.get(input);
      const key = `${from.key}\n${to.key}`;
      if (from === to || seen.has(key)) continue;
      seen.add(key);
      if (to.row === from.row + 1) direct.push({ from, to, path: directPath(from, to), right: 0 });
      else if (long.has(from)) long.get(from).push(to);
      else long.set(from, [to]);
    }
  }
  return [...direct, ...laneEdges(picture, long)];
}

function directPath(from, to) {
  const x1 = from.x + from.width / 2;
  const x2 = to.x + to.width / 2;
  const y1 = from.y + BOX_HEIGHT;
  const bend = (to.y - y1) / 2;
  return `M${x1} ${y1}C${x1} ${y1 + bend} ${x2} ${to.y - bend} ${x2} ${to.y - 1}`;
}

/* Short edges get the inner lanes; two that overlap never share one. */
function laneEdges(picture, long) {
  const wanted = [...long].map(([from, readers]) => {
    const rows = [from.row, ...readers.map((box) => box.row)];
    return { from, readers, first: Math.min(...rows), last: Math.max(...rows) };
  });
  wanted.sort((a, b) => a.last - a.first - (b.last - b.first) || a.first - b.first);
  const lanes = [];
  const edges = [];
  for (const value of wanted) {
    let lane = lanes.findIndex((taken) =>
      taken.every((other) => value.last <= other.first || other.last <= value.first),
    );
    if (lane === -1) lane = lanes.push([]) - 1;
    lanes[lane].push(value);
    const x = Math.max(...picture.rows.slice(value.first, value.last + 1)) + 14 + lane * LANE_WIDTH;
    for (const to of value.readers) edges.push({ from: value.from, to, path: lanePath(value.from, to, x), right: x });
  }
  return edges;
}

function lanePath(from, to, x) {
  const x1 = from.x + from.width * 0.8;
  const x2 = to.x + to.width * 0.8;
  const out = from.y + BOX_HEIGHT + 8;
  const back = to.y - 10;
  return roundedPath([
    [x1, from.y + BOX_HEIGHT],
    [x1, out],
    [x, out],
    [x, back],
    [x2, back],
    [x2, to.y - 1],
  ]);
}

/* A path of straight lines with its corners rounded. */
function roundedPath(points) {
  const parts = [`M${points[0]}`];
  for (let i = 1; i < points.length - 1; i += 1) {
    const [before, corner, after] = [points[i - 1], points[i], points[i + 1]];
    const radius = Math.min(6, distance(before, corner) / 2, distance(corner, after) / 2);
    parts.push(`L${towards(corner, before, radius)}Q${corner} ${towards(corner, after, radius)}`);
  }
  parts.push(`L${points.at(-1)}`);
  return parts.join("");
}

function distance([x1, y1], [x2, y2]) {
  return Math.abs(x1 - x2) + Math.abs(y1 - y2);
}

function towards(from, to, length) {
  const whole = distance(from, to);
  if (whole === 0) return from;
  return [from[0] + ((to[0] - from[0]) * length) / whole, from[1] + ((to[1] - from[1]) * length) / whole];
}
