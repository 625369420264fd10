/** What is wrong fails, at the check that names it: errors known from other implementations, planted one at a time. */
import { describe, expect, it } from "vitest";
import { planProgram } from "../../codegen/plan.js";
import { PORTABLE } from "../../codegen/limits.js";
import { Builder, full } from "../../ir/builder.js";
import { type Attrs, type Graph, type Node, producers, type Value } from "../../ir/graph.js";
import { OPS } from "../../ir/ops/index.js";
import { runPasses } from "../../ir/pass.js";
import { AFTER_GRADIENTS } from "../../ir/passes/index.js";
import type { Compiled } from "../../src/compile.js";
import type { Layer } from "../../src/kfac/layer.js";
import { frontGraph } from "../../src/train/step.js";
import type { StepModel } from "../../src/train/step-model.js";
import type { VerifyReport } from "../../src/verify/report.js";
import { testDevice } from "../support/gpu.js";
import { MODELS, verify } from "./models.js";

const device = testDevice();
const EXACT = { fisher: { kind: "exact", samples: 1 } } as const;
const SSE = { ...EXACT, loss: "half-sse" } as const;
const BATCH = 3;

/** The failed checks of one layer ("" for the whole model), sorted. */
const failed = (r: VerifyReport, layer: string): string[] =>
  (layer === "" ? r.checks : (r.layers.find((l) => l.name === layer)?.checks ?? [])).filter((c) => c.verdict === "failed").map((c) => c.name).sort();
const others = (r: VerifyReport, layer: string): string[] => r.layers.filter((l) => l.name !== layer && l.verdict === "failed").map((l) => l.name);

/** The program with another model behind its statistics. */
function withModel(c: Compiled, model: StepModel): Compiled {
  const name = `gradients.stats@${BATCH}`;
  const graph = runPasses(frontGraph(model, { stats: true, scaling: false, masked: false, accumulate: true }), AFTER_GRADIENTS, {});
  return { ...c, model, graphs: new Map([...c.graphs, [name, graph]]) };
}

/** The program with one layer registered otherwise. */
const withLayer = (name: string, change: (l: Layer, m: StepModel) => { layer: Layer; graph?: Graph }) => (c: Compiled): Compiled => {
  const found = c.model.registration.layers.find((l) => l.name === name) as Layer;
  const { layer, graph } = change(found, c.model);
  const layers = c.model.registration.layers.map((l) => (l === found ? layer : l));
  return withModel(c, { ...c.model, ...(graph ? { graph } : {}), registration: { ...c.model.registration, layers } });
};

/** The layer reads its input through views whose windows are others. */
const withWindows = (name: string, change: (attrs: Attrs) => Attrs) => withLayer(name, (layer, m) => {
  const b = Builder.from(m.graph);
  const producer = producers(m.graph);
  const again = (v: Value): Value => {
    const node = producer.get(v);
    if (!node || !OPS[node.op].movement) return v;
    return b.emit(node.op, [again(node.inputs[0] as Value)], node.op === "window" ? change(node.attrs) : node.attrs);
  };
  const [site] = layer.sites as [Layer["sites"][0]];
  return { layer: { ...layer, sites: [{ ...site, input: { ...site.input, value: again(site.input.value) } }] }, graph: b.finish(m.graph.results) };
});

/** The program with other statistics: results of the graph by name. */
const withStatistics = (change: (b: Builder, results: Map<string, Value>) => void) => (c: Compiled): Compiled => {
  const name = `gradients.stats@${BATCH}`;
  const graph = c.graphs.get(name) as Graph;
  const b = Builder.from(graph);
  const results = new Map(graph.results.map((r) => [r.name, r.value] as const));
  change(b, results);
  return { ...c, graphs: new Map([...c.graphs, [name, b.finish([...results].map(([n, value]) => ({ name: n, value })))]]) };
};

/** Kernels for changed graphs. */
function replanned(c: Compiled, graphs: ReadonlyMap<string, Graph>): Compiled {
  const state = new Set(c.artifact.plan.buffers.filter((b) => b.kind === "state").map((b) => b.name));
  const entries = [...graphs].map(([name, graph]) => ({ name, graph, suffix: /@/.test(name) ? `@${BATCH}` : "" }));
  const planned = planProgram(entries, state, PORTABLE);
  return { ...c, graphs, planned, sources: planned.sources, artifact: { ...c.artifact, plan: planned.plan } };
}

const CONV = "conv: stride, asymmetric padding, dilation";

describe("a planted error is found and named:", () => {
  it("dilation left out of A", async () => {
    const r = await verify(MODELS[CONV] as never, EXACT, { sabotage: withWindows("c.weight", (a) => ({ ...a, dilation: 1 })) });
    expect(failed(r, "c.weight")).toEqual(["A", "gradient", "input rows"]);
    expect([others(r, "c.weight"), r.passed]).toEqual([[], false]);
  });

  it("padding shifted by one", async () => {
    const r = await verify(MODELS[CONV] as never, EXACT, { sabotage: withWindows("c.weight", (a) => ({ ...a, offset: Number(a.offset) + 1 })) });
    expect(failed(r, "c.weight")).toEqual(["A", "gradient", "input rows"]);
  });

  it("G without its 1/T", async () => {
    const r = await verify(MODELS[CONV] as never, EXACT, {
      sabotage: withStatistics((b, results) => {
        const G = results.get("stat/c.weight/G") as Value;
        results.set("stat/c.weight/G", b.emit("mul", [G, full(b, G.type, 20)]));
      }),
    });
    expect(failed(r, "c.weight")).toEqual(["G"]);
    expect(others(r, "c.weight")).toEqual([]);
  });

  it("A and G exchanged", async () => {
    // both 4×4: nothing but their numbers tells them apart
    const r = await verify(MODELS["square"] as never, SSE, {
      sabotage: withStatistics((_, results) => {
        const [A, G] = [results.get("stat/fc0.weight/A") as Value, results.get("stat/fc0.weight/G") as Value];
        expect(A.type.shape).toEqual(G.type.shape);
        results.set("stat/fc0.weight/A", G).set("stat/fc0.weight/G", A);
      }),
    });
    expect(failed(r, "fc0.weight")).toEqual(["A", "G"]);
  });

  it("a use of a tied weight lost", async () => {
    const r = await verify(MODELS["tied"] as never, SSE, {
      sabotage: withLayer("w", (l) => ({ layer: { ...l, sites: l.sites.slice(0, 2), T: l.T - 1 } })),
    });
    expect(failed(r, "w")).toEqual(["A", "G", "T", "gradient", "uses"]);
    expect(failed(r, "")).toEqual(["coverage"]);
  });

  it("a transposed use of a tied weight taken as it stands", async () => {
    const square = MODELS["tied square"] as never;
    expect((await verify(square, SSE)).passed).toBe(true);
    const r = await verify(square, SSE, {
      sabotage: withLayer("w", (l) => ({ layer: { ...l, sites: l.sites.map((s) => ({ ...s, transposed: false })) } })),
    });
    expect(failed(r, "w")).toEqual(["A", "G", "gradient", "sites"]);
  });

  it("the bias's 1 forgotten", async () => {
    const r = await verify(MODELS["dense"] as never, EXACT, {
      sabotage: withLayer("dense1.weight", (l) => ({ layer: { ...l, sites: l.sites.map((s) => ({ ...s, ones: false })) } })),
    });
    expect(failed(r, "dense1.weight")).toEqual(["A", "gradient", "sites"]);
  });

  it("positions counted wrongly", async () => {
    const r = await verify(MODELS["sequence dense"] as never, EXACT, {
      sabotage: withLayer("s.weight", (l) => ({ layer: { ...l, T: 5 } })),
    });
    expect(failed(r, "s.weight")).toEqual(["G", "T"]);
  });

  it("expand taken for reduce", async () => {
    const r = await verify(MODELS["sequence dense"] as never, EXACT, {
      sabotage: (c) => ({ ...withLayer("s.weight", (l) => ({ layer: { ...l, sharing: "reduce" } }))(c), model: c.model }),
    });
    expect(failed(r, "s.weight")).toEqual(["A", "G"]);
  });

  it("a weight's matrix read the wrong way round", async () => {
    const r = await verify(MODELS["square"] as never, SSE, {
      sabotage: withLayer("fc1.weight", (l) => ({ layer: { ...l, matrix: { ...l.matrix, weight: { ...l.matrix.weight, in: l.matrix.weight.out, out: l.matrix.weight.in } } } })),
    });
    expect(failed(r, "fc1.weight")).toEqual(["A", "G", "gradient", "sites"]);
    expect(r.layers[1]?.checks.find((c) => c.name === "sites")?.note).toContain("the weight is used transposed here");
    const rows = await verify(MODELS["dense"] as never, EXACT, {
      sabotage: withLayer("dense1.weight", (l) => ({ layer: { ...l, matrix: { ...l.matrix, weight: { ...l.matrix.weight, in: [[4, 5]], out: [[5, 1]] } } } })),
    });
    expect(failed(rows, "dense1.weight")).toEqual(["gradient", "matrix"]);
  });

  it("positions of inputs and outputs that do not belong together", async () => {
    const r = await verify(MODELS["sequence dense"] as never, EXACT, {
      sabotage: withLayer("s.weight", (l, m) => {
        const [site] = l.sites as [Layer["sites"][0]];
        const b = Builder.from(m.graph);
        const { shape } = site.input.value.type;
        const turned = b.emit("slice", [site.input.value], { start: shape.map((n, k) => (k === 1 ? n - 1 : 0)), size: shape, stride: shape.map((_, k) => (k === 1 ? -1 : 1)) });
        return { layer: { ...l, sites: [{ ...site, input: { ...site.input, value: turned } }] }, graph: b.finish(m.graph.results) };
      }),
    });
    // A and G are sums over positions and cannot tell
    expect(failed(r, "s.weight")).toEqual(["gradient", "row pairs"]);
  });

  it("a scale's block without its bias", async () => {
    const r = await verify(MODELS["layer normalisation"] as never, EXACT, {
      sabotage: withLayer("n.weight", (l) => ({ layer: { ...l, sites: l.sites.map((s) => ({ ...s, ones: false })) } })),
    });
    expect(failed(r, "n.weight")).toEqual(["F", "gradient", "sites"]);
  });

  it("groups of a convolution mixed up", async () => {
    const r = await verify(MODELS["grouped conv"] as never, EXACT, {
      sabotage: withLayer("c.weight", (l, m) => {
        const [site] = l.sites as [Layer["sites"][0]];
        const b = Builder.from(m.graph);
        const axis = site.input.groups[0] as number;
        const { shape } = site.input.value.type;
        const turned = b.emit("slice", [site.input.value], { start: shape.map((n, k) => (k === axis ? n - 1 : 0)), size: shape, stride: shape.map((_, k) => (k === axis ? -1 : 1)) });
        return { layer: { ...l, sites: [{ ...site, input: { ...site.input, value: turned } }] }, graph: b.finish(m.graph.results) };
      }),
    });
    expect(failed(r, "c.weight")).toEqual(["A", "gradient", "input rows"]);
  });

  it("a layer left out without a word", async () => {
    const r = await verify(MODELS["dense"] as never, EXACT, {
      sabotage: (c) => ({ ...c, model: { ...c.model, registration: { ...c.model.registration, layers: c.model.registration.layers.slice(1) } } }),
    });
    expect(failed(r, "")).toEqual(["coverage"]);
    expect(r.checks.find((c) => c.name === "coverage")?.note).toContain("in no layer and not listed");
  });

  it("a forward pass that the compiler changed", async () => {
    const r = await verify(MODELS["dense"] as never, EXACT, {
      sabotage: (c) => {
        const nodes = c.model.graph.nodes.map((n): Node => (n.op === "tanh" ? { ...n, op: "sigmoid" } : n));
        return withModel(c, { ...c.model, graph: { ...c.model.graph, nodes } });
      },
    });
    expect(failed(r, "")).toEqual(["outputs"]);
    expect(failed(r, "dense2.weight")).toContain("input rows");
  });

  for (const side of ["G", "A"] as const)
    it(`EKFAC: U_${side} for its transpose on the way in`, async () => {
      const sabotage = (c: Compiled): Compiled => {
        let found = 0;
        const back = c.graphs.get("back") as Graph;
        const source = producers(back);
        const reads = (v: Value, name: string): boolean => v.name === name || (source.has(v) && OPS[(source.get(v) as Node).op].movement === true && reads((source.get(v) as Node).inputs[0] as Value, name));
        const nodes = back.nodes.map((n): Node => {
          const k = n.op === "contract" && found === 0 ? n.inputs.findIndex((v) => reads(v, `kfac/dense1.weight/U${side}`)) : -1;
          const [left, right, out] = String(n.attrs.spec).split(/,|->/) as [string, string, string];
          if (k < 0) return n;
          found++;
          const turned = (labels: string): string => [...labels].reverse().join("");
          return { ...n, attrs: { ...n.attrs, spec: k === 0 ? `${turned(left)},${right}->${out}` : `${left},${turned(right)}->${out}` } };
        });
        expect(found, `products with U${side}`).toBe(1);
        return replanned(c, new Map([...c.graphs, ["back", { ...back, nodes }]]));
      };
      const right = await verify(MODELS["dense"] as never, { inverse: "ekfac" }, { device: device(), sabotage: (c) => replanned(c, c.graphs) });
      expect(right.passed).toBe(true);
      const r = await verify(MODELS["dense"] as never, { inverse: "ekfac" }, { device: device(), sabotage });
      expect(failed(r, "dense1.weight")).toEqual(["gpu direction"]);
    });
});
