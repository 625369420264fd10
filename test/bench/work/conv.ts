/** The four kernels of a convolution: forward, both gradients, and the factor of its inputs. */
import { Builder } from "../../../ir/builder.js";
import { cotangents } from "../../../ir/grad.js";
import type { Graph, Value } from "../../../ir/graph.js";
import { runPasses } from "../../../ir/pass.js";
import { AFTER_GRADIENTS, CANONICAL } from "../../../ir/passes/index.js";
import { COMPILE_DEFAULTS, prepare } from "../../../src/compile.js";
import { type DslModel, model, toForward } from "../../../src/dsl/index.js";
import { frontGraph } from "../../../src/train/step.js";
import { prune } from "../../../src/train/step-model.js";
import type { Subject } from "../measure.js";
import { programSubject, type ProgramParts, seeded, Sum, type Truth } from "./program.js";

export interface Conv {
  readonly id: string;
  readonly name: string;
  readonly n: number;
  readonly ci: number;
  readonly co: number;
  /** Side of the square images and filters. */
  readonly side: number;
  readonly k: number;
  readonly pad: number;
  readonly stride: number;
  readonly groups: number;
}

const conv = (id: string, name: string, [n, ci, side, co, k]: readonly [number, number, number, number, number], more: Partial<Conv> = {}): Conv =>
  ({ id, name, n, ci, co, side, k, pad: 0, stride: 1, groups: 1, ...more });

/** The one that other libraries are measured by, too. */
export const PLAIN = conv("plain", "conv 32×16×28²→32, 3×3", [32, 16, 28, 32, 3], { pad: 1 });

const CONVS: readonly Conv[] = [
  PLAIN,
  conv("lenet1", "LeNet conv1 64×1×28²→6, 5×5", [64, 1, 28, 6, 5]),
  conv("lenet2", "LeNet conv2 64×6×12²→16, 5×5", [64, 6, 12, 16, 5]),
  conv("stage", "conv 32×64×8²→64, 3×3", [32, 64, 8, 64, 3], { pad: 1 }),
  conv("stride2", "conv 32×32×16²→64, 3×3, stride 2", [32, 32, 16, 64, 3], { pad: 1, stride: 2 }),
  conv("depthwise", "conv 32×64×16² depthwise, 3×3", [32, 64, 16, 64, 3], { pad: 1, groups: 64 }),
];

const outSide = (c: Conv): number => Math.floor((c.side + 2 * c.pad - c.k) / c.stride) + 1;
const perGroup = (c: Conv): { readonly ci: number; readonly co: number } => ({ ci: c.ci / c.groups, co: c.co / c.groups });

/** The convolution alone, or as a network's layer has it: with bias and relu. */
function forward(c: Conv, layer: boolean): DslModel {
  const definition = model("conv", (m) => {
    const y = m.conv2d(m.input("image", [c.ci, c.side, c.side]), c.co, c.k, { name: "conv", pad: c.pad, stride: c.stride, groups: c.groups, bias: layer });
    return m.output("y", layer ? m.relu(y) : y);
  });
  return toForward(definition, c.n);
}

/** Digits of a row-major element number. */
function digits(element: number, sizes: readonly number[]): number[] {
  const out: number[] = [];
  for (const size of [...sizes].reverse()) {
    out.unshift(element % size);
    element = Math.floor(element / size);
  }
  return out;
}

/** Data and float64 of one convolution. */
export class ConvData {
  readonly image: Float32Array;
  readonly weight: Float32Array;
  readonly bias: Float32Array;
  readonly cotangent: Float32Array;

  constructor(readonly c: Conv) {
    this.image = seeded(c.n * c.ci * c.side ** 2, 1);
    this.weight = seeded((c.co * c.ci * c.k ** 2) / c.groups, 2);
    this.bias = seeded(c.co, 3);
    this.cotangent = seeded(c.n * c.co * outSide(c) ** 2, 4);
  }

  #image(n: number, ci: number, y: number, x: number): number {
    const { side } = this.c;
    return y < 0 || x < 0 || y >= side || x >= side ? 0 : (this.image[((n * this.c.ci + ci) * side + y) * side + x] as number);
  }

  /** The input under tap (ky, kx) of output position (oy, ox). */
  #tap(n: number, ci: number, [oy, ox]: readonly [number, number], [ky, kx]: readonly [number, number]): number {
    const { stride, pad } = this.c;
    return this.#image(n, ci, oy * stride + ky - pad, ox * stride + kx - pad);
  }

  #filter(co: number, ci: number, ky: number, kx: number): number {
    return this.weight[((co * perGroup(this.c).ci + ci) * this.c.k + ky) * this.c.k + kx] as number;
  }

  forward(element: number): Truth {
    const { c } = this;
    const out = outSide(c);
    const [n, co, oy, ox] = digits(element, [c.n, c.co, out, out]) as [number, number, number, number];
    const [size, sum] = [perGroup(c), new Sum()];
    const first = Math.floor(co / size.co) * size.ci;
    for (let ci = 0; ci < size.ci; ci++)
      for (let t = 0; t < c.k ** 2; t++) {
        const [ky, kx] = [Math.floor(t / c.k), t % c.k] as const;
        sum.add(this.#tap(n, first + ci, [oy, ox], [ky, kx]), this.#filter(co, ci, ky, kx));
      }
    return sum.truth((s) => Math.max(s, 0), this.bias[co] as number);
  }

  input(element: number): Truth {
    const { c } = this;
    const out = outSide(c);
    const [n, ci, y, x] = digits(element, [c.n, c.ci, c.side, c.side]) as [number, number, number, number];
    const [size, sum] = [perGroup(c), new Sum()];
    const group = Math.floor(ci / size.ci);
    for (let k = 0; k < size.co; k++)
      for (let t = 0; t < c.k ** 2; t++) {
        const [ky, kx] = [Math.floor(t / c.k), t % c.k];
        const [oy, ox] = [(y + c.pad - ky) / c.stride, (x + c.pad - kx) / c.stride];
        if (!Number.isInteger(oy) || !Number.isInteger(ox) || oy < 0 || ox < 0 || oy >= out || ox >= out) continue;
        const co = group * size.co + k;
        sum.add(this.cotangent[((n * c.co + co) * out + oy) * out + ox] as number, this.#filter(co, ci - group * size.ci, ky, kx));
      }
    return sum.truth();
  }

  filter(element: number): Truth {
    const { c } = this;
    const [out, size, sum] = [outSide(c), perGroup(c), new Sum()];
    const [co, ci, ky, kx] = digits(element, [c.co, size.ci, c.k, c.k]) as [number, number, number, number];
    const channel = Math.floor(co / size.co) * size.ci + ci;
    for (let n = 0; n < c.n; n++)
      for (let p = 0; p < out ** 2; p++) {
        const [oy, ox] = [Math.floor(p / out), p % out] as const;
        sum.add(this.cotangent[((n * c.co + co) * out + oy) * out + ox] as number, this.#tap(n, channel, [oy, ox], [ky, kx]));
      }
    return sum.truth();
  }

  /** (1/n) Σ patch · patch, per group. */
  factor(element: number): Truth {
    const { c } = this;
    const [out, size, sum] = [outSide(c), perGroup(c), new Sum()];
    const taps = c.k ** 2;
    const [g, i, j] = digits(element, [c.groups, size.ci * taps, size.ci * taps]) as [number, number, number];
    const place = (f: number) => ({ ci: g * size.ci + Math.floor(f / taps), tap: [Math.floor((f % taps) / c.k), f % c.k] as const });
    const [a, b] = [place(i), place(j)];
    for (let n = 0; n < c.n; n++)
      for (let p = 0; p < out ** 2; p++) {
        const at = [Math.floor(p / out), p % out] as const;
        sum.add(this.#tap(n, a.ci, at, a.tap) / c.n, this.#tap(n, b.ci, at, b.tap));
      }
    return sum.truth();
  }
}

function forwardParts(c: Conv): ProgramParts {
  const [data, source] = [new ConvData(c), forward(c, true)];
  const result = source.graph.results[0]?.name ?? "";
  return {
    graph: runPasses(source.graph, [...CANONICAL, ...AFTER_GRADIENTS]),
    inputs: new Map([["image", data.image], ["conv.weight", data.weight], ["conv.bias", data.bias]]),
    truth: new Map([[result, (e: number) => data.forward(e)]]),
  };
}

/** Cotangents of the input, of the filter, or of both in one program. */
function gradientParts(c: Conv, of: readonly ("input" | "filter")[]): ProgramParts {
  const data = new ConvData(c);
  const graph = runPasses(forward(c, false).graph, CANONICAL);
  const b = Builder.from(graph);
  const y = (graph.results[0] as Graph["results"][number]).value;
  const g = b.input("cotangent", y.type);
  const values = { input: graph.inputs[0]?.value as Value, filter: graph.params[0]?.value as Value };
  const found = cotangents(b, new Map([[y, g]]), of.map((which) => values[which]));
  const made = prune(b.finish(of.map((which) => ({ name: `d/${which}`, value: found.get(values[which]) as Value }))));
  const all = new Map([["image", data.image], ["conv.weight", data.weight], ["cotangent", data.cotangent]]);
  const used = new Set([...made.params, ...made.inputs].map((v) => v.value.name));
  return {
    graph: runPasses(made, AFTER_GRADIENTS), inputs: new Map([...all].filter(([name]) => used.has(name))),
    truth: new Map(of.map((which) => [`d/${which}`, (e: number) => data[which](e)])),
  };
}

/** The running factor A as a step with statistics makes it; with all the weight on the new batch. */
function factorParts(c: Conv): ProgramParts {
  const data = new ConvData(c);
  const prepared = prepare(forward(c, false), { ...COMPILE_DEFAULTS, batches: [c.n], loss: "half-sse" });
  const front = frontGraph(prepared, { stats: true, scaling: false, masked: false, accumulate: false });
  const slot = front.results.filter((r) => r.name.endsWith("/A"));
  const [name] = slot.map((r) => r.name);
  if (name === undefined || slot.length !== 1) throw new Error(`${c.name} has ${slot.length} factors of its input`);
  const graph = runPasses(prune({ ...front, results: slot }), AFTER_GRADIENTS);
  const size = slot[0]?.value.type.shape.reduce((n, d) => n * d, 1) ?? 0;
  return {
    graph, state: new Set([name]), run: { emaBlend: 1, count: c.n },
    inputs: new Map([["image", data.image], [name, new Float32Array(size)]]),
    truth: new Map([[name, (e: number) => data.factor(e)]]),
  };
}

export const CONVOLUTIONS: readonly Subject[] = CONVS.flatMap((c) => [
  programSubject(`conv/${c.id}/forward`, `${c.name} + bias + relu`, "conv", () => forwardParts(c)),
  programSubject(`conv/${c.id}/input`, `${c.name}, input gradient`, "conv", () => gradientParts(c, ["input"])),
  programSubject(`conv/${c.id}/filter`, `${c.name}, weight gradient`, "conv", () => gradientParts(c, ["filter"])),
  ...(c.id === "plain" ? [programSubject(`conv/${c.id}/gradients`, `${c.name}, both gradients`, "conv", () => gradientParts(c, ["input", "filter"]))] : []),
  programSubject(`conv/${c.id}/factor`, `${c.name}, A factor`, "conv", () => factorParts(c)),
]);
