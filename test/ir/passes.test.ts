import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Builder } from "../../ir/builder.js";
import { evaluate } from "../../ir/evaluate.js";
import { cotangents } from "../../ir/grad.js";
import type { Graph, Value } from "../../ir/graph.js";
import { parse } from "../../ir/parse.js";
import { type Pass, runPasses } from "../../ir/pass.js";
import { AFTER_GRADIENTS, CANONICAL, PASSES } from "../../ir/passes/index.js";
import { print } from "../../ir/print.js";
import { f32 } from "../../ir/type.js";
import { bindings, difference, graphs, PATIENCE } from "../support/graphs.js";

// Passes may reorder float64 sums of at most a few hundred terms, so a few hundred units of 1.1e-16 of the largest value, and several
// such sums may follow each other; a wrong index is off by half a unit or more.
const TOLERANCE = 1e-12;

function expectEqual(before: Graph, after: Graph, seed: number): void {
  const given = bindings(before, seed);
  const [want, got] = [evaluate(before, given), evaluate(after, given)];
  for (const name of Object.keys(want)) {
    const d = difference(want[name] as NonNullable<typeof want[string]>, got[name] as NonNullable<typeof got[string]>);
    if (!(d < TOLERANCE)) throw new Error(`seed ${seed}: result ${name} differs by ${d}\n${print(before)}\n${print(after)}`);
  }
}

const body = (graph: Graph): string[] => print(graph).split("\n").filter((line) => / = .*\(/.test(line) && !/param|return/.test(line)).map((line) => line.trim());
const run = (text: string, ...passes: readonly Pass[]): string[] =>
  body(runPasses(parse(`graph g { ${text} }`), passes.length > 0 ? passes : CANONICAL, { verify: true }));
const named = (name: string): Pass => PASSES[name] as Pass;

describe("passes on random graphs", () => {
  for (const [name, passes] of [...Object.values(PASSES).map((p) => [p.name, [p]] as const), ["all", CANONICAL] as const])
    it(`${name}: results stay, the graph stays well-formed, and a second run finds nothing to do`, () => {
      fc.assert(fc.property(graphs(), fc.nat(1000), (graph, seed) => {
        const once = runPasses(graph, passes, { verify: true });
        expectEqual(graph, once, seed);
        expect(print(runPasses(once, passes))).toBe(print(once));
      }), { ...PATIENCE, seed: 91, numRuns: 150 });
    });

  it("chains of movement stay right", () => {
    const kinds = ["reshape", "permute", "broadcast", "pad", "slice", "slice", "slice", "window", "window", "fold"];
    fc.assert(fc.property(graphs(kinds), fc.nat(1000), (graph, seed) => {
      expectEqual(graph, runPasses(graph, CANONICAL, { verify: true }), seed);
    }), { ...PATIENCE, seed: 96, numRuns: 200 });
    // longer axes than the random graphs have
    const steps = fc.record({ start: fc.integer({ min: 0, max: 3 }), stride: fc.constantFrom(1, 2, 3), size: fc.integer({ min: 1, max: 4 }) });
    const view = fc.record({ count: fc.integer({ min: 1, max: 5 }), taps: fc.integer({ min: 1, max: 4 }), stride: fc.constantFrom(-2, 1, 2), dilation: fc.constantFrom(-1, 1, 3), offset: fc.integer({ min: -4, max: 4 }), divisor: fc.constantFrom(1, 2, 3) });
    fc.assert(fc.property(steps, steps, view, fc.nat(4), fc.nat(4), fc.nat(1000), (a, b, w, low, high, seed) => {
      const g = new Builder("views");
      const x = g.input("x", f32(24));
      const cut = (v: Value, { start, size, stride }: typeof a) => g.emit("slice", [v], { start: [start], size: [size], stride: [stride] });
      const outer = cut(x, { ...a, start: a.start + 2, size: 6 });
      const inner = cut(outer, { start: b.start % 3, size: 2, stride: b.stride });
      const seen = g.emit("window", [g.emit("pad", [x], { low: [low], high: [high], value: 0 })], { axis: 0, ...w });
      const part = g.emit("slice", [seen], { start: [w.count - 1, w.taps - 1], size: [w.count, w.taps], stride: [-1, -1] });
      const graph = g.finish([{ name: "a", value: inner }, { name: "b", value: part }]);
      const canonical = runPasses(graph, CANONICAL, { verify: true });
      expectEqual(graph, canonical, seed);
      expect(canonical.nodes.filter((n) => n.op !== "reshape").length).toBeLessThanOrEqual(2);
    }), { ...PATIENCE, seed: 97, numRuns: 200 });
  });

  it("folds of contractions and repetitions stay right whatever the steps", () => {
    const kinds = ["scatter", "scatter", "broadcast", "reshape", "permute", "window", "fold", "slice", "linear", "contract"];
    fc.assert(fc.property(graphs(kinds), fc.nat(1000), (graph, seed) => {
      expectEqual(graph, runPasses(graph, CANONICAL, { verify: true }), seed);
    }), { ...PATIENCE, seed: 92, numRuns: 300 });
  });

  it("inputs and parameters keep their identity, and results their names", () => {
    fc.assert(fc.property(graphs(), (graph) => {
      const after = runPasses(graph, CANONICAL);
      expect(after.params).toBe(graph.params);
      expect(after.inputs).toBe(graph.inputs);
      expect(after.results.map((r) => r.name)).toEqual(graph.results.map((r) => r.name));
    }), { ...PATIENCE, seed: 93, numRuns: 50 });
  });
});

describe("dce and cse", () => {
  it("what no result needs goes; inputs and parameters are the signature and stay", () => {
    const graph = parse("graph g { param %w: f32[2] = zeros input %x: f32[2] %a = neg(%x) %b = neg(%a) %c = abs(%x) return c = %c }");
    const after = runPasses(graph, [named("dce")]);
    expect(body(after)).toEqual(["%c = abs(%x) : f32[2]"]);
    expect(after.params.length).toBe(1);
  });

  it("a + b is b + a, but a - b is not b - a", () => {
    const text = (op: string) => `input %a: f32[2] input %b: f32[2] %x = ${op}(%a, %b) %y = ${op}(%b, %a) return x = %x, y = %y`;
    expect(run(text("add"), named("cse"))).toEqual(["%x = add(%a, %b) : f32[2]"]);
    expect(run(text("sub"), named("cse")).length).toBe(2);
  });

  it("0 and -0 are two constants, equal attributes one node", () => {
    const zero = (name: string, value: string) => `%${name} = constant() {value = ${value}, dtype = "f32"}`;
    expect(run(`${zero("a", "0")} ${zero("b", "-0")} ${zero("c", "0")} return a = %a, b = %b, c = %c`, named("cse")).length).toBe(2);
  });
});

describe("lookups", () => {
  const hot = 'input %i: i32[2, 3] %n = iota() {shape = [2, 3, 5], axis = 2} %w = broadcast(%i) {shape = [2, 3, 5], axes = [0, 1]} %e = eq(%w, %n) %h = cast(%e) {dtype = "f32"}';
  const looked = (text: string) => {
    const graph = parse(`graph g { ${text} return y = %y }`);
    const made = runPasses(graph, [named("lookups")], { verify: true });
    for (const seed of [1, 2, 3]) expectEqual(graph, made, seed);
    return made.nodes.map((n) => n.op).filter((op) => op !== "reshape");
  };

  it("a table times one-hot rows is looked up, whichever way the table lies and whichever operand it is", () => {
    expect(looked(`${hot} param %t: f32[5, 4] = file %y = contract(%h, %t) {spec = "bni,io->bno"}`)).toEqual(["gather"]);
    expect(looked(`${hot} param %t: f32[4, 5] = file %y = contract(%h, %t) {spec = "bni,oi->nob"}`)).toEqual(["permute", "gather", "permute"]);
    expect(looked(`${hot} param %t: f32[5] = file %y = contract(%t, %h) {spec = "i,bni->bn"}`)).toEqual(["gather"]);
  });
  it("its gradient is a sum by index, for several columns too", () => {
    expect(looked(`${hot} input %g: f32[2, 3, 4] %y = contract(%h, %g) {spec = "bni,bno->io"}`)).toEqual(["scatter"]);
    expect(looked(`${hot} input %g: f32[6, 2, 3, 4] %y = contract(%g, %h) {spec = "kbno,bni->kio"}`)).toEqual(["permute", "scatter", "permute"]);
  });
  it("other uses of one-hot rows stay contractions", () => {
    // counts per example, sums over some places only, places that stay beside the table's own
    for (const [operand, spec] of [["f32[2, 3, 4]", "bni,bno->bio"], ["f32[2, 4]", "bni,bo->io"], ["f32[2, 5]", "bni,bi->bn"], ["f32[5, 4]", "bni,io->bo"]] as const)
      expect([spec, looked(`${hot} input %g: ${operand} %y = contract(%h, %g) {spec = "${spec}"}`).includes("contract")]).toEqual([spec, true]);
  });
  it("numbers along another axis, or compared with something else, are no one-hot rows", () => {
    const other = hot.replace("axis = 2", "axis = 1");
    expect(looked(`${other} param %t: f32[5, 4] = file %y = contract(%h, %t) {spec = "bni,io->bno"}`)).toContain("contract");
  });
});

describe("fold", () => {
  const x = 'input %x: f32[2] input %p: f32[2] input %q: bool[2] %s = constant() {value = VALUE, dtype = "f32"} %c = broadcast(%s) {shape = [2], axes = []}';
  const left = (value: string, line: string) => run(`${x.replace("VALUE", value)} ${line} return y = %y`, named("fold")).filter((l) => !/constant|broadcast/.test(l));

  it("arithmetic that changes nothing is gone", () => {
    for (const [value, line] of [["1", "%y = mul(%c, %x)"], ["0", "%y = add(%x, %c)"], ["0", "%y = sub(%x, %c)"], ["1", "%y = div(%x, %c)"], ["1", "%y = pow(%x, %c)"],
      ["1", "%n = neg(%x) %y = neg(%n)"], ["1", "%y = select(%q, %x, %x)"], ["1", "%y = max(%x, %x)"], ["1", '%y = cast(%x) {dtype = "f32"}']] as const)
      expect([value, line, left(value, line)]).toEqual([value, line, []]);
  });

  it("what would change a NaN or a rounding stays", () => {
    for (const [value, line] of [["0", "%y = mul(%x, %c)"], ["0", "%y = div(%c, %x)"], ["3", "%y = div(%x, %c)"], ["1", "%y = sub(%x, %x)"], ["1", "%y = div(%x, %x)"],
      ["1", "%y = eq(%x, %x)"], ["2", "%a = mul(%x, %c) %y = mul(%a, %c)"]] as const)
      expect([value, line, left(value, line).length]).toEqual([value, line, line.split("%").length > 6 ? 2 : 1]);
  });

  it("signs move into the operation that has one", () => {
    expect(left("1", "%n = neg(%p) %y = add(%n, %x)")).toEqual(["%y = sub(%x, %p) : f32[2]"]);
    expect(left("1", "%n = neg(%p) %y = add(%x, %n)")).toEqual(["%y = sub(%x, %p) : f32[2]"]);
    expect(left("1", "%n = neg(%p) %y = sub(%x, %n)")).toEqual(["%y = add(%x, %p) : f32[2]"]);
    expect(left("-1", "%y = mul(%x, %c)")).toEqual(["%y = neg(%x) : f32[2]"]);
    expect(left("0", "%y = sub(%c, %x)")).toEqual(["%y = neg(%x) : f32[2]"]);
  });

  it("a select that asks the same question again is one select", () => {
    expect(left("1", "%a = select(%q, %x, %c) %y = select(%q, %a, %p)")).toEqual(["%y = select(%q, %x, %p) : f32[2]"]);
    expect(left("1", "%a = select(%q, %x, %c) %y = select(%q, %p, %a)")).toEqual(["%y = select(%q, %p, %c) : f32[2]"]);
    expect(left("1", "%n = not(%q) %y = select(%n, %x, %p)")).toEqual(["%y = select(%q, %p, %x) : f32[2]"]);
  });

  it("an integer result that does not exist is left to the machine", () => {
    const text = (op: string) => `%a = constant() {value = 3, dtype = "i32"} %z = constant() {value = 0, dtype = "i32"} %y = ${op}(%a, %z) return y = %y`;
    expect(run(text("div"), named("fold")).length).toBe(3);
    expect(run(text("add"), named("fold"))).toEqual(['%a = constant() {value = 3, dtype = "i32"} : i32[]']);
  });
});

describe("canonicalize", () => {
  it("a linear layer is one text however its weight is turned", () => {
    const layer = (w: string, lines: string) => run(`param %w: f32[${w}] = file input %x: f32[4, 3] examples 0 ${lines} return y = %y`);
    const plain = layer("3, 5", '%y = contract(%x, %w) {spec = "ni,io->no"}');
    expect(plain).toEqual(['%y = contract(%x, %w) {spec = "ab,bc->ac"} : f32[4, 5]']);
    expect(layer("3, 5", '%t = permute(%w) {perm = [1, 0]} %y = contract(%x, %t) {spec = "ni,oi->no"}')).toEqual(plain);
    expect(layer("3, 5", '%t = permute(%x) {perm = [1, 0]} %z = contract(%t, %w) {spec = "in,io->on"} %y = permute(%z) {perm = [1, 0]}')).toEqual(plain);
    expect(layer("3, 5", '%t = reshape(%x) {shape = [4, 1, 3]} %z = contract(%t, %w) {spec = "nti,io->nto"} %y = reshape(%z) {shape = [4, 5]}')).toEqual(plain);
  });

  it("a 1×1 convolution is a contraction over channels", () => {
    const window = (axis: number, count: number) => `{axis = ${axis}, count = ${count}, taps = 1, stride = 1, dilation = 1, offset = 0, divisor = 1}`;
    expect(run(`param %w: f32[5, 3, 1, 1] = file input %x: f32[4, 3, 6, 7] examples 0 %a = window(%x) ${window(2, 6)} %b = window(%a) ${window(4, 7)}
      %y = contract(%b, %w) {spec = "ncykxl,ockl->noyx"} return y = %y`)).toEqual([
      "%v0 = reshape(%w) {shape = [5, 3]} : f32[5, 3]",
      '%y = contract(%x, %v0) {spec = "abcd,eb->aecd"} : f32[4, 5, 6, 7]',
    ]);
  });

  it("a contraction with a second user is not done twice to save a permutation", () => {
    const text = 'input %x: f32[4, 3] %z = contract(%x, %x) {spec = "ab,cb->ac"} %y = permute(%z) {perm = [1, 0]} return y = %y';
    const made = (lines: string[]) => lines.map((line) => line.split(" ")[2]?.split("(")[0]);
    expect(made(run(text))).toEqual(["contract"]);
    expect(made(run(`${text}, z = %z`))).toEqual(["contract", "permute"]);
  });

  it("zero padding is the offset of a window; other padding stays", () => {
    const conv = (value: number) => run(`input %x: f32[5] %p = pad(%x) {low = [2], high = [1], value = ${value}}
      %y = window(%p) {axis = 0, count = 6, taps = 3, stride = 1, dilation = 1, offset = 0, divisor = 1} return y = %y`);
    expect(conv(0)).toEqual(["%y = window(%x) {axis = 0, count = 6, taps = 3, stride = 1, dilation = 1, offset = -2, divisor = 1} : f32[6, 3]"]);
    expect(conv(1).length).toBe(2);
  });

  it("two windows that read the same elements are one text", () => {
    const view = (text: string) => run(`input %x: f32[6] %y = window(%x) {axis = 0, ${text}} return y = %y`);
    expect(view("count = 3, taps = 2, stride = 4, dilation = 2, offset = -2, divisor = 2")).toEqual(view("count = 3, taps = 2, stride = 2, dilation = 1, offset = -1, divisor = 1"));
    expect(view("count = 3, taps = 1, stride = 2, dilation = 5, offset = 1, divisor = 1")).toEqual(view("count = 3, taps = 1, stride = 2, dilation = 7, offset = 1, divisor = 1"));
    expect(view("count = 1, taps = 2, stride = 2, dilation = 3, offset = 1, divisor = 1")).toEqual(view("count = 1, taps = 2, stride = -4, dilation = 3, offset = 1, divisor = 1"));
    expect(view("count = 3, taps = 2, stride = 3, dilation = 2, offset = 0, divisor = 2")[0]).toMatch("divisor = 2");
  });

  it("a constant stands right", () => {
    expect(run('input %x: f32[] %c = constant() {value = 2, dtype = "f32"} %y = mul(%c, %x) return y = %y')[1]).toBe("%y = mul(%x, %c) : f32[]");
  });

  it("detach stays until it is asked to go", () => {
    const text = "input %x: f32[2] %d = detach(%x) %y = neg(%d) return y = %y";
    expect(run(text).length).toBe(2);
    expect(run(text, ...AFTER_GRADIENTS)).toEqual(["%y = neg(%x) : f32[2]"]);
  });
});

/** Appends the cotangents of `wanted` for a given cotangent of y, and returns the canonical graph beside the plain one. */
function backward(b: Builder, y: Value, wanted: Readonly<Record<string, Value>>): { plain: Graph; canonical: Graph } {
  const ct = b.input("ct", y.type, 0);
  const found = cotangents(b, new Map([[y, ct]]), Object.values(wanted));
  const plain = b.finish([{ name: "y", value: y }, ...Object.entries(wanted).map(([name, v]) => ({ name: `d${name}`, value: found.get(v) as Value }))]);
  return { plain, canonical: runPasses(plain, AFTER_GRADIENTS, { verify: true }) };
}
const ops = (graph: Graph): string[] => graph.nodes.map((n) => n.op);

interface Slide { count: number; taps: number; stride: number; dilation: number; offset: number }
const slide = fc.record({ count: fc.integer({ min: 1, max: 4 }), taps: fc.integer({ min: 1, max: 3 }), stride: fc.integer({ min: 1, max: 3 }), dilation: fc.integer({ min: 1, max: 3 }), offset: fc.integer({ min: -3, max: 1 }) });
const windowed = (b: Builder, x: Value, axis: number, s: Slide): Value => b.emit("window", [x], { axis, ...s, divisor: 1 });

describe("fold → window", () => {
  it("a convolution's gradients are two contractions, and read like this", () => {
    const view = (axis: number) => `{axis = ${axis}, count = 3, taps = 3, stride = 2, dilation = 1, offset = -1, divisor = 1}`;
    const forward = parse(`graph conv {
      param %w: f32[4, 2, 3, 3] = file
      input %x: f32[8, 2, 6, 6] examples 0
      input %ct: f32[8, 4, 3, 3] examples 0
      %wy = window(%x) ${view(2)}
      %wx = window(%wy) ${view(4)}
      %y = contract(%wx, %w) {spec = "ncykxl,ockl->noyx"}
      return y = %y, x = %x, w = %w, ct = %ct }`);
    const [y, x, w, ct] = forward.results.map((r) => r.value) as [Value, Value, Value, Value];
    const b = Builder.from(forward);
    const found = cotangents(b, new Map([[y, ct]]), [x, w]);
    const plain = b.finish([{ name: "y", value: y }, { name: "dx", value: found.get(x) as Value }, { name: "dw", value: found.get(w) as Value }]);
    const canonical = runPasses(plain, AFTER_GRADIENTS, { verify: true });
    expect(print(canonical)).toBe(readFileSync(new URL("../golden/conv-gradient.kir", import.meta.url), "utf8"));
    expectEqual(plain, canonical, 1);
  });

  it("no scatter is left behind any convolution: strides, dilations, padding, groups, channels last, either order of axes", () => {
    fc.assert(fc.property(slide, slide, fc.boolean(), fc.boolean(), fc.integer({ min: 1, max: 2 }), fc.nat(1000), (sy, sx, xFirst, last, groups, seed) => {
      const b = new Builder("conv");
      const c = 2;
      const w = b.param("w", f32(groups, 2, c, sy.taps, sx.taps));
      const given = b.input("x", last ? f32(2, 5, 4, groups * c) : f32(2, groups * c, 5, 4), 0);
      const x = last ? b.emit("permute", [given], { perm: [0, 3, 1, 2] }) : given;
      const view = xFirst ? windowed(b, windowed(b, x, 3, sx), 2, sy) : windowed(b, windowed(b, x, 2, sy), 4, sx);
      const split = b.emit("reshape", [view], { shape: [2, groups, c, ...view.type.shape.slice(2)] });
      const z = b.emit("contract", [split, w], { spec: "ngcykxl,gockl->ngoyx" });
      const y = b.emit("reshape", [z], { shape: [2, groups * 2, sy.count, sx.count] });
      const { plain, canonical } = backward(b, y, { x: given, w });
      expectEqual(plain, canonical, seed);
      expect(ops(canonical)).not.toContain("fold");
    }), { ...PATIENCE, seed: 94, numRuns: 150 });
  });

  it("average pooling goes back as a sum over a window, padded or overlapping", () => {
    fc.assert(fc.property(slide, slide, fc.boolean(), fc.nat(1000), (sy, sx, divideFirst, seed) => {
      const b = new Builder("pool");
      const x = b.input("x", f32(2, 3, 5, 4), 0);
      const view = windowed(b, windowed(b, x, 2, sy), 4, sx);
      const half = (v: Value): Value => b.emit("mul", [v, b.emit("broadcast", [b.scalar(0.5)], { shape: v.type.shape, axes: [] })]);
      const y = divideFirst ? b.emit("reduce_sum", [half(view)], { axes: [3, 5] }) : half(b.emit("reduce_sum", [view], { axes: [3, 5] }));
      const { plain, canonical } = backward(b, y, { x });
      expectEqual(plain, canonical, seed);
      expect(ops(canonical)).not.toContain("fold");
    }), { ...PATIENCE, seed: 95, numRuns: 100 });
  });

  it("two convolutions of one window view go back as two contractions", () => {
    const b = new Builder("branches");
    const x = b.input("x", f32(2, 3, 6), 0);
    const view = windowed(b, x, 2, { count: 4, taps: 3, stride: 1, dilation: 1, offset: 0 });
    const layer = (name: string): Value => b.emit("contract", [view, b.param(name, f32(2, 3, 3))], { spec: "ncyk,ock->noy" });
    const { plain, canonical } = backward(b, b.emit("mul", [layer("u"), layer("v")]), { x });
    expectEqual(plain, canonical, 1);
    expect(ops(canonical)).not.toContain("fold");
  });

  it("a contraction that someone else reads is not done a second time for its fold", () => {
    const text = `input %x: f32[4, 2] input %u: f32[3, 2] %c = contract(%x, %u) {spec = "ik,jk->ij"}
      %y = fold(%c) {axis = 0, size = 6, stride = 1, dilation = 1, offset = 0, divisor = 1} return y = %y`;
    expect(run(text).map((line) => line.split(" ")[2]?.split("(")[0])).toEqual(["window", "contract"]);
    expect(run(`${text}, c = %c`).map((line) => line.split(" ")[2]?.split("(")[0])).toEqual(["contract", "fold"]);
  });

  it("a fold whose taps and positions are entangled stays a fold", () => {
    const text = 'input %x: f32[4, 3] %y = fold(%x) {axis = 0, size = 6, stride = 1, dilation = 1, offset = 0, divisor = 1} return y = %y';
    expect(run(text)).toEqual(["%y = fold(%x) {axis = 0, size = 6, stride = 1, dilation = 1, offset = 0, divisor = 1} : f32[6]"]);
  });
});
