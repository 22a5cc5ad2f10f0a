"use strict";

/* The steps of the compile: a strip of where the time went, and a row a step that opens its details. */

const STEP_KINDS = ["frontend", "raise", "rewrite", "lower", "build", "weights"];
const FIRST_LINES = 300; // of a long difference; the rest comes when it is asked for

function renderPipeline(report) {
  byId("time-strip").append(timeStrip(report.steps));
  const longest = Math.max(0, ...report.steps.map((step) => step.seconds ?? 0));
  let known = null; // the operators after the step before, where it says them
  const most = Math.max(1, ...report.steps.map((step) => callsOf(step) ?? 0));
  const rows = report.steps.map((step, index) => {
    const before = known;
    if (callsOf(step) !== null) known = step.operators;
    return stepRow(step, index, before, longest, most);
  });
  byId("steps").append(...rows);
  wirePipeline(rows);
  return new Map(report.steps.map((step, index) => [step.label, rows[index].querySelector(".step-row")]));
}

/* null for what has no calls to count: the trace, the build, the weights. */
function callsOf(step) {
  const counts = Object.values(step.operators);
  return counts.length === 0 && !isPass(step) ? null : sum(counts);
}

/* One bar of the whole time in true proportion; the rows below may use the square root. */
function timeStrip(steps) {
  const seconds = STEP_KINDS.map((kind) => sum(steps.filter((s) => s.kind === kind).map((s) => s.seconds ?? 0)));
  const whole = sum(seconds);
  if (whole === 0)
    return html(
      "p",
      { class: "empty" },
      "No times here: the folder that compile --dump-ir writes has them, an artifact does not.",
    );
  const parts = STEP_KINDS.map((kind, index) => ({ kind, seconds: seconds[index] })).filter((part) => part.seconds > 0);
  const bar = parts.map((part) =>
    html("span", { class: `kind-${part.kind}`, style: { "flex-grow": String(part.seconds / whole) } }),
  );
  const legend = parts.map((part) =>
    html(
      "li",
      { class: `kind-${part.kind}` },
      html("span", { class: "dot" }),
      part.kind,
      html("b", {}, formatSeconds(part.seconds)),
      html("span", { class: "muted" }, formatShare(part.seconds / whole)),
    ),
  );
  return html(
    "div",
    { class: "time-strip" },
    html("div", { class: "strip", "aria-hidden": "true" }, bar),
    html("ul", { class: "legend" }, legend),
  );
}

function stepRow(step, index, before, longest, most) {
  const calls = callsOf(step);
  const difference = calls === null || before === null ? null : calls - sum(Object.values(before));
  const share = longest > 0 ? (step.seconds ?? 0) / longest : 0;
  const time = step.seconds === null ? null : html("span", { class: "bar", "data-share": share });
  const detail = html("div", { class: "step-detail", id: `step-${index}`, hidden: true });
  const button = html(
    "button",
    { type: "button", class: "step-row", "aria-expanded": "false", "aria-controls": detail.id },
    html("span", { class: "step-number" }, String(index + 1)),
    html("span", { class: "step-name" }, html("b", {}, step.label), stepMarks(step)),
    html("span", { class: "step-stage" }, html("span", { class: "dot" }), step.kind),
    html("span", { class: "step-bar" }, time),
    html("span", { class: "step-seconds number" }, formatSeconds(step.seconds)),
    html(
      "span",
      { class: "step-calls number" },
      calls === null ? [] : [barOf(calls / most), html("span", {}, formatCount(calls))],
    ),
    isPass(step) && !step.changed
      ? html("span", { class: "step-difference number muted" }, "no change")
      : html("span", { class: `step-difference number ${signClass(difference)}` }, differenceText(difference)),
  );
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") === "true";
    if (!open && detail.childElementCount === 0) detail.append(...stepDetail(step, before));
    button.setAttribute("aria-expanded", String(!open));
    detail.hidden = open;
    if (!open) rememberPlace("step", step.label);
  });
  const changed = !isPass(step) || step.changed;
  return html("li", { class: `step kind-${step.kind} ${changed ? "" : "unchanged"}` }, button, detail);
}

function differenceText(difference) {
  return difference === null || difference === 0 ? "" : formatDifference(difference);
}

function signClass(difference) {
  if (!difference) return "";
  return difference < 0 ? "fewer" : "more";
}

function isForeign(step) {
  return step.origin !== "" && !/^vamc-py( |$)/.test(step.origin);
}

function stepMarks(step) {
  return [
    isForeign(step) && html("span", { class: "mark foreign" }, step.origin),
    step.place !== "" && html("span", { class: "mark" }, step.place),
    step.notes.length > 0 && html("span", { class: "mark warn" }, counted(step.notes.length, "note")),
  ];
}

function stepDetail(step, before) {
  const facts = [
    ["stage", step.kind],
    ["comes from", step.origin],
    ["asked for at", step.place],
    ["time", formatSeconds(step.seconds)],
    ...Object.entries(step.options).map(([name, value]) => [`option ${name}`, plainValue(value)]),
  ].filter(([, value]) => value !== "");
  const left = html(
    "div",
    { class: "step-facts" },
    step.summary === "" ? null : html("p", { class: "summary" }, withCode(step.summary)),
    html(
      "dl",
      { class: "pairs" },
      facts.map(([name, value]) => [html("dt", {}, name), html("dd", {}, value)]),
    ),
    step.notes.length > 0 && [html("h4", {}, "Notes"), noteList(step.notes)],
    operatorChanges(step, before),
  );
  return isPass(step) ? [left, difference(step)] : [left];
}

function plainValue(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

function operatorChanges(step, before) {
  if (callsOf(step) === null) return null;
  const was = new Map(Object.entries(before ?? {}));
  const is = new Map(Object.entries(step.operators));
  const rows = [...new Set([...was.keys(), ...is.keys()])]
    .map((name) => ({ name, was: was.get(name) ?? 0, is: is.get(name) ?? 0 }))
    .filter((row) => row.was !== row.is)
    .sort((a, b) => Math.abs(b.is - b.was) - Math.abs(a.is - a.was) || (a.name < b.name ? -1 : 1));
  if (rows.length === 0) return html("p", { class: "muted" }, "The same calls as before.");
  return [
    html("h4", {}, "Calls by operator"),
    table(
      [
        { title: "operator", cell: (row) => html("code", {}, row.name) },
        { title: "before", number: true, cell: (row) => formatCount(row.was) },
        { title: "after", number: true, cell: (row) => formatCount(row.is) },
        {
          title: "difference",
          number: true,
          cell: (row) => html("span", { class: signClass(row.is - row.was) }, formatDifference(row.is - row.was)),
        },
      ],
      rows,
    ),
  ];
}

/* What the pass changed. Functions that came or went without a word are one line; long differences wait. */
function difference(step) {
  const box = html("div", { class: "difference" }, html("h4", {}, "What changed in the module"));
  if (step.changes.length === 0) {
    const text = step.changed
      ? "No binding: the pass changed the recipes of parameters, or names."
      : "Nothing: the pass found nothing to do here.";
    box.append(html("p", { class: "muted" }, text));
    return box;
  }
  for (const status of ["added", "removed"]) {
    const names = step.changes.filter((c) => c.status === status && c.hunks.length === 0).map((c) => c.name);
    if (names.length === 0) continue;
    const codes = names.map((name, index) => [index > 0 ? ", " : "", html("code", {}, name)]);
    box.append(html("p", { class: "functions" }, `${counted(names.length, "function")} ${status}: `, codes));
  }
  const parts = step.changes.filter((c) => c.hunks.length > 0).flatMap((change) => functionParts(change));
  appendParts(box, parts);
  return box;
}

/* Pieces of a difference, each with its number of lines, drawn when they are shown. */
function functionParts(change) {
  const head = {
    lines: 0,
    draw: () =>
      html("h5", {}, html("code", {}, change.name), html("span", { class: `status ${change.status}` }, change.status)),
  };
  return [head, ...change.hunks.map((hunk) => ({ lines: hunk.lines.length, draw: () => hunkBlock(hunk) }))];
}

function appendParts(box, parts) {
  let lines = 0;
  let shown = 0;
  while (shown < parts.length && (shown < 2 || lines + parts[shown].lines <= FIRST_LINES)) {
    lines += parts[shown].lines;
    box.append(parts[shown].draw());
    shown += 1;
  }
  if (shown === parts.length) return;
  const rest = parts.slice(shown);
  const button = html(
    "button",
    {
      type: "button",
      click: () => {
        const pieces = rest.map((part) => part.draw());
        button.replaceWith(...pieces);
      },
    },
    `Show ${counted(sum(rest.map((part) => part.lines)), "more line")}`,
  );
  box.append(button);
}

const LINE_SIGNS = { same: " ", removed: "-", added: "+" };

function hunkBlock(hunk) {
  const title = html(
    "div",
    { class: "hunk-title" },
    hunk.title,
    hunk.repeats === "" ? null : html("span", { class: "repeats" }, hunk.repeats),
  );
  const lines = hunk.lines.map((line) =>
    html(
      "div",
      { class: `line ${line.kind}` },
      html("span", { class: "sign" }, LINE_SIGNS[line.kind]),
      html("code", {}, line.text),
    ),
  );
  return html("div", { class: "hunk" }, title, html("div", { class: "lines" }, lines));
}

function wirePipeline(rows) {
  const list = byId("steps");
  setScale("root");
  for (const button of document.querySelectorAll("[data-scale]")) {
    button.addEventListener("click", () => setScale(button.dataset.scale));
  }
  byId("changed-only").addEventListener("change", (event) => {
    list.classList.toggle("changed-only", event.target.checked);
  });
  list.addEventListener("keydown", (event) => {
    const step = event.target.classList.contains("step-row") ? event.target.parentElement : null;
    if (step === null || (event.key !== "ArrowDown" && event.key !== "ArrowUp")) return;
    const shown = rows.filter((row) => row.offsetParent !== null);
    const next = shown[shown.indexOf(step) + (event.key === "ArrowDown" ? 1 : -1)];
    if (next === undefined) return;
    event.preventDefault();
    next.querySelector(".step-row").focus();
  });
}

function setScale(name) {
  for (const button of document.querySelectorAll("[data-scale]")) {
    button.setAttribute("aria-pressed", String(button.dataset.scale === name));
  }
  for (const bar of document.querySelectorAll("[data-share]")) {
    const share = Number(bar.dataset.share);
    setStyle(bar, { width: `${(name === "root" ? Math.sqrt(share) : share) * 100}%` });
  }
}
