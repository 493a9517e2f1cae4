"use strict";

// The records of the two tasks: see ../ends.py and ../../timestamps.py.

const fs = require("node:fs");
const { performance } = require("node:perf_hooks");

const last = Number(process.env.FIRELOCK_BENCH_LAST || "0");
const step = Math.max(1, Math.floor(last / 50));
let file;
let ended = 0;

function now() {
  return BigInt(Math.round((performance.timeOrigin + performance.now()) * 1000)) * 1000n;
}

function write(number) {
  const instant = now();
  file = file ?? fs.openSync(process.env.FIRELOCK_BENCH_TIMESTAMPS, "a", 0o600);
  fs.writeSync(file, `${number} ${instant}\n`);
}

function countEnd() {
  ended += 1;
  if (ended % step === 0 || ended === 1 || ended === last) write(ended);
}

module.exports = { now, write, countEnd };
