"use strict";

// A client that enqueues jobs and measures itself: see ../program.py.

const readline = require("node:readline");
const { Queue } = require("bullmq");
const Redis = require("ioredis");
const timestamps = require("./timestamps.js");

const connection = new Redis(process.env.REDIS_URL, { maxRetriesPerRequest: null });
const queue = new Queue("bench", { connection, defaultJobOptions: { removeOnComplete: true } });

async function enqueue(jobs, size) {
  if (size === 1) {
    for (let number = 0; number < jobs; number += 1) await queue.add("noop", { number });
    return;
  }
  for (let begin = 0; begin < jobs; begin += size) {
    const calls = [];
    for (let number = begin; number < Math.min(begin + size, jobs); number += 1) {
      calls.push({ name: "noop", data: { number } });
    }
    await queue.addBulk(calls);
  }
}

async function main() {
  await queue.waitUntilReady();
  if (process.argv[2] === "jobs") {
    const [jobs, size] = process.argv.slice(3).map(Number);
    const cpu = process.cpuUsage();
    const begun = process.hrtime.bigint();
    await enqueue(jobs, size);
    const seconds = Number(process.hrtime.bigint() - begun) / 1e9;
    const used = process.cpuUsage(cpu);
    console.log(`${seconds} ${(used.user + used.system) / 1e6}`);
  } else {
    console.log("ready");
    for await (const line of readline.createInterface({ input: process.stdin })) {
      const called = timestamps.now();
      await queue.add("stamp", { number: Number(line) });
      console.log(String(called));
    }
  }
  await queue.close();
  connection.disconnect();
}

main();
