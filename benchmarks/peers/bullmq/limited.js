"use strict";

// BullMQ's worker and client with its limits; ../records.py describes the records of jobs.

const fs = require("node:fs");
const { performance } = require("node:perf_hooks");
const { Queue, Worker } = require("bullmq");
const Redis = require("ioredis");

const limit = Number(process.env.FIRELOCK_BENCH_LIMIT);
const rate = Number(process.env.FIRELOCK_BENCH_RATE);
const seconds = Number(process.env.FIRELOCK_BENCH_SECONDS);
const connection = new Redis(process.env.FIRELOCK_BENCH_URL, { maxRetriesPerRequest: null });

function write(file, what, number) {
  const instant = BigInt(Math.round((performance.timeOrigin + performance.now()) * 1000)) * 1000n;
  fs.writeSync(file, `${what} ${number} ${process.pid} ${instant}\n`);
}

function work() {
  const file = fs.openSync(process.env.FIRELOCK_BENCH_RECORDS, "a", 0o600);
  async function run(job) {
    write(file, "start", job.data.number);
    if (seconds) await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
    write(file, "end", job.data.number);
  }
  const limiter = rate ? { max: rate, duration: 1000 } : undefined;
  const worker = new Worker("bench", run, { connection, concurrency: 10, limiter });
  process.on("SIGTERM", async () => {
    await worker.close();
    process.exit(0);
  });
}

async function enqueue(jobs) {
  const queue = new Queue("bench", { connection, defaultJobOptions: { removeOnComplete: true } });
  if (limit) await queue.setGlobalConcurrency(limit);
  for (let begin = 0; begin < jobs; begin += 500) {
    const calls = [];
    for (let number = begin; number < Math.min(begin + 500, jobs); number += 1) {
      calls.push({ name: "work", data: { number } });
    }
    await queue.addBulk(calls);
  }
  await queue.close();
  connection.disconnect();
}

if (process.argv[2] === "work") work();
else enqueue(Number(process.argv[2]));
