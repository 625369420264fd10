/** Reads a fixture folder: meta.json, tensors.json, tensors.bin. */
import type { Target } from "../../codegen/kernel.js";
import { readFileSync } from "node:fs";
import { join } from "node:path";

export interface FixtureTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly integers: boolean;
  readonly data: Float64Array;
  readonly f32err: number;
  readonly noise: boolean;
}

export interface FixtureLayer {
  /** The weight's name; of another use of it: with `#1` behind. */
  readonly key: string;
  readonly weight: string;
  readonly bias: string | null;
  readonly kind: string;
  readonly T: number;
  readonly dA: number;
  readonly dG: number;
  readonly groups: number;
  readonly stored: "OI" | "IO";
  /** Of graph-only fixtures: sums over groups. */
  readonly trace_A?: number;
  readonly trace_G_emp?: number;
}

export interface Trajectory {
  readonly fisher?: "exact" | "emp" | "mc";
  readonly lr: number;
  readonly momentum: number;
  readonly weight_decay: number;
  readonly ema?: number;
  readonly damping?: number;
  readonly kl_clip?: number | null;
}

export interface Fixture {
  /** What its programs' kernels are shaped for, if not software: said by who runs it. */
  readonly target?: Target;
  readonly name: string;
  readonly folder: string;
  /** Import, registration and forward only; its weights are generated. */
  readonly graphOnly: boolean;
  readonly batch: number;
  readonly damping: number;
  readonly fisher: readonly ("exact" | "emp" | "mc")[];
  readonly loss: string;
  readonly inputName: string;
  /** ONNX ops of the model. */
  readonly ops: readonly string[];
  readonly layers: readonly FixtureLayer[];
  readonly initializers: readonly { readonly name: string; readonly trainable: boolean }[];
  readonly trajectories: Readonly<Record<string, Trajectory>>;
  readonly tensors: ReadonlyMap<string, FixtureTensor>;
}

interface Entry {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly offset: number;
  readonly bytes: number;
  readonly f32err?: number;
  readonly noise?: boolean;
}

export function readFixture(folder: string): Fixture {
  const json = (file: string): Record<string, never> => JSON.parse(readFileSync(join(folder, file), "utf8"));
  const meta = json("meta.json") as unknown as Record<string, unknown> & {
    name: string; graph_only?: boolean; ops?: string[]; grad_norm?: Record<string, number>; batch: number; damping: number; fisher: Fixture["fisher"]; loss: { type: string }; input: { name: string }; layers: FixtureLayer[];
    initializers: Fixture["initializers"]; trajectories?: Fixture["trajectories"];
  };
  const index = json("tensors.json") as unknown as { tensors: Record<string, Entry> };
  const file = readFileSync(join(folder, "tensors.bin"));
  const tensors = new Map(Object.entries(index.tensors).map(([name, e]): [string, FixtureTensor] => {
    const bytes = file.buffer.slice(file.byteOffset + e.offset, file.byteOffset + e.offset + e.bytes);
    return [name, { name, shape: e.shape, integers: e.dtype.startsWith("int"), data: numbers(e.dtype, bytes), f32err: e.f32err ?? 0, noise: e.noise ?? zeroInTheory(index.tensors, name) }];
  }));
  const layers = meta.layers.map((l) => ({ ...l, key: l.key ?? l.weight, stored: l.stored ?? "OI" }));
  // numbers of meta.json that are compared like tensors
  const scalar = (name: string, value: number | undefined): void => {
    if (value !== undefined) tensors.set(name, { name, shape: [], integers: false, data: Float64Array.of(value), f32err: 0, noise: false });
  };
  for (const l of layers) {
    scalar(`trace.A/${l.key}`, l.trace_A);
    scalar(`trace.G.emp/${l.key}`, l.trace_G_emp);
  }
  for (const [name, value] of Object.entries(meta.grad_norm ?? {})) scalar(`grad_norm/${name}`, value);
  return {
    name: meta.name, folder, graphOnly: meta.graph_only ?? false, batch: meta.batch, damping: meta.damping ?? 0, fisher: meta.fisher ?? [], loss: meta.loss.type.replace("_", "-"), inputName: meta.input.name, ops: meta.ops ?? [],
    layers, initializers: meta.initializers ?? [], trajectories: meta.trajectories ?? {}, tensors,
  };
}

/**
 * The fixtures mark a gradient that is zero in theory as noise, but not the diagonal of the Fisher there, which is the mean square of what
 * the gradient is the mean of: 1e-36 where float32 leaves 1e-18.
 */
const zeroInTheory = (index: Readonly<Record<string, Entry>>, name: string): boolean =>
  name.startsWith("diagF.") && (index[`grad/${name.slice(name.indexOf("/") + 1)}`]?.noise ?? false);

function numbers(dtype: string, bytes: ArrayBuffer): Float64Array {
  switch (dtype) {
    case "float64": return new Float64Array(bytes);
    case "float32": return Float64Array.from(new Float32Array(bytes));
    case "int64": return Float64Array.from(new BigInt64Array(bytes), Number);
    case "int32": return Float64Array.from(new Int32Array(bytes));
    default: throw new Error(`fixture tensor of type ${dtype}`);
  }
}
