/** Properties of registration on random graphs: nothing is left out, nothing is twice, and a layer's gradient is that of its parameters. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Builder } from "../../ir/builder.js";
import { evaluate } from "../../ir/evaluate.js";
import { cotangents } from "../../ir/grad.js";
import type { Graph, Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { runPasses } from "../../ir/pass.js";
import { CANONICAL } from "../../ir/passes/index.js";
import { print } from "../../ir/print.js";
import { size } from "../../ir/type.js";
import { eachElement, toMatrix } from "../../runtime/matrix.js";
import { gradientSum } from "../../src/kfac/factors.js";
import { layerInfo } from "../../src/kfac/layer.js";
import { register } from "../../src/kfac/register.js";
import { graphs, PATIENCE } from "../support/graphs.js";
import { random } from "../support/models.js";

/** Inputs carry three examples; three trainable parameters are used in any way that is well-typed. */
const SHAPES = [[4], [2, 4], [4, 3], [2], [12], [], [2, 3, 4], [4, 2, 3]] as const;

/** Random uses of parameters by products, scales, shifts and views, joined into one result. */
function build(choices: readonly number[]): Graph {
  let at = 0;
  const pick = (n: number): number => (at < choices.length ? (choices[at++] as number) % n : 0);
  const b = new Builder("random");
  const params = Array.from({ length: 3 }, (_, k) => b.param(`p${k}`, { dtype: "f32", shape: SHAPES[pick(SHAPES.length)] as readonly number[] }));
  const values: Value[] = [b.input("x", { dtype: "f32", shape: [3, 4] }, 0), b.input("s", { dtype: "f32", shape: [3, 2, 4] }, 0)];
  const weights: Value[] = [...params];
  const axesOf = (v: Value): number[] => v.type.shape.map((_, k) => k);
  /** Some axes in another order: reversed, or each moved by one (which is not its own inverse). */
  const turned = (axes: readonly number[]): number[] => (pick(2) ? [...axes].reverse() : [...axes.slice(1), axes[0] as number]);
  const steps: readonly (() => void)[] = [
    // a view of a parameter
    () => {
      const p = weights[pick(weights.length)] as Value;
      const { shape } = p.type;
      if (shape.length > 1 && pick(2)) weights.push(b.emit("permute", [p], { perm: turned(axesOf(p)) }));
      else if (shape.length > 0 && pick(2)) {
        const [n = 1, ...rest] = shape;
        const [start, count, stride] = pick(3) > 0 ? [pick(2) * Math.floor(n / 2), Math.ceil(n / 2), 1] : pick(2) ? [n - 1, n, -1] : [0, Math.ceil(n / 2), 2];
        weights.push(b.emit("slice", [p], { start: [start, ...rest.map(() => 0)], size: [Math.min(count, stride === 1 ? n - start : count), ...rest], stride: [stride, ...rest.map(() => 1)] }));
      } else if (size(shape) % 2 === 0 && size(shape) > 0) weights.push(b.emit("reshape", [p], { shape: pick(2) ? [2, size(shape) / 2] : [size(shape)] }));
    },
    // a product with a parameter that shares an axis
    () => {
      const [x, p] = [values[pick(values.length)] as Value, weights[pick(weights.length)] as Value];
      if (x.type.shape.length > 4) return;
      const left = [..."nabcd"].slice(0, x.type.shape.length);
      const right = [..."uvw"].slice(0, p.type.shape.length);
      const shared = right.findIndex((_, k) => left.slice(1).some((_l, j) => x.type.shape[j + 1] === p.type.shape[k]));
      if (shared < 0) return;
      const j = 1 + left.slice(1).findIndex((_l, i) => x.type.shape[i + 1] === p.type.shape[shared]);
      right[shared] = left[j] as string;
      const keep = pick(3) === 0;
      const out = [...left.filter((l) => keep || l !== left[j]), ...right.filter((l) => l !== left[j])];
      if (out.length > 4) return;
      values.push(b.emit("contract", [x, p], { spec: `${left.join("")},${right.join("")}->${out.join("")}` }));
    },
    // a scale or shift
    () => {
      const [x, p] = [values[pick(values.length)] as Value, weights[pick(weights.length)] as Value];
      if (p.type.shape.length > 1 || x.type.shape.length === 0) return;
      const fits = axesOf(x).filter((k) => k > 0 && x.type.shape[k] === p.type.shape[0]);
      if (p.type.shape.length === 1 && fits.length === 0) return;
      const wide = b.emit("broadcast", [p], { shape: x.type.shape, axes: p.type.shape.length === 0 ? [] : [fits[pick(fits.length)] as number] });
      values.push(b.emit(pick(2) ? "mul" : "add", pick(2) ? [x, wide] : [wide, x]));
    },
    () => { values.push(b.emit(["tanh", "neg", "sigmoid"][pick(3)] as "tanh", [values[pick(values.length)] as Value])); },
    // moves of a value
    () => {
      const x = values[pick(values.length)] as Value;
      const { shape } = x.type;
      if (shape.length > 2 && pick(2)) values.push(b.emit("permute", [x], { perm: [0, ...turned(axesOf(x).slice(1))] }));
      else if (shape.length > 2) values.push(b.emit("reshape", [x], { shape: pick(2) ? [shape[0] as number, size(shape.slice(1))] : [(shape[0] as number) * (shape[1] as number), size(shape.slice(2))] }));
    },
    () => {
      const [x, y] = [values[pick(values.length)] as Value, values[pick(values.length)] as Value];
      if (x.type.shape.join() === y.type.shape.join()) values.push(b.emit(pick(2) ? "add" : "mul", [x, y]));
    },
  ];
  while (at < choices.length) (steps[pick(steps.length)] as () => void)();
  const read = new Set(b.nodes.flatMap((n) => n.inputs));
  const last = values.filter((v) => !read.has(v)).slice(-4);
  return b.finish((last.length > 0 ? last : values.slice(-1)).map((value, k) => ({ name: `y${k}`, value })));
}

const canonical = (graph: Graph): Graph => runPasses(graph, CANONICAL);
/** Parameter elements of layers, by name and place. */
function owned(graph: Graph): { readonly elements: string[]; readonly layers: number } {
  const { layers, orphans } = register(graph);
  const elements: string[] = [];
  for (const l of layers) {
    expect(l.sites.length).toBeGreaterThan(0);
    eachElement(layerInfo(l), (_, param, place) => elements.push(`${param} ${place}`));
  }
  const names = graph.params.filter((p) => p.trainable).map((p) => p.value.name);
  const covered = new Set(layers.flatMap((l) => [l.weight.param.name, ...(l.bias ? [l.bias.param.name] : [])]));
  for (const o of orphans) expect(o.reason.length, o.param).toBeGreaterThan(5);
  expect([...covered, ...orphans.map((o) => o.param)].sort()).toEqual([...names].sort());
  return { elements, layers: layers.length };
}

describe("every trainable parameter", () => {
  it("is in layers or an orphan with a reason, never both, and no element of it is in two layers", () => {
    let layers = 0;
    const check = (graph: Graph): void => {
      const found = owned(graph);
      layers += found.layers;
      if (new Set(found.elements).size !== found.elements.length) throw new Error(`an element is in two layers\n${print(graph)}`);
    };
    fc.assert(fc.property(graphs(), (graph) => check(canonical(graph))), { ...PATIENCE, seed: 91, numRuns: 150 });
    fc.assert(fc.property(fc.array(fc.nat(2 ** 16), { minLength: 20, maxLength: 120, size: "max" }), (choices) => check(canonical(build(choices)))), { ...PATIENCE, seed: 92, numRuns: 300 });
    expect(layers).toBeGreaterThan(200);
  });
});

describe("a layer's gradient", () => {
  it("is that of its parameters, put together from its sites, in every random graph", () => {
    let compared = 0;
    fc.assert(fc.property(fc.array(fc.nat(2 ** 16), { minLength: 20, maxLength: 120, size: "max" }), fc.nat(1000), (choices, seed) => {
      const graph = canonical(build(choices));
      const { layers } = register(graph);
      if (layers.length === 0) return;
      const b = Builder.from(graph);
      const seeds = new Map(graph.results.map((r, k) => [r.value, b.input(`seed${k}`, r.value.type)]));
      const wanted = [...layers.flatMap((l) => [l.weight.param, ...(l.bias ? [l.bias.param] : []), ...l.sites.map((s) => s.output.value)])];
      const cts = cotangents(b, seeds, wanted);
      const results = new Map<string, Value>();
      for (const l of layers) {
        results.set(`matrix ${l.name}`, gradientSum(b, l, new Map(l.sites.flatMap((s) => (cts.has(s.output.value) ? [[s, cts.get(s.output.value) as Value] as const] : [])))));
        for (const p of [l.weight.param, ...(l.bias ? [l.bias.param] : [])]) results.set(p.name, cts.get(p) as Value);
      }
      const whole = b.finish([...results].map(([name, value]) => ({ name, value })));
      const next = random(seed);
      const out = evaluate(whole, Object.fromEntries([...whole.params, ...whole.inputs].map(({ value: { name, type } }) => [name, ndarray(type.dtype, type.shape, Float64Array.from({ length: size(type.shape) }, next))])));
      for (const l of layers) {
        const matrix = (out[`matrix ${l.name}`] as NdArray).data;
        const want = toMatrix(layerInfo(l), Object.fromEntries([l.weight.param, ...(l.bias ? [l.bias.param] : [])].map((p) => [p.name, out[p.name] as NdArray])));
        // a bias may be a layer's and a site may be missing its 1: each column is compared on the scale of the whole
        const scale = Math.max(1, ...want.map(Math.abs));
        matrix.forEach((x, k) => {
          if (Math.abs(x - (want[k] as number)) > 1e-11 * scale) throw new Error(`seed ${seed}: layer "${l.name}" has ${x} at ${k}, its parameters ${want[k]}\n${print(graph)}`);
        });
        compared++;
      }
    }), { ...PATIENCE, seed: 93, numRuns: 300 });
    expect(compared).toBeGreaterThan(100);
  });
});
