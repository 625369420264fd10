/** Loads a generated module's files and makes its trainer. Browser-safe: files are read by URL, devices found by platform. */
import { type Artifact, ARTIFACT_VERSION, type RunScalars, RuntimeFault } from "./artifact.js";
import { adopt, openBrowserDevice, type OpenDevice } from "./device.js";
import { decode } from "./safetensors.js";
import type { Tensor } from "./tensors.js";
import { Trainer, type TrainerOptions } from "./trainer.js";

export interface LoadOptions {
  /** Used and left open; default: the best one of this machine, closed by `dispose`. */
  readonly device?: GPUDevice;
  /** Safetensors by parameter name; default: `weights.safetensors` beside the module. */
  readonly weights?: URL | Uint8Array;
  readonly seed?: number;
  readonly run?: Partial<RunScalars>;
  readonly onEvent?: TrainerOptions["onEvent"];
}

/** A generated module's data, before a device is involved. */
export interface ModuleData {
  readonly artifact: Artifact;
  readonly sources: readonly string[];
  readonly weights: Readonly<Record<string, Tensor>>;
}

/** The folder of a module as its index.js sees it (ends in "/"). @throws RuntimeFault "bad-data" if a file is missing or damaged. */
export async function readModule(base: URL, weights?: URL | Uint8Array): Promise<ModuleData> {
  const where = new URL("plan.json", base).href;
  let plan: Artifact & { readonly kernelFiles?: readonly string[] };
  try {
    plan = JSON.parse(new TextDecoder().decode(await readUrl(new URL("plan.json", base)))) as typeof plan;
  } catch (e) {
    if (e instanceof RuntimeFault) throw e;
    throw new RuntimeFault("bad-data", "the plan is not readable JSON", where, "compile the model again");
  }
  if (plan.version !== ARTIFACT_VERSION || !Array.isArray(plan.kernelFiles))
    throw new RuntimeFault("bad-data", `the plan has version ${plan.version ?? "unknown"}, this runtime reads ${ARTIFACT_VERSION}`, where, "compile the model again");
  const { kernelFiles, ...artifact } = plan;
  const [stored, ...sources] = await Promise.all([
    weights instanceof Uint8Array ? weights : readUrl(weights ?? new URL("weights.safetensors", base)),
    ...(kernelFiles as string[]).map(async (file) => new TextDecoder().decode(await readUrl(new URL(file, base)))),
  ]);
  return { artifact, sources, weights: parameters(artifact, stored as Uint8Array) };
}

/** The parameters in a safetensors file: a weights file, or a checkpoint (`param/<name>`). @throws RuntimeFault "bad-data". */
export function parameters(artifact: Artifact, bytes: Uint8Array, where = "weights"): Record<string, Tensor> {
  const { tensors } = decode(bytes, where);
  return Object.fromEntries(artifact.params.map((p) => {
    const t = tensors[p.name] ?? tensors[`param/${p.name}`];
    const wanted = `F32[${p.shape.join(", ")}]`;
    if (!t) throw new RuntimeFault("bad-data", `no tensor "${p.name}"`, where, "the file does not belong to this model");
    if (t.dtype !== "F32" || t.shape.join() !== p.shape.join()) throw new RuntimeFault("bad-data", `tensor "${p.name}" is ${t.dtype}[${t.shape.join(", ")}], the model takes ${wanted}`, where);
    return [p.name, { shape: t.shape, data: t.data as Float32Array }];
  }));
}

/** What a generated `load` calls. */
export async function loadModule(base: URL, options: LoadOptions = {}): Promise<Trainer> {
  const { artifact, sources, weights } = await readModule(base, options.weights);
  const open = options.device ? adopt(options.device) : await openAnyDevice();
  try {
    return await Trainer.create(open.device, artifact, sources, weights, {
      ...(options.seed === undefined ? {} : { seed: options.seed }), ...(options.run ? { run: options.run } : {}), ...(options.onEvent ? { onEvent: options.onEvent } : {}),
      adapter: open.name, onDispose: () => open.close(),
    });
  } catch (e) {
    await open.close();
    throw e;
  }
}

const inNode = (): boolean => typeof process === "object" && typeof process.versions?.node === "string";

async function openAnyDevice(): Promise<OpenDevice> {
  if (!inNode()) return openBrowserDevice();
  const { openDevice } = await import("./adapter.node.js");
  try {
    return await openDevice();
  } catch (e) {
    if (e instanceof RuntimeFault && e.code === "no-adapter" && /cannot find package 'webgpu'/i.test(e.message))
      throw new RuntimeFault("no-adapter", "npm package webgpu, which brings WebGPU to Node, is not installed", "load()", "run npm install in the module's folder, or pass a device: load({ device })");
    throw e;
  }
}

async function readUrl(url: URL): Promise<Uint8Array> {
  try {
    if (url.protocol === "file:") return await (await import("./load.node.js")).readFileUrl(url);
    const response = await fetch(url);
    if (!response.ok) throw new Error(`status ${response.status}`);
    return new Uint8Array(await response.arrayBuffer());
  } catch (e) {
    throw new RuntimeFault("bad-data", `cannot read a file of the module: ${e instanceof Error ? e.message : e}`, url.href, "compile the model again, or serve the whole folder");
  }
}
