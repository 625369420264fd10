/** One process's run: every subject that was asked for, one after the other, on one device. */
import { openDevice } from "../../runtime/adapter.node.js";
import type { Args } from "./args.js";
import { countCalls } from "./count.js";
import { type Bench, measure, type Subject, targetOf } from "./measure.js";
import type { Results, Row } from "./result.js";
import { STARTUPS } from "./startup.js";
import { median } from "./stats.js";
import { CONVOLUTIONS } from "./work/conv.js";
import { INVERSES } from "./work/inverse.js";
import { MATMULS } from "./work/matmul.js";
import { MODELS } from "./work/models.js";
import { gflops, openYardstick } from "./yardstick.js";

const ROUNDS = 7;
const QUICK_ROUNDS = 3;
const SUBJECTS: readonly Subject[] = [...MATMULS, ...CONVOLUTIONS, ...INVERSES, ...MODELS];

type Asked = Pick<Args, "only" | "quick" | "ids">;

/** Whether a row was asked for. */
export function wanted({ only, quick, ids }: Asked, row: Pick<Subject, "id" | "name" | "group" | "slow">): boolean {
  if (ids) return ids.has(row.id);
  const word = only?.toLowerCase();
  return (!quick || !row.slow) && (word === undefined || [row.id, row.name, row.group].some((text) => text.toLowerCase().includes(word)));
}

/** @param onRow called as soon as a row is there; a row that fails says why and does not stop the others */
export async function runBench(asked: Asked, onRow: (row: Row) => void = () => {}): Promise<Results> {
  const opened = await openDevice();
  const rows: Row[] = [];
  const add = (row: Row): void => {
    rows.push(row);
    onRow(row);
  };
  try {
    const yardstick = await openYardstick(opened);
    const bench: Bench = { device: opened.device, target: targetOf(opened.kind), yardstick, calls: countCalls(opened.device), rounds: asked.quick ? QUICK_ROUNDS : ROUNDS, yards: [await yardstick.round()] };
    for (const subject of SUBJECTS.filter((s) => wanted(asked, s)))
      add(await measure(subject, bench).catch((e: unknown) => ({ id: subject.id, name: subject.name, facts: {}, error: e instanceof Error ? e.message : String(e) })));
    for (const startup of STARTUPS.filter((s) => wanted(asked, s))) add(startup.run(opened.kind));
    yardstick.close();
    const yardstickMs = median(bench.yards);
    return { adapter: opened.kind, name: opened.name, yardstickMs, gflops: gflops(yardstickMs), processes: 1, rows };
  } finally {
    await opened.close();
  }
}
