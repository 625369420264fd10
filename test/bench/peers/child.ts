/** One library's rows, in a process of its own: `node --import tsx test/bench/peers/child.ts jax|tfjs FILE ROUNDS`. */
import { writeFileSync } from "node:fs";
import { openDevice } from "../../../runtime/adapter.node.js";
import { countCalls } from "../count.js";
import { type Bench, measure, targetOf } from "../measure.js";
import type { Results, Row } from "../result.js";
import { median } from "../stats.js";
import { gflops, openYardstick } from "../yardstick.js";
import { works as jax } from "./jax.js";
import { lend, subjectsOf } from "./shared.js";
import { works as tfjs } from "./tfjs.js";

const LIBRARIES = { jax, tfjs } as const;
const [name, file, rounds] = process.argv.slice(2) as [keyof typeof LIBRARIES, string, string];
const opened = await openDevice();
lend(opened);
const yardstick = await openYardstick(opened);
const bench: Bench = { device: opened.device, target: targetOf(opened.kind), yardstick, calls: countCalls(opened.device), rounds: Number(rounds), yards: [await yardstick.round()] };
const rows: Row[] = [];
for (const subject of subjectsOf(await LIBRARIES[name](opened.device), new Map()))
  rows.push(await measure(subject, bench).catch((e: unknown) => ({ id: subject.id, name: subject.name, facts: {}, error: e instanceof Error ? e.message : String(e) })));
const yardstickMs = median(bench.yards);
writeFileSync(file, JSON.stringify({ adapter: opened.kind, name: opened.name, yardstickMs, gflops: gflops(yardstickMs), processes: 1, rows } satisfies Results));
yardstick.close();
await opened.close();
// the libraries keep timers and workers of their own
process.exit(0);
