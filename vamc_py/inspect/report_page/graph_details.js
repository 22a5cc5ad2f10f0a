"use strict";

/* What stands beside the graph: the chosen node, or the kernels of the whole graph. */

function showNode(view, entry) {
  const { node } = entry;
  const facts = [
    ["kernel", node.kernel === "" ? "none: TVM's own loops run" : html("code", {}, node.kernel)],
    ["layer", node.layer === null ? "in none" : String(node.layer)],
    ["result", html("code", {}, `${node.dtype}${node.shape}`)],
    ["runs as", `${formatCount(entry.position + 1)} of ${formatCount(view.graph.entries.length)}`],
  ];
  byId("graph-details").replaceChildren(
    html(
      "div",
      { class: "details-head" },
      html("h3", {}, node.kind, " ", html("code", {}, node.id)),
      html(
        "button",
        { type: "button", class: "close", "aria-label": "Close the details", click: () => view.unchoose() },
        "×",
      ),
    ),
    html(
      "dl",
      { class: "pairs" },
      facts.map(([name, value]) => [html("dt", {}, name), html("dd", {}, value)]),
    ),
    workTable(node),
    html("h4", {}, "Parameters"),
    node.parameters.length === 0
      ? html("p", { class: "muted" }, "none")
      : html(
          "ul",
          { class: "codes" },
          node.parameters.map((text) => html("li", {}, html("code", {}, text))),
        ),
    html("h4", {}, "Inputs"),
    linkList(view, inputsOf(view, node)),
    html("h4", {}, "Users"),
    linkList(
      view,
      entry.users.map((user) => ({ name: user.node.id, entry: user })),
    ),
  );
  byId("graph-details").classList.add("open");
}

function inputsOf(view, node) {
  return node.inputs.map((name) => ({ name, entry: view.graph.named.get(name) ?? null }));
}

/* Links to nodes; arguments of the function and caches are no nodes and stay text. */
function linkList(view, items) {
  if (items.length === 0) return html("p", { class: "muted" }, "none: this is a result of the step");
  return html(
    "ul",
    { class: "links" },
    items.map(({ name, entry }) => html("li", {}, linkTo(view, name, entry))),
  );
}

function linkTo(view, name, entry) {
  if (entry === null) return html("span", { class: "outside" }, html("code", {}, name), " argument");
  const open = () => view.choose(entry, { focus: true });
  return html(
    "button",
    { type: "button", class: `link family-${familyOf(entry.node.kind)}`, click: open },
    html("span", { class: "dot" }),
    html("code", {}, name),
    html("span", { class: "muted" }, entry.node.kind),
  );
}

/* Bytes and operations of one call, in both kinds of step. */
function workTable(node) {
  const rows = [
    { step: "decode", bytes: node.decode_bytes, operations: node.decode_operations },
    { step: "prefill", bytes: node.prefill_bytes, operations: node.prefill_operations },
  ];
  return table(
    [
      { title: "step", cell: (row) => row.step },
      { title: "moved", number: true, cell: (row) => formatBytes(row.bytes) },
      { title: "operations", number: true, cell: (row) => formatOperations(row.operations) },
      { title: "op/byte", number: true, cell: (row) => formatIntensity(row.operations, row.bytes) },
    ],
    rows,
  );
}

/* Without a chosen node: each kernel with what it serves; a click searches for it. */
function showKernels(view) {
  const groups = new Map();
  for (const { node } of view.graph.entries) {
    const key = `${node.kernel}\n${node.kind}`;
    const group = groups.get(key) ?? { kernel: node.kernel, kind: node.kind, nodes: 0, bytes: 0 };
    groups.set(key, { ...group, nodes: group.nodes + 1, bytes: group.bytes + node.parameter_bytes });
  }
  const rows = [...groups.values()].sort((a, b) => b.bytes - a.bytes || b.nodes - a.nodes);
  byId("graph-details").classList.remove("open");
  byId("graph-details").replaceChildren(
    html("h3", {}, "Kernels of this graph"),
    html("p", { class: "muted" }, "Choose a kernel to search for it, or a node to see what it reads and writes."),
    table(
      [
        { title: "kernel", cell: (row) => kernelLink(row) },
        { title: "nodes", number: true, cell: (row) => formatCount(row.nodes) },
        { title: "parameters", number: true, cell: (row) => (row.bytes === 0 ? NOTHING : formatBytes(row.bytes)) },
      ],
      rows,
    ),
  );
}

function kernelLink(row) {
  const text = row.kernel === "" ? row.kind : row.kernel;
  const search = () => {
    byId("graph-search").value = text;
    byId("graph-search").dispatchEvent(new Event("input"));
  };
  return html(
    "button",
    { type: "button", class: `link family-${familyOf(row.kind)}`, click: search },
    html("span", { class: "dot" }),
    html("code", {}, text),
    row.kernel === "" ? html("span", { class: "muted" }, "TVM's own loops") : null,
  );
}
