/**
 * Eigen-decompositions beside the main thread: `Worker` in a browser, worker threads in Node, in place where there are neither.
 * A worker runs the text of the kernel, so its results are the bits that `eigen` gives, however many workers there are.
 */
import { RuntimeFault } from "./artifact.js";
import { checkMatrix, type Eigen, eigenKernel, kernelText } from "./eigen.js";
import type { Helper, HelperEvents } from "./helper.js";

export interface EigenJob {
  /** For messages. */
  readonly name?: string;
  readonly n: number;
  /** Symmetric [n, n], row-major; the lower triangle is read. */
  readonly data: Float64Array;
}

export interface EigenManyOptions {
  /** Default true. false: eigenvalues alone, and `vectors` of the results are empty. */
  readonly vectors?: boolean;
  /** At most this many workers; default: cores, at most 8, and none for work of some milliseconds. 0: on this thread. */
  readonly workers?: number;
  /** true: the matrices are given away and not copied; their buffers are detached or overwritten. Default false. */
  readonly consume?: boolean;
}

interface Reply {
  readonly values: Float64Array;
  readonly a: Float64Array;
  readonly error?: string;
}

/** A helper that has said "ready", and what it is asked. */
interface Worked {
  readonly ask: (message: unknown, transfer: readonly ArrayBuffer[]) => Promise<unknown>;
  readonly helper: Helper;
}

const MOST_WORKERS = 8;
const IDLE_MS = 2000; // an idle worker ends after this: longer than the time between two refreshes of a training run
const SMALL_WORK = 5e6; // Σ n³ below which starting a thread takes longer than the work
const VALUES_SHARE = 0.2; // of the work of a decomposition with vectors

const idle: Worked[] = [];
let retiring: ReturnType<typeof setTimeout> | undefined;

/** What every worker runs. */
export function workerText(): string {
  return `"use strict";
    const kernel = ${kernelText()};
    const answer = ({ n, a, vectors }) => {
      try {
        const values = kernel(n, a, vectors);
        const kept = vectors ? a : new Float64Array(0);
        return [{ values, a: kept }, [values.buffer, kept.buffer]];
      } catch (reason) {
        return [{ error: String(reason) }, []];
      }
    };`;
}

/** The parts of a browser's `Worker` that are used here: the types of a browser are not loaded. */
interface BrowserWorker {
  onmessage: ((event: { readonly data: unknown }) => void) | null;
  onerror: ((event: unknown) => void) | null;
  postMessage(message: unknown, transfer: readonly ArrayBuffer[]): void;
  terminate(): void;
}
interface Globals {
  readonly Worker?: new (url: string) => BrowserWorker;
  readonly navigator?: { readonly hardwareConcurrency?: number };
  readonly process?: { readonly versions?: { readonly node?: string } };
}
const host = globalThis as unknown as Globals;

function browserHelper(make: NonNullable<Globals["Worker"]>, body: string, events: HelperEvents): Helper {
  const text = `${body}
    self.onmessage = ({ data }) => self.postMessage(...answer(data));
    self.postMessage("ready");`;
  const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
  const worker = new make(url);
  const loaded = (): void => URL.revokeObjectURL(url);
  worker.onmessage = ({ data }) => {
    if (data === "ready") loaded();
    events.message(data);
  };
  worker.onerror = (event) => {
    loaded();
    events.fault(event);
  };
  return { post: (message, transfer) => worker.postMessage(message, transfer), hold: () => {}, release: () => {}, end: () => worker.terminate() };
}

async function openHelper(events: HelperEvents): Promise<Helper> {
  if (host.Worker) return browserHelper(host.Worker, workerText(), events);
  if (!host.process?.versions?.node) throw new Error("no workers here");
  return (await import("./offthread.node.js")).nodeHelper(workerText(), events);
}

/** A worker that has started; one of the idle ones if there is one. Rejects if none can be made. */
async function startWorker(): Promise<Worked> {
  const waiting = idle.pop();
  if (waiting) {
    waiting.helper.hold();
    return waiting;
  }
  let settle: { readonly done: (reply: unknown) => void; readonly fail: (reason: unknown) => void } | undefined;
  const next = (): Promise<unknown> => new Promise((done, fail) => { settle = { done, fail }; });
  const ready = next();
  const events: HelperEvents = {
    message: (message) => settle?.done(message),
    fault: (reason) => {
      const at = idle.findIndex((w) => w.helper === helper);
      if (at >= 0) idle.splice(at, 1);
      settle?.fail(reason);
    },
  };
  const helper = await openHelper(events);
  await ready;
  return {
    helper,
    ask: (message, transfer) => {
      const reply = next();
      helper.post(message, transfer);
      return reply;
    },
  };
}

/** Keeps the worker for a while; idle workers do not keep the process alive. */
function rest(worker: Worked): void {
  worker.helper.release();
  idle.push(worker);
  clearTimeout(retiring);
  retiring = setTimeout(() => { for (const { helper } of idle.splice(0)) helper.end(); }, IDLE_MS);
  (retiring as { unref?: () => void }).unref?.();
}

const cores = async (): Promise<number> =>
  host.process?.versions?.node && !host.Worker ? (await import("./offthread.node.js")).cores() : (host.navigator?.hardwareConcurrency ?? 1);

const work = (jobs: readonly EigenJob[], vectors: boolean): number => jobs.reduce((sum, { n }) => sum + n ** 3 * (vectors ? 1 : VALUES_SHARE), 0);

/**
 * The decompositions of all jobs, in their order; the largest start first.
 *
 * @throws RuntimeFault as `eigen`, before any work is done; "internal" if a worker dies at its work.
 */
export async function eigenMany(jobs: readonly EigenJob[], options: EigenManyOptions = {}): Promise<Eigen[]> {
  const vectors = options.vectors ?? true;
  for (const { n, data, name } of jobs) checkMatrix(n, data, name ?? "matrix");
  const wanted = Math.min(jobs.length, MOST_WORKERS, options.workers ?? (work(jobs, vectors) < SMALL_WORK ? 0 : await cores().catch(() => 0)));
  const workers = wanted > 0 ? await someWorkers(wanted) : [];
  const results = new Array<Eigen>(jobs.length);
  const queue = jobs.map((_, k) => k).sort((j, k) => (jobs[k] as EigenJob).n - (jobs[j] as EigenJob).n || j - k);
  const lane = async (worker: Worked | undefined): Promise<void> => {
    for (let k = queue.shift(); k !== undefined; k = queue.shift()) {
      const job = jobs[k] as EigenJob;
      const a = options.consume ? job.data : job.data.slice();
      results[k] = worker ? await remote(worker, job, a, vectors) : here(job, a, vectors);
    }
    if (worker) rest(worker);
  };
  const outcomes = await Promise.allSettled(workers.length > 0 ? workers.map((worker) => lane(worker)) : [lane(undefined)]);
  for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
  return results;
}

/** As many of `wanted` workers as can be had. */
async function someWorkers(wanted: number): Promise<Worked[]> {
  const started = await Promise.allSettled(Array.from({ length: wanted }, () => startWorker()));
  return started.flatMap((s) => (s.status === "fulfilled" ? [s.value] : []));
}

const failed = (job: EigenJob, reason: unknown): RuntimeFault =>
  new RuntimeFault("internal", `the eigen-decomposition of "${job.name ?? "matrix"}" failed: ${reason instanceof Error ? reason.message : String(reason)}`, job.name);

function here(job: EigenJob, a: Float64Array, vectors: boolean): Eigen {
  try {
    return { n: job.n, values: eigenKernel(job.n, a, vectors), vectors: vectors ? a : new Float64Array(0) };
  } catch (reason) {
    throw failed(job, reason);
  }
}

async function remote(worker: Worked, job: EigenJob, a: Float64Array, vectors: boolean): Promise<Eigen> {
  try {
    const whole = a.byteLength === a.buffer.byteLength && a.buffer instanceof ArrayBuffer;
    const reply = (await worker.ask({ n: job.n, a, vectors }, whole ? [a.buffer as ArrayBuffer] : [])) as Reply;
    if (reply.error !== undefined) throw reply.error;
    return { n: job.n, values: reply.values, vectors: reply.a };
  } catch (reason) {
    worker.helper.end();
    throw failed(job, reason);
  }
}
