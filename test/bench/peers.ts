/** `--peers`: the same work by other libraries that train over WebGPU, on the same device, each in processes of its own. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { table } from "../../src/cli/table.js";
import type { Args } from "./args.js";
import { inProcess } from "./processes.js";
import { merged, type Results, type Row } from "./result.js";
import { node, script } from "./startup.js";
import { foot } from "./table.js";

const PEERS = [{ id: "jax", name: "jax-js" }, { id: "tfjs", name: "tfjs-webgpu" }] as const;
const WORK = ["matmul/512", "conv/plain/forward", "conv/plain/gradients", "mlp/sgd", "lenet/sgd"] as const;
const FOLDER = fileURLToPath(new URL("peers/", import.meta.url));
const ROUNDS = 7;
const QUICK_ROUNDS = 3;
/** Of a library's whole run: one convolution of theirs takes twenty times ours. */
const PEER_MS = 1_200_000;

/** Installs the libraries as the lock file has them, once. @throws Error with npm's words */
function install(say: (text: string) => void): void {
  if (existsSync(join(FOLDER, "node_modules/.package-lock.json"))) return;
  say("installing test/bench/peers …");
  const cli = process.env["npm_execpath"];
  const args = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
  const done = cli ? spawnSync(process.execPath, [cli, ...args], { cwd: FOLDER, encoding: "utf8" }) : spawnSync("npm", args, { cwd: FOLDER, encoding: "utf8", shell: process.platform === "win32" });
  if (done.status !== 0) throw new Error(`npm ci in test/bench/peers: ${done.stderr}`);
}

function peer(id: string, adapter: string, rounds: number): Results {
  const folder = mkdtempSync(join(os.tmpdir(), "kfacc-bench-"));
  try {
    const file = join(folder, "results.json");
    node(script("peers/child.ts", id, file, `${rounds}`), { KFACC_ADAPTER: adapter }, PEER_MS);
    return JSON.parse(readFileSync(file, "utf8")) as Results;
  } catch (e) {
    const error = e instanceof Error ? e.message : String(e);
    return { adapter, name: id, yardstickMs: 0, gflops: 0, processes: 1, rows: WORK.map((work) => ({ id: work, name: work, facts: {}, error })) };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** `1.80 (34)`: multiples of the yardstick and dispatches; or why not. */
function cell(row: Row | undefined): string {
  if (row?.error !== undefined) return row.error.split("\n")[0]?.slice(0, 60) ?? "failed";
  return row?.yards === undefined ? "–" : `${row.yards.toFixed(2)} (${Math.round(row.facts.dispatches ?? 0)})`;
}

export async function runPeers(args: Args, say: (text: string) => void): Promise<number> {
  install(say);
  const times = <T>(make: () => T): readonly T[] => Array.from({ length: args.processes }, make);
  const mine = merged(times(() => inProcess({ quick: args.quick, ids: new Set(WORK) })));
  const others = PEERS.map(({ id, name }) => ({ name, results: merged(times(() => peer(id, mine.adapter, args.quick ? QUICK_ROUNDS : ROUNDS))) }));
  const rows = WORK.map((id) => {
    const find = (r: Results): Row | undefined => r.rows.find((row) => row.id === id);
    const [own, found] = [find(mine), others.map((o) => find(o.results))];
    const best = Math.min(...found.flatMap((r) => r?.yards ?? []));
    return [own?.name ?? id, cell(own), ...found.map(cell), own?.yards !== undefined && Number.isFinite(best) ? `${(best / own.yards).toFixed(1)} ×` : "–"];
  });
  say(table(["work", "kfacc", ...PEERS.map((p) => p.name), "kfacc is faster than the best by"], rows));
  say(`in brackets: dispatches\n\n${foot(mine)}`);
  const all = { kfacc: mine, peers: Object.fromEntries(others.map((o) => [o.name, o.results])) };
  if (args.json === true) console.log(JSON.stringify(all, null, 1));
  else if (args.json !== undefined) writeFileSync(args.json, `${JSON.stringify(all, null, 1)}\n`);
  return mine.rows.some((r) => r.error !== undefined) ? 1 : 0;
}
