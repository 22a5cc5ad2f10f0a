"use strict";

/* Each kernel against what the machine can do at most: a log-log picture and a table, for decoding and for prefill. */

const CHART_HEIGHT = 380;
const LEAST_INTENSITY = 0.01; // operations per byte; what does less is a copy and would only stretch the picture

function renderRooflines(report) {
  const box = byId("rooflines");
  if (report.limits !== null) box.append(limitsLine(report.limits));
  else box.append(html("p", { class: "empty" }, unmeasuredText(report.rooflines.length > 0)));
  for (const roofline of report.rooflines) box.append(rooflinePart(report.limits, roofline));
}

function unmeasuredText(hasSteps) {
  const text = "Nothing was measured for this report, so there are no limits to compare the kernels with.";
  return hasSteps ? `${text} The tables have their bytes and operations alone.` : text;
}

function limitsLine(limits) {
  const facts = [
    ["machine", limits.machine],
    ["read bandwidth", formatByteRate(limits.bandwidth)],
    ["int8 dot product", formatOperationRate(limits.int8_peak)],
    ["float32 multiply-add", formatOperationRate(limits.float_peak)],
  ];
  if (limits.bf16_peak !== null) facts.push(["bfloat16 dot product", formatOperationRate(limits.bf16_peak)]);
  const lines = facts.map(([name, value]) => html("div", {}, html("dt", {}, name), html("dd", {}, value)));
  return html("dl", { class: "facts limits" }, lines);
}

/* Points in the order of their time, with the number by which picture and table call them. */
function numbered(roofline) {
  const time = (point) => point.measured_seconds ?? point.least_seconds;
  const whole = sum(roofline.points.map(time));
  return [...roofline.points]
    .sort((a, b) => time(b) - time(a))
    .map((point, index) => ({ ...point, number: index + 1, share: whole === 0 ? 0 : time(point) / whole }));
}

function rooflinePart(limits, roofline) {
  const points = numbered(roofline);
  const part = html("div", { class: "roofline-part" }, html("h3", {}, roofline.title));
  const columns = html("div", { class: "roofline-columns" });
  part.append(columns);
  if (limits !== null) {
    const picture = html("div", { class: "picture" });
    const readout = html("output", { class: "readout" });
    const outside = points.filter((point) => !isInside(point));
    columns.append(html("div", { class: "roofline-chart" }, picture, readout, outsideNote(outside)));
    const show = (number) => showPoint(part, readout, points.find((point) => point.number === number) ?? null);
    drawAtWidth(picture, (width) => drawRoofline(limits, roofline, points, picture, width, show));
    show(null);
    part.addEventListener("pointerover", (event) => followPoint(event, show));
    part.addEventListener("focusin", (event) => followPoint(event, show));
    part.addEventListener("click", (event) => followPoint(event, show));
  }
  columns.append(html("div", { class: "roofline-table" }, rooflineTable(limits, points), beyondNote(limits, points)));
  return part;
}

/* A share above 100 % is no wonder, but wants a word. */
function beyondNote(limits, points) {
  const beyond = (point) => point.measured_seconds !== null && point.least_seconds > 1.02 * point.measured_seconds;
  if (limits === null || !points.some(beyond)) return null;
  const text =
    "Above 100 %: what the kernel reads was still in a cache, since the limit counts each byte as read from memory, " +
    "or the machine was busier while its limits were measured.";
  return html("p", { class: "muted beyond" }, text);
}

function followPoint(event, show) {
  const target = event.target.closest("[data-point]");
  if (target !== null) show(Number(target.dataset.point));
}

function isInside(point) {
  return point.bytes > 0 && point.operations / point.bytes >= LEAST_INTENSITY;
}

function outsideNote(outside) {
  if (outside.length === 0) return null;
  const names = outside.map((point, index) => [index > 0 ? ", " : "", html("code", {}, point.kernel)]);
  return html("p", { class: "muted" }, "Copies, with hardly an operation, are in the table alone: ", names);
}

function showPoint(part, readout, point) {
  for (const element of part.querySelectorAll("[data-point]")) {
    element.classList.toggle("shown", point !== null && Number(element.dataset.point) === point.number);
  }
  if (point === null) {
    readout.textContent =
      "A circle's area is its share of the time, its line goes up to its limit. " +
      "Point at one, tap it or Tab to it for figures.";
    return;
  }
  const seconds = point.measured_seconds;
  const measured = seconds === null ? "not measured" : `${formatSeconds(seconds)} measured`;
  const least = formatSeconds(point.least_seconds);
  readout.replaceChildren(
    ofFamily(point.kind, html("b", {}, `${point.number}. `), html("code", {}, point.kernel)),
    html("span", {}, `${counted(point.calls, "call")}, ${workText(point)}`),
    html("span", {}, `${measured}, at least ${least} (bound by ${point.bound})${shareText(point)}`),
  );
}

function workText(point) {
  const intensity = `${formatIntensity(point.operations, point.bytes)} op/byte`;
  return `${formatBytes(point.bytes)}, ${formatOperations(point.operations)}, ${intensity}`;
}

function shareText(point) {
  return point.measured_seconds === null
    ? ""
    : `: ${formatShare(point.least_seconds / point.measured_seconds)} of the limit`;
}

function drawRoofline(limits, roofline, points, picture, width, show) {
  const inside = points.filter(isInside);
  const axes = rooflineAxes(limits, inside, width);
  picture.replaceChildren(
    svg(
      "svg",
      { width, height: CHART_HEIGHT, role: "group", "aria-label": `Roofline, ${roofline.title}` },
      decades(axes),
      roofs(limits, axes),
      marks(limits, inside, axes, show),
    ),
  );
}

/* Name and operations per second of each kind of product that was measured. */
function peaksOf(limits) {
  const peaks = [
    ["int8", limits.int8_peak],
    ["bfloat16", limits.bf16_peak],
    ["float32", limits.float_peak],
  ];
  return peaks.filter(([, peak]) => peak !== null);
}

/* Rate that a kernel reaches; without a measurement, the rate that its limits allow. */
function rateOf(point) {
  return point.operations / (point.measured_seconds ?? point.least_seconds);
}

function rooflineAxes(limits, points, width) {
  const ridge = limits.int8_peak / limits.bandwidth;
  const xs = [...points.map((point) => point.operations / point.bytes), ridge];
  const ys = [...points.map(rateOf), ...peaksOf(limits).map(([, peak]) => peak)];
  const axes = {
    left: 62,
    right: width - 14,
    top: 22,
    bottom: CHART_HEIGHT - 44,
    x0: Math.floor(Math.log10(Math.min(...xs)) - 0.1),
    x1: Math.log10(Math.max(...xs)) + 0.5,
    y0: Math.floor(Math.log10(Math.min(...ys)) - 0.1),
    y1: Math.log10(Math.max(...ys)) + 0.35,
  };
  axes.x = (value) => axes.left + ((Math.log10(value) - axes.x0) / (axes.x1 - axes.x0)) * (axes.right - axes.left);
  axes.y = (value) => axes.bottom - ((Math.log10(value) - axes.y0) / (axes.y1 - axes.y0)) * (axes.bottom - axes.top);
  return axes;
}

function decades(axes) {
  const parts = [];
  for (let power = Math.ceil(axes.x0); power <= axes.x1; power += 1) {
    const x = axes.x(10 ** power);
    const text = power >= 0 ? formatCount(10 ** power) : (10 ** power).toFixed(-power);
    parts.push(svg("line", { class: "grid", x1: x, x2: x, y1: axes.top, y2: axes.bottom }));
    parts.push(svg("text", { class: "tick", x, y: axes.bottom + 16, "text-anchor": "middle" }, text));
  }
  for (let power = Math.ceil(axes.y0); power <= axes.y1; power += 1) {
    const y = axes.y(10 ** power);
    parts.push(svg("line", { class: "grid", x1: axes.left, x2: axes.right, y1: y, y2: y }));
    const text = formatOperationRate(10 ** power).replace("op/s", "");
    parts.push(svg("text", { class: "tick", x: axes.left - 6, y: y + 4, "text-anchor": "end" }, text));
  }
  const middle = (axes.left + axes.right) / 2;
  parts.push(
    svg("text", { class: "axis", x: middle, y: axes.bottom + 34, "text-anchor": "middle" }, "operations per byte"),
  );
  parts.push(svg("text", { class: "axis", x: 4, y: 12 }, "op/s"));
  return svg("g", { "aria-hidden": "true" }, parts);
}

function roofs(limits, axes) {
  const start = 10 ** axes.x0;
  const end = 10 ** axes.x1;
  const foot = Math.max(start, 10 ** axes.y0 / limits.bandwidth);
  const ridge = (peak) => peak / limits.bandwidth;
  const corner = ridge(limits.int8_peak);
  const at = (x, y) => `${axes.x(x).toFixed(1)} ${axes.y(y).toFixed(1)}`;
  const peaks = peaksOf(limits).map(([name, peak]) => [
    svg("path", { class: `roof ${name}`, d: `M${at(Math.max(start, ridge(peak)), peak)}L${at(end, peak)}` }),
    svg(
      "text",
      { class: "roof-text", x: axes.x(ridge(peak)) - 10, y: axes.y(peak) + 4, "text-anchor": "end" },
      `${name} ${formatOperationRate(peak)}`,
    ),
  ]);
  return svg(
    "g",
    {},
    svg("path", { class: "roof", d: `M${at(foot, foot * limits.bandwidth)}L${at(corner, limits.int8_peak)}` }),
    peaks,
    bandwidthText(limits, axes, foot),
  );
}

/* Along the slope, above it, where the slope is long. */
function bandwidthText(limits, axes, foot) {
  const top = limits.float_peak / limits.bandwidth;
  const middle = foot * (top / foot) ** 0.22;
  const at = (value) => [axes.x(value), axes.y(value * limits.bandwidth)];
  const [[x0, y0], [x, y], [x1, y1]] = [foot, middle, top].map(at);
  const angle = (Math.atan2(y1 - y0, x1 - x0) * 180) / Math.PI;
  const transform = `translate(${x} ${y}) rotate(${angle}) translate(0 -7)`;
  const text = `read ${formatByteRate(limits.bandwidth)}`;
  return svg("text", { class: "roof-text", "text-anchor": "middle", transform }, text);
}

/* Large circles first, so that small ones stay on top of them. */
function marks(limits, points, axes, show) {
  const taken = peaksOf(limits).map(([, peak]) => {
    const right = axes.x(peak / limits.bandwidth) - 10;
    return { left: right - 110, right, y: axes.y(peak) }; // the names of the roofs
  });
  const placed = points.map((point) => ({
    point,
    x: axes.x(point.operations / point.bytes),
    y: axes.y(rateOf(point)),
    limit: axes.y(point.operations / point.least_seconds),
    radius: 3.5 + 16 * Math.sqrt(point.share),
  }));
  const circles = placed.map((mark) => pointMark(mark, show));
  const texts = placed.filter(({ point }) => point.share >= 0.005).map((mark) => pointNumber(mark, taken));
  return [circles, svg("g", { "aria-hidden": "true" }, texts)];
}

function pointMark({ point, x, y, limit, radius }, show) {
  const measured = point.measured_seconds !== null;
  const seconds = formatSeconds(point.measured_seconds ?? point.least_seconds);
  const label = `${point.kernel}, ${counted(point.calls, "call")}, ${seconds}${shareText(point)}`;
  const choose = (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    show(point.number);
  };
  return svg(
    "g",
    {
      class: `point family-${familyOf(point.kind)}`,
      "data-point": point.number,
      tabindex: 0,
      role: "img",
      "aria-label": label,
      keydown: choose,
    },
    measured && svg("line", { class: "gap", x1: x, x2: x, y1: y, y2: limit }),
    svg("circle", { cx: x, cy: y, r: radius, class: measured ? "measured" : "least" }),
  );
}

/* The number beside its circle: at its right, at its left, or a little below or above, where it covers no other. */
function pointNumber({ point, x, y, radius }, taken) {
  const sides = [x + radius + 3, x - radius - 18];
  const places = [0, 12, -12, 24, -24, 36, -36].flatMap((offset) => sides.map((left) => ({ left, y: y + offset })));
  const free = (place) =>
    taken.every((t) => Math.abs(t.y - place.y) >= 11 || t.right <= place.left || place.left + 15 <= t.left);
  const place = places.find(free) ?? places[0];
  taken.push({ ...place, right: place.left + 15 });
  const middle = { x: place.left + 7, y: place.y + 4, "text-anchor": "middle" };
  return svg("text", { class: "point-number", ...middle }, String(point.number));
}

function rooflineTable(limits, points) {
  const time = limits === null ? [] : timeColumns();
  const columns = [
    { title: "", number: true, cell: (row) => html("span", { class: "muted" }, String(row.number)) },
    {
      title: "kernel",
      cell: (row) => html("span", { class: "kernel" }, ofFamily(row.kind, html("code", {}, row.kernel))),
    },
    { title: "calls", number: true, cell: (row) => formatCount(row.calls) },
    { title: "moved", number: true, cell: (row) => formatBytes(row.bytes) },
    { title: "operations", number: true, cell: (row) => formatOperations(row.operations) },
    { title: "op/byte", number: true, cell: (row) => formatIntensity(row.operations, row.bytes) },
    ...time,
  ];
  const made = table(columns, points);
  [...made.querySelectorAll("tbody tr")].forEach((row, index) => {
    row.dataset.point = String(points[index].number);
  });
  if (limits !== null) made.querySelector("table").append(totalRow(points));
  return made;
}

function timeColumns() {
  return [
    { title: "bound by", cell: (row) => row.bound },
    { title: "at least", number: true, cell: (row) => formatSeconds(row.least_seconds) },
    { title: "measured", number: true, cell: (row) => formatSeconds(row.measured_seconds) },
    { title: "of the limit", number: true, cell: (row) => limitShare(row.least_seconds, row.measured_seconds) },
    { title: "of the time", number: true, cell: (row) => formatShare(row.share) },
  ];
}

function limitShare(least, measured) {
  if (measured === null || measured === 0) return NOTHING;
  const share = least / measured;
  return html("span", { class: "limit-share" }, html("span", { class: "limit-bar" }, barOf(share)), formatShare(share));
}

function totalRow(points) {
  const measured = points.filter((point) => point.measured_seconds !== null);
  const all = measured.length === points.length;
  const seconds = all ? sum(points.map((point) => point.measured_seconds)) : null;
  const least = sum(points.map((point) => point.least_seconds));
  const number = (value) => html("td", { class: "number" }, value);
  return html(
    "tfoot",
    {},
    html(
      "tr",
      {},
      html("td"),
      html("td", {}, "together"),
      number(formatCount(sum(points.map((point) => point.calls)))),
      number(formatBytes(sum(points.map((point) => point.bytes)))),
      number(formatOperations(sum(points.map((point) => point.operations)))),
      html("td"),
      html("td"),
      number(formatSeconds(least)),
      number(formatSeconds(seconds)),
      number(limitShare(least, seconds)),
      html("td"),
    ),
  );
}
