// Numbers and names as a reader wants them.

export const NONE = "n/a";
export const NAMES = { "torch-f16": "cuBLAS f16" };

export const named = (executor) => NAMES[executor] ?? executor;
export const times = (value) => (value === null || value === undefined ? NONE : `${value.toFixed(2)}×`);
export const error = (value) => (value === null || value === undefined ? NONE : value.toExponential(1));
export const many = (number, one, more = `${one}s`) => `${number} ${number === 1 ? one : more}`;
export const short = (key) => key.slice(0, 12);

/** Milliseconds in the unit that suits them. */
export function duration(ms) {
  if (ms === null || ms === undefined) return NONE;
  return ms < 1 ? `${(ms * 1000).toFixed(1)} µs` : `${ms.toFixed(2)} ms`;
}

export function bytes(size) {
  if (size === null || size === undefined) return NONE;
  return size < 1024 ? `${size} B` : size < 1 << 20 ? `${(size / 1024).toFixed(1)} KiB` : `${(size / (1 << 20)).toFixed(1)} MiB`;
}

const MOMENT = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });

/** A moment on the reader's clock. */
export function moment(text) {
  const when = new Date(text);
  return Number.isNaN(when.getTime()) ? text : MOMENT.format(when);
}

/** What is multiplied, or which step of which model. */
export function problem(workload) {
  if (workload.model === undefined) return `m = ${workload.m}, k = ${workload.k}, n = ${workload.n}`;
  const step = workload.stage === "prefill" ? `prefill, ${workload.tokens} tokens` : `decode, batch ${workload.batch}`;
  return `${workload.model}, ${step}`;
}

/** How the weight is scaled. */
export function scaling(workload) {
  const groups = workload.group_size === -1 ? "one scale a column" : `groups of ${workload.group_size}`;
  return workload.zeros ? `${groups}, with zero points` : groups;
}
