"use strict";

/* Figures with units, three significant digits. */

const BYTE_UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];
const DECIMAL_PREFIXES = ["", "k", "M", "G", "T", "P"];
const NOTHING = "–";

function digits(value) {
  const size = Math.abs(value);
  if (size >= 99.95 || size === 0) return value.toFixed(0);
  return value.toFixed(size >= 9.995 ? 1 : 2);
}

function scaled(value, base, names) {
  let power = 0;
  let rest = value;
  while (Math.abs(rest) >= base * 0.9995 && power < names.length - 1) {
    rest /= base;
    power += 1;
  }
  return { text: power === 0 ? String(Math.round(rest * 100) / 100) : digits(rest), unit: names[power] };
}

function formatBytes(bytes) {
  const { text, unit } = scaled(bytes, 1024, BYTE_UNITS);
  return `${text} ${unit}`;
}

function formatOperations(operations) {
  if (operations === 0) return "0";
  const { text, unit } = scaled(operations, 1000, DECIMAL_PREFIXES);
  return `${text} ${unit}op`;
}

function formatOperationRate(rate) {
  const { text, unit } = scaled(rate, 1000, DECIMAL_PREFIXES);
  return `${text} ${unit}op/s`;
}

function formatByteRate(rate) {
  const { text, unit } = scaled(rate, 1000, DECIMAL_PREFIXES);
  return `${text} ${unit}B/s`;
}

function formatSeconds(seconds) {
  if (seconds === null) return NOTHING;
  if (seconds === 0) return "0 s";
  if (seconds >= 0.9995) return `${digits(seconds)} s`;
  if (seconds >= 0.0009995) return `${digits(seconds * 1e3)} ms`;
  if (seconds >= 0.0000009995) return `${digits(seconds * 1e6)} µs`;
  return `${digits(seconds * 1e9)} ns`;
}

function formatCount(count) {
  return String(count).replace(/\B(?=(\d{3})+(?!\d))/g, ",");
}

function formatDifference(difference) {
  if (difference === 0) return "±0";
  return difference > 0 ? `+${formatCount(difference)}` : `−${formatCount(-difference)}`;
}

function formatShare(share) {
  const percent = share * 100;
  if (percent > 0 && percent < 0.05) return "< 0.1 %";
  return `${percent >= 9.95 || percent === 0 ? percent.toFixed(0) : percent.toFixed(1)} %`;
}

function formatIntensity(operations, bytes) {
  if (bytes === 0) return NOTHING;
  const intensity = operations / bytes;
  return intensity > 0 && intensity < 0.0095 ? intensity.toPrecision(1) : digits(intensity);
}

function counted(count, singular, plural = `${singular}s`) {
  return `${formatCount(count)} ${count === 1 ? singular : plural}`;
}

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}

/* Colours are by family of operators, the same in the graph, the memory chart and the roofline. */
const FAMILIES = [
  ["attention", /attention/],
  ["linear", /linear|matmul|gemm/],
  ["norm", /norm/],
  ["activation", /swiglu|silu|gelu|sigmoid|softmax/],
  ["lookup", /embedding|rotary|rows|take|gather/],
];

function familyOf(kind) {
  const found = FAMILIES.find(([, pattern]) => pattern.test(kind));
  return found ? found[0] : "other";
}
