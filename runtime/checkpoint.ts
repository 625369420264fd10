/**
 * Checkpoints: one safetensors file with everything that continues a run bit for bit.
 *
 *   param/<name>   opt/m/<name>   opt/v/<name>   kfac/<layer>/{A, G, F, Ainv, Ginv, Finv, UA, UG, S}   and the host's numbers as metadata
 *   kfac/refresh/<slot>   inverses that are under way, where they are spread over steps
 */
import { type PlanBuffer, RuntimeFault, type RunScalars } from "./artifact.js";
import { IDLE } from "./refresh.js";
import { decode, encode, type SafeTensor } from "./safetensors.js";
import type { TrainerCore } from "./state.js";

const FORMAT = "2";

/** State buffers that a checkpoint holds: gradients and statistics in between are not among them. */
function storedNames(trainer: TrainerCore): { readonly buffer: string; readonly key: string }[] {
  const params = new Set(trainer.artifact.params.map((p) => p.name));
  // scratch of inverses that are under way has a name of its own, too
  return trainer.artifact.plan.buffers.filter((b) => b.kind === "state" || (b.kind === "slot" && b.name.startsWith("kfac/"))).flatMap((b) => {
    if (params.has(b.name)) return [{ buffer: b.name, key: `param/${b.name}` }];
    return /^(opt|kfac)\//.test(b.name) && !b.name.endsWith("/scale") ? [{ buffer: b.name, key: b.name }] : [];
  });
}

/** Scratch has no shape of its own. */
const shapeOf = (info: PlanBuffer): readonly number[] => info.shape ?? [info.bytes / 4];

export async function saveCheckpoint(trainer: TrainerCore, run: RunScalars, extra: Readonly<Record<string, string>>): Promise<Uint8Array> {
  const { state, artifact, program } = trainer;
  const pending = await Promise.all(trainer.pending.map(async (p) => ({ step: p.step, refreshed: p.refreshed, scales: p.scales, ...(await p.values) })));
  const names = storedNames(trainer);
  const arrays = await program.read(names.map((n) => n.buffer));
  const tensors: Record<string, SafeTensor> = {};
  names.forEach((n, k) => {
    tensors[n.key] = { dtype: "F32", shape: shapeOf(program.buffer(n.buffer).info), data: arrays[k] as Float32Array };
  });
  return encode(tensors, {
    ...extra, formatVersion: FORMAT, planHash: artifact.hash, model: artifact.name, optimizer: artifact.optimizer, loss: artifact.loss,
    step: String(state.stepCount), seed: String(state.seed), run: JSON.stringify(run), host: JSON.stringify(trainer.host),
    emaWeight: String(state.emaWeight), statSteps: String(state.statSteps), scaleWeight: String(state.scaleWeight), inverted: String(state.inverted), redo: String(state.redo), refreshAt: String(state.refreshAt),
    scales: JSON.stringify(state.scales), invertedAt: JSON.stringify(state.invertedAt), pending: JSON.stringify(pending),
  });
}

/**
 * @returns the metadata, the caller's own entries among it
 * @throws RuntimeFault "bad-checkpoint" with the list of differences if it belongs to another program
 */
export function restoreCheckpoint(trainer: TrainerCore, bytes: Uint8Array, weightsOnly: boolean): Readonly<Record<string, string>> {
  const { tensors, metadata } = decode(bytes, "checkpoint");
  const { artifact, program, state } = trainer;
  if (metadata.formatVersion !== FORMAT) throw new RuntimeFault("bad-checkpoint", `format ${metadata.formatVersion ?? "unknown"}, this runtime reads ${FORMAT}`, "checkpoint", "it was not written by kfacc, or by another version");
  const wanted = storedNames(trainer).filter((n) => !weightsOnly || n.key.startsWith("param/"));
  const differences: string[] = [];
  if (!weightsOnly) for (const [field, mine] of [["optimizer", artifact.optimizer], ["loss", artifact.loss], ["planHash", artifact.hash]] as const)
    if (metadata[field] !== mine) differences.push(`${field}: checkpoint ${metadata[field] ?? "none"}, program ${mine}`);
  for (const n of wanted) {
    const t = tensors[n.key];
    const shape = shapeOf(program.buffer(n.buffer).info);
    if (!t) differences.push(`${n.key} is missing`);
    else if (t.dtype !== "F32" || t.shape.length !== shape.length || t.shape.some((d, k) => d !== shape[k])) differences.push(`${n.key}: checkpoint ${t.dtype}[${t.shape}], program F32[${shape}]`);
  }
  if (differences.length > 0)
    throw new RuntimeFault("bad-checkpoint", `the checkpoint belongs to another program:\n  ${differences.slice(0, 8).join("\n  ")}`, "checkpoint", "compile with the same model and options, or take just the parameters with --weights-only");
  const write = (): void => {
    for (const n of wanted) program.write(n.buffer, (tensors[n.key] as SafeTensor).data as Float32Array);
  };
  if (weightsOnly) {
    write();
    return metadata;
  }
  const parse = <T>(name: string): T => {
    try {
      return JSON.parse(metadata[name] ?? "") as T;
    } catch {
      throw new RuntimeFault("bad-checkpoint", `metadata "${name}" is damaged`, "checkpoint");
    }
  };
  // everything is read before anything is changed: damaged metadata must not leave half a state behind
  const host = {
    stepCount: parse<number>("step"), seed: parse<number>("seed"), emaWeight: parse<number>("emaWeight"), statSteps: parse<number>("statSteps"), scaleWeight: parse<number>("scaleWeight"),
    inverted: parse<boolean>("inverted"), redo: parse<boolean>("redo"),
    refreshAt: metadata.refreshAt === undefined ? IDLE : parse<number>("refreshAt"),
  };
  const scales = parse<number[]>("scales");
  const invertedAt = metadata.invertedAt === undefined ? state.scales.map(() => -1) : parse<number[]>("invertedAt");
  const run = parse<Partial<RunScalars>>("run");
  const pending = parse<{ step: number; refreshed: boolean; scales: number[]; loss: number; clean: number[] }[]>("pending");
  write();
  // gradients are not in a checkpoint
  trainer.gradientCount = undefined;
  Object.assign(state, host);
  state.scales.splice(0, state.scales.length, ...scales);
  state.invertedAt.splice(0, state.invertedAt.length, ...invertedAt);
  Object.assign(trainer.run, run);
  trainer.pending = pending.map((p) => ({ step: p.step, refreshed: p.refreshed, scales: p.scales, values: Promise.resolve({ loss: p.loss, clean: p.clean }) }));
  return metadata;
}
