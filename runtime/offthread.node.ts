/** Node's worker threads as helpers of `offthread.ts`. */
import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import type { Helper, HelperEvents } from "./helper.js";

export const cores = (): number => availableParallelism();

/** @param body source text that defines `answer(message) → [reply, transferables]`. */
export function nodeHelper(body: string, events: HelperEvents): Helper {
  const text = `${body}
    const { parentPort } = require("node:worker_threads");
    parentPort.on("message", (message) => parentPort.postMessage(...answer(message)));
    parentPort.postMessage("ready");`;
  // without the parent's flags: they may name a loader that this text has no use for
  const worker = new Worker(text, { eval: true, execArgv: [] });
  worker.on("message", events.message);
  worker.on("error", events.fault);
  worker.on("exit", () => events.fault(new Error("the worker thread has ended")));
  return {
    post: (message, transfer) => worker.postMessage(message, transfer),
    hold: () => worker.ref(),
    release: () => worker.unref(),
    end: () => void worker.terminate(),
  };
}
