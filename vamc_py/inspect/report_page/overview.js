"use strict";

/* Title, key figures, facts and notes. */

function renderOverview(report) {
  byId("title").textContent = report.title;
  byId("figures").append(...keyFigures(report).map(keyFigure));
  byId("facts").append(
    ...report.facts.map((fact) => html("div", {}, html("dt", {}, fact.name), html("dd", {}, fact.value))),
  );
  byId("notes").append(
    report.notes.length === 0
      ? html("p", { class: "empty" }, "No notes: each part of the graph was found and has its kernel.")
      : noteList(report.notes),
  );
}

function noteList(notes) {
  return html(
    "ul",
    { class: "notes" },
    notes.map((note) => html("li", {}, withCode(note))),
  );
}

function keyFigure({ href, name, value, rest }) {
  return html(
    "a",
    { class: "figure", href },
    html("span", { class: "figure-name" }, name),
    html("span", { class: "figure-value" }, value),
    html("span", { class: "figure-rest" }, rest),
  );
}

function keyFigures(report) {
  const passes = report.steps.filter((step) => isPass(step));
  const changed = passes.filter((step) => step.changed).length;
  const timed = report.steps.filter((step) => step.seconds !== null);
  const kernels = new Set(report.nodes.map((node) => node.kernel).filter((kernel) => kernel !== ""));
  const figures = [
    {
      href: "#pipeline",
      name: "Passes",
      value: formatCount(passes.length),
      rest: `${formatCount(changed)} changed something`,
    },
    {
      href: "#graph",
      name: "Final graph",
      value: counted(report.nodes.length, "node"),
      rest: `${counted(report.layers, "layer")}, ${counted(kernels.size, "kernel")}`,
    },
    {
      href: "#memory",
      name: "Memory",
      value: formatBytes(report.memory.peak),
      rest: `parameters ${formatBytes(report.memory.parameters)}`,
    },
  ];
  if (timed.length > 0) {
    const longest = timed.reduce((best, step) => (step.seconds > best.seconds ? step : best));
    figures.unshift({
      href: "#pipeline",
      name: "Compile time",
      value: formatSeconds(sum(timed.map((step) => step.seconds))),
      rest: `of it ${longest.label} ${formatSeconds(longest.seconds)}`,
    });
  }
  for (const roofline of report.rooflines) {
    const measured = roofline.points.filter((point) => point.measured_seconds !== null);
    if (report.limits === null || measured.length === 0) continue;
    const least = sum(measured.map((point) => point.least_seconds));
    const seconds = sum(measured.map((point) => point.measured_seconds));
    figures.push({
      href: "#roofline",
      name: roofline.title.split(":")[0],
      value: formatShare(least / seconds),
      rest: `of the limit, ${formatSeconds(seconds)}`,
    });
  }
  return figures;
}

function isPass(step) {
  return step.kind === "raise" || step.kind === "rewrite" || step.kind === "lower";
}
