"use strict";

// BullMQ's worker with the two tasks.

const { Worker } = require("bullmq");
const Redis = require("ioredis");
const timestamps = require("./timestamps.js");

const connection = new Redis(process.env.REDIS_URL, { maxRetriesPerRequest: null });

async function run(job) {
  if (job.name === "noop") timestamps.countEnd();
  else timestamps.write(job.data.number);
}

const worker = new Worker("bench", run, { connection, concurrency: 20 });

process.on("SIGTERM", async () => {
  await worker.close();
  process.exit(0);
});
