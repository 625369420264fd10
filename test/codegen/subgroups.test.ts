/** Sums and maxima by subgroups: the same as without for any grouping of threads, taken where the device has them and nowhere else. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import type { Kernel } from "../../codegen/kernel.js";
import { lowerTogether } from "../../codegen/kernels/reduce-together.js";
import { PORTABLE } from "../../codegen/limits.js";
import { planProgram } from "../../codegen/plan.js";
import { Builder } from "../../ir/builder.js";
import type { Graph, Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import type { DType } from "../../ir/type.js";
import { listAdapters, nullDevice, openDevice } from "../../runtime/adapter.node.js";
import type { OpenDevice } from "../../runtime/device.js";
import { readModule } from "../../runtime/load.js";
import { Trainer } from "../../runtime/trainer.js";
import { compile } from "../../src/compile.js";
import { writeModule } from "../../src/emit.js";
import { compileOnNull, runKernels, testDevice } from "../support/gpu.js";
import { mlp, options, random, runPoisoned, tensor } from "../support/models.js";

const WORKGROUP = 64;
const withSubgroups = (await listAdapters()).find((r) => r.features.includes("subgroups"))?.kind;

const graphOf = (shape: readonly number[], build: (b: Builder, x: Value) => Readonly<Record<string, Value>>, dtype: DType = "f32"): Graph => {
  const b = new Builder("g");
  const x = b.input("x", { dtype, shape });
  return b.finish(Object.entries(build(b, x)).map(([name, value]) => ({ name, value })));
};
const planOf = (graph: Graph) => planProgram([{ name: "main", graph }], new Set(), PORTABLE);
const sumAndMax = (shape: readonly number[], axes: readonly number[], dtype: DType = "f32"): Graph =>
  graphOf(shape, (b, x) => ({ sum: b.emit("reduce_sum", [x], { axes }), max: b.emit("reduce_max", [x], { axes }) }), dtype);

/** n numbers of at most 1, added in whatever order: every addition rounds by half a unit of the sum so far, at most 2^-24 · n; n - 1 of them. */
const sumBound = (n: number): number => 2 ** -24 * n * n;

/** sum and max over all rows of x [rows, n] in float64. */
const truth = (x: NdArray, rows: number): { sum: number[]; max: number[] } => {
  const n = x.data.length / rows;
  const list = Array.from({ length: rows }, (_, r) => Array.from(x.data.slice(r * n, (r + 1) * n)));
  return { sum: list.map((l) => l.reduce((a, b) => a + b, 0)), max: list.map((l) => l.reduce((a, b) => (Number.isNaN(a) || Number.isNaN(b) ? Number.NaN : Math.max(a, b)), Number.NEGATIVE_INFINITY)) };
};

describe("for any subgroups that the language allows", () => {
  const device = testDevice();
  const groupings: Record<string, (thread: number, size: number) => number> = {
    neighbours: (t, size) => Math.floor(t / size),
    strided: (t, size) => t % Math.max(1, WORKGROUP / size),
    scattered: (t, size) => Math.floor(((t * 37 + 11) % WORKGROUP) / size),
    ragged: (t, size) => Math.floor(((WORKGROUP - 1 - t) * 3) / (2 * size)),
  };

  /** The variant with subgroups played by loops over workgroup memory: the built-in functions may be shadowed. `elects` picks the member. */
  function played(kernel: Kernel, group: (thread: number) => number, lastElected: boolean): Kernel {
    const text = kernel.variants?.find((v) => v.feature === "subgroups")?.wgsl as string;
    const type = /let joined: (\w+)/.exec(text)?.[1] as string;
    const of = Array.from({ length: WORKGROUP }, (_, t) => group(t));
    const elected = of.map((g, t) => (lastElected ? of.lastIndexOf(g) : of.indexOf(g)) === t);
    const joinedBy = (name: string, join: (a: string, b: string) => string): string => `fn ${name}(x: ${type}) -> ${type} {
  told[me] = x;
  workgroupBarrier();
  var all = x;
  for (var k = 0u; k < ${WORKGROUP}u; k++) { if (GROUP[k] == GROUP[me] && k != me) { all = ${join("all", "told[k]")}; } }
  return all;
}`;
    const wgsl = `${text.replace("enable subgroups;\n", "").replace("  let part", "  me = local;\n  let part")}
const GROUP = array<u32, ${WORKGROUP}>(${of.map((g) => `${g}u`).join(", ")});
const ELECTED = array<bool, ${WORKGROUP}>(${elected.join(", ")});
var<private> me: u32;
var<workgroup> told: array<${type}, ${WORKGROUP}>;
${text.includes("subgroupAdd") ? joinedBy("subgroupAdd", (a, b) => `${a} + ${b}`) : joinedBy("subgroupMax", (a, b) => `max(${a}, ${b})`)}
fn subgroupElect() -> bool { return ELECTED[me]; }
`;
    return { ...kernel, wgsl };
  }

  const row = (n: number, combine: "sum" | "max") => {
    const [of, along] = [{ name: "i", size: 2 }, { name: "r", size: n }];
    const [data, result] = [{ name: "data", dtype: "f32" as const, elements: 2 * n }, { name: "result", dtype: "f32" as const, elements: 2 }];
    const kernel = lowerTogether({
      kind: "reduce", label: "test", combine, axes: [of], reduction: [along],
      value: { kind: "load", dtype: "f32", access: { buffer: data, address: { at: 0, by: new Map([[of, n], [along, 1]]) }, bounds: [], quotients: [], fill: 0 } },
      stores: [{ buffer: result, address: { at: 0, by: new Map([[of, 1]]) }, value: { kind: "acc", dtype: "f32" } }],
    }) as Kernel;
    return { kernel, data, result };
  };

  for (const [name, group] of Object.entries(groupings))
    it(`${name}: sizes 1 to 128, any member elected, threads without a share`, async () => {
      const next = random(31);
      for (const size of [1, 4, 8, 16, 32, 64, 128])
        for (const n of [33, 64, 70]) {
          // quarters: sums of them are exact, so that the result is one number whatever the order
          const x = Float32Array.from({ length: 2 * n }, () => Math.round(next() * 400) / 4 - 60);
          const want = truth(ndarray("f32", [2, n], Float64Array.from(x)), 2);
          for (const combine of ["sum", "max"] as const) {
            const { kernel, data, result } = row(n, combine);
            const got = await runKernels(device(), [played(kernel, (t) => group(t, size), n === 64)], new Map([[data, x]]));
            expect([...(got.get(result) ?? [])], `${combine} of ${n}, subgroups of ${size}`).toEqual(want[combine]);
          }
        }
    }, 60_000);

  it("the text compiles for the portable limits", async () => {
    const kernels = [row(33, "sum"), row(70, "max")].map((r) => r.kernel);
    for (const k of kernels) expect(k.variants?.[0]?.wgsl).toMatch(/^\/\/ .*\nenable subgroups;\n/);
    await compileOnNull(kernels.map((k) => ({ ...k, wgsl: k.variants?.[0]?.wgsl as string })));
  });
});

describe("in a plan", () => {
  it("the kernels' own texts come first and say nothing of subgroups; a variant's comes behind them all", () => {
    const { plan, sources } = planOf(graphOf([5, 300], (b, x) => ({ all: b.emit("reduce_sum", [x], { axes: [0, 1] }), y: b.emit("exp", [x]), rows: b.emit("reduce_max", [x], { axes: [1] }) })));
    const varied = plan.kernels.flatMap((k, i) => (k.variants ?? []).map((v) => ({ kernel: i, ...v })));
    expect(varied.map((v) => v.feature)).toEqual(["subgroups", "subgroups"]);
    expect(varied.map((v) => v.source)).toEqual([plan.kernels.length, plan.kernels.length + 1]);
    expect(sources.length).toBe(plan.kernels.length + 2);
    sources.forEach((text, k) => expect(/subgroup/.test(text), text).toBe(k >= plan.kernels.length));
    const declared = (k: number) => (sources[k] as string).match(/@binding.*/g);
    for (const v of varied) expect(declared(v.source)).toEqual(declared(v.kernel));
  });

  it("where a workgroup has several outputs there is none", () => {
    expect(planOf(sumAndMax([40, 128], [1])).plan.kernels.filter((k) => k.variants)).toEqual([]);
  });

  it("a device without the feature compiles the kernel's own text, one with it the variant's", async () => {
    const opened = await nullDevice();
    try {
      const graph = sumAndMax([300], [0]);
      const { plan, sources } = planOf(graph);
      const { Program } = await import("../../runtime/program.js");
      expect(opened.features).toContain("subgroups");
      const compiled = async (features: ReadonlySet<string>) => {
        const texts: string[] = [];
        const device = new Proxy(opened.device, { get: (d, key) => (key === "features" ? features : key === "createShaderModule" ? (m: GPUShaderModuleDescriptor) => { texts.push(m.code); return d.createShaderModule(m); } : typeof Reflect.get(d, key, d) === "function" ? (Reflect.get(d, key, d) as () => unknown).bind(d) : Reflect.get(d, key, d)) });
        await (await Program.create(device, plan, sources)).dispose();
        return texts.sort();
      };
      expect(await compiled(new Set())).toEqual(sources.slice(0, plan.kernels.length).sort());
      expect(await compiled(new Set(["subgroups"]))).toEqual(sources.slice(plan.kernels.length).sort());
      const broken = plan.kernels.map((k) => ({ ...k, variants: [{ feature: "subgroups" as const, source: 99 }] }));
      await expect(Program.create(opened.device, { ...plan, kernels: broken }, sources)).rejects.toMatchObject({ code: "internal" });
    } finally {
      await opened.close();
    }
  });
});

describe.runIf(withSubgroups)(`on ${withSubgroups}, which has subgroups`, () => {
  const open: { all?: OpenDevice; portable?: OpenDevice } = {};
  const device = (set: "all" | "portable"): OpenDevice => open[set] as OpenDevice;
  beforeAll(async () => {
    for (const features of ["all", "portable"] as const) open[features] = await openDevice({ adapter: withSubgroups as "gpu" | "swiftshader", features });
  });
  afterAll(async () => { for (const d of Object.values(open)) await d.close(); });
  const values = async (set: "all" | "portable", graph: Graph, x: NdArray) => Object.fromEntries(Object.entries((await runPoisoned(device(set).device, graph, { x })).results).map(([k, v]) => [k, [...v.data]]));

  it("features: portable leaves them out", () => {
    expect([device("all"), device("portable")].map((d) => [d.features.includes("subgroups"), d.device.features.has("subgroups")])).toEqual([[true, true], [false, false]]);
  });

  it("so does KFACC_FEATURES=portable, and a set it does not know is refused by name", async () => {
    const adapter = withSubgroups as "gpu" | "swiftshader";
    try {
      process.env["KFACC_FEATURES"] = "portable";
      const opened = await openDevice({ adapter });
      expect(opened.features).not.toContain("subgroups");
      await opened.close();
      process.env["KFACC_FEATURES"] = "some";
      await expect(openDevice({ adapter })).rejects.toMatchObject({ code: "bad-option", where: "KFACC_FEATURES" });
    } finally {
      delete process.env["KFACC_FEATURES"];
    }
  });

  for (const [rows, n] of [[1, 65], [1, 127], [3, 257], [31, 100], [1, 4099], [2, 16_000]] as const)
    it(`${rows} × ${n}: float64's numbers within rounding, the portable form's, and the same bits again`, async () => {
      const x = tensor([rows, n], random(rows * n));
      const graph = sumAndMax([rows, n], [1]);
      const spy = vi.spyOn(device("all").device, "createShaderModule");
      const [got, again, portable] = [await values("all", graph, x), await values("all", graph, x), await values("portable", graph, x)];
      expect(spy.mock.calls.filter(([m]) => m.code.includes("enable subgroups;")).length).toBe(2);
      spy.mockRestore();
      expect(again).toEqual(got);
      const want = truth(x, rows);
      expect(got["max"]).toEqual(want.max);
      expect(portable["max"]).toEqual(want.max);
      for (const [k, w] of want.sum.entries()) for (const r of [got, portable]) expect(Math.abs((r["sum"]?.[k] as number) - w), `seed ${rows * n}`).toBeLessThanOrEqual(sumBound(n));
    });

  it("along columns, behind other work and before other work", async () => {
    const x = tensor([200, 7], random(3));
    const graph = graphOf([200, 7], (b, v) => ({ y: b.emit("log", [b.emit("reduce_sum", [b.emit("exp", [v])], { axes: [0] })]), m: b.emit("neg", [b.emit("reduce_max", [v], { axes: [0] })]) }));
    const [got, portable] = [await values("all", graph, x), await values("portable", graph, x)];
    const columns = Array.from({ length: 7 }, (_, c) => Array.from({ length: 200 }, (_, r) => x.data[r * 7 + c] as number));
    expect(got["m"]).toEqual(columns.map((c) => -Math.max(...c)));
    // the sum's relative rounding is the logarithm's absolute one; exp and log have a few units of their own
    const bound = 2 ** -24 * (200 + 64);
    columns.forEach((c, k) => { for (const r of [got, portable]) expect(Math.abs((r["y"]?.[k] as number) - Math.log(c.reduce((a, v) => a + Math.exp(v), 0)))).toBeLessThanOrEqual(bound); });
  });

  it("over axes that are apart, so that threads of the workgroup have no share", async () => {
    const x = tensor([33, 2, 5], random(5));
    const graph = graphOf([33, 2, 5], (b, v) => ({ max: b.emit("reduce_max", [b.emit("add", [v, b.emit("broadcast", [b.scalar(-3)], { shape: [33, 2, 5], axes: [] })])], { axes: [0, 2] }) }));
    expect(planOf(graph).sources[1]).toContain("acc, local < 33u)");
    expect((await values("all", graph, x))["max"]).toEqual([0, 1].map((k) => Math.max(...[...x.data].filter((_, i) => Math.floor(i / 5) % 2 === k).map((v) => Math.fround(v - 3)))));
  });

  it("whole numbers of every type, exactly, as far as their ends", async () => {
    const next = random(9);
    for (const dtype of ["f32", "i32", "u32"] as const) {
      const x = ndarray(dtype, [3, 500], Float64Array.from({ length: 1500 }, () => Math.floor(50 * (next() + (dtype === "u32" ? 1 : 0)))));
      expect(await values("all", sumAndMax([3, 500], [1], dtype), x), dtype).toEqual(truth(x, 3));
    }
    const low = ndarray("i32", [1, 70], new Float64Array(70).fill(-(2 ** 31)));
    expect((await values("all", sumAndMax([1, 70], [1], "i32"), low))["max"]).toEqual([-(2 ** 31)]);
  });

  it("NaN is sum and maximum wherever it stands; infinities and zeros are what they are", async () => {
    for (const n of [65, 128, 300]) {
      expect(planOf(sumAndMax([1, n], [1])).plan.kernels.every((k) => k.variants)).toBe(true);
      for (const at of [0, 1, 5, 31, 32, 63, n - 1]) {
        const x = tensor([1, n], random(n + at));
        x.data[at] = Number.NaN;
        expect(await values("all", sumAndMax([1, n], [1]), x), `NaN at ${at} of ${n}`).toEqual({ sum: [Number.NaN], max: [Number.NaN] });
        x.data[at] = Number.POSITIVE_INFINITY;
        expect(await values("all", sumAndMax([1, n], [1]), x), `∞ at ${at} of ${n}`).toEqual({ sum: [Number.POSITIVE_INFINITY], max: [Number.POSITIVE_INFINITY] });
      }
    }
    for (const all of [Number.NEGATIVE_INFINITY, -1e-30, -3e38, 0])
      expect((await values("all", sumAndMax([1, 70], [1]), ndarray("f32", [1, 70], new Float64Array(70).fill(Math.fround(all)))))["max"]).toEqual([Math.fround(all)]);
  });

  it("a written module carries both, and trains to the same within rounding on either device", async () => {
    const folder = mkdtempSync(join(tmpdir(), "kfacc-subgroups-"));
    try {
      // 100 examples: the loss is a sum of that many
      const program = compile(mlp([5, 8, 3]), options({ loss: "mse", batches: [100] }));
      const written = await writeModule(program, folder, { standalone: false });
      const variants = program.artifact.plan.kernels.flatMap((k) => k.variants ?? []);
      expect(variants.length).toBeGreaterThan(0);
      const { kernelFiles } = JSON.parse(readFileSync(join(folder, "plan.json"), "utf8")) as { kernelFiles: string[] };
      for (const [k, { variants: own }] of program.artifact.plan.kernels.entries())
        for (const v of own ?? []) expect(kernelFiles[v.source]).toBe((kernelFiles[k] as string).replace(/wgsl$/, "subgroups.wgsl"));
      expect(written.files).toEqual(expect.arrayContaining(kernelFiles));
      const module = await readModule(pathToFileURL(`${folder}/`));
      const body = (text: string) => text.replace(/^\/\/.*\n/gm, "");
      expect(module.sources.map(body)).toEqual(program.sources.map(body));
      const next = random(4);
      const batch = { x: { shape: [100, 5], data: Float32Array.from({ length: 500 }, next) }, target: { shape: [100, 3], data: Float32Array.from({ length: 300 }, next) } };
      const losses: Record<string, number[]> = {};
      for (const set of ["all", "portable"] as const) {
        const trainer = await Trainer.create(device(set).device, module.artifact, module.sources, module.weights, { seed: 1 });
        losses[set] = [];
        for (let step = 0; step < 5; step++) losses[set].push(await trainer.step(batch).loss);
        await trainer.dispose();
      }
      const [all, portable] = [losses["all"], losses["portable"]] as [number[], number[]];
      expect(all[4]).toBeLessThan(all[0] as number);
      // the first loss differs by the rounding of one sum; each step may bring as much again, times what damping 0.03 lets an inverse make of it
      all.forEach((l, k) => expect(Math.abs(l / (portable[k] as number) - 1), `step ${k}`).toBeLessThanOrEqual(100 * 2 ** -24 * Math.max(1, k / 0.03)));
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
