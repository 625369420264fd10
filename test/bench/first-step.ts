/**
 * One process's first K-FAC step, as JSON: `node --import tsx test/bench/first-step.ts NETWORK`. The plan is made before the clock starts;
 * buffers, pipelines, what the driver compiles, inverses and the step itself are in it.
 */
import { openDevice } from "../../runtime/adapter.node.js";
import { Trainer } from "../../runtime/trainer.js";
import { COMPILE_DEFAULTS, compile } from "../../src/compile.js";
import { targetOf } from "./measure.js";
import { batchOf, NETWORKS } from "./models.js";

const network = NETWORKS.find((n) => n.id === process.argv[2]);
if (!network) throw new Error(`no network "${process.argv[2]}": one of ${NETWORKS.map((n) => n.id).join(", ")}`);
const forward = await network.forward();
const opened = await openDevice();
const start = performance.now();
const c = compile(forward, { ...COMPILE_DEFAULTS, loss: network.loss, batches: [network.batch], target: targetOf(opened.kind) });
const compileMs = performance.now() - start;
const batch = batchOf(network, c);
const before = performance.now();
const trainer = await Trainer.create(opened.device, c.artifact, c.sources, Object.fromEntries(c.weights), { seed: 1, run: { lr: 1e-3 } });
const loss = await trainer.step(batch).loss;
await trainer.finish();
await opened.device.queue.onSubmittedWorkDone();
const firstMs = performance.now() - before;
if (!Number.isFinite(loss)) throw new Error(`the first loss is ${loss}`);
console.log(JSON.stringify({ compileMs, firstMs, loss }));
await trainer.dispose();
await opened.close();
