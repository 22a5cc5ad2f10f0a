"use strict";

/* The configuration: each value and where it came from. */

function renderConfiguration(report) {
  const rows = report.config.map((entry) => ({ entry, row: configRow(entry) }));
  byId("config-table").append(
    html(
      "thead",
      {},
      html(
        "tr",
        {},
        ["key", "value", "from"].map((title) => html("th", { scope: "col" }, title)),
      ),
    ),
    html(
      "tbody",
      {},
      rows.map(({ row }) => row),
    ),
  );
  const filter = byId("config-filter");
  const hide = byId("hide-defaults");
  const update = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const { entry, row } of rows) {
      const text = `${entry.key}\n${plainValue(entry.value)}\n${entry.origin}`.toLowerCase();
      const visible = words.every((word) => text.includes(word)) && !(hide.checked && entry.origin === "default");
      row.hidden = !visible;
      shown += visible ? 1 : 0;
    }
    byId("config-count").textContent = `${formatCount(shown)} of ${counted(rows.length, "value")}`;
  };
  filter.addEventListener("input", update);
  hide.addEventListener("change", update);
  update();
}

function configRow(entry) {
  return html(
    "tr",
    { class: entry.origin === "default" && "default" },
    html("td", {}, html("code", {}, entry.key)),
    html("td", {}, html("code", {}, plainValue(entry.value))),
    html("td", {}, entry.origin),
  );
}
