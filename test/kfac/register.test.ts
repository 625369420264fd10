/** Which layers a graph has: every spelling of a layer is found, and what is none says why. */
import { describe, expect, it } from "vitest";
import { CompileError } from "../../ir/error.js";
import { net, table, tableOf } from "./support.js";

const X = "input %x: f32[2, 4] examples 0";

describe("a dense layer", () => {
  it.each([0, 1, 2, 3])("is found on %i more leading axes: they are positions", (more) => {
    const lead = [2, 3, 5, 7].slice(0, 1 + more);
    const T = lead.slice(1).reduce((a, b) => a * b, 1);
    const labels = "nabc".slice(0, lead.length);
    expect(table(`param %w: f32[6, 4] = file input %x: f32[${[...lead, 4]}] examples 0
      %y = contract(%x, %w) {spec = "${labels}i,oi->${labels}o"} return y = %y`, { sharing: { "*": "expand" } })).toEqual([`w dense 4→6 T${T}`]);
  });

  it("is found whichever way its weight is stored, and behind transposes and reshapes of it", () => {
    for (const [w, way] of [["f32[6, 4]", "ni,oi->no"], ["f32[4, 6]", "ni,io->no"]])
      expect(table(`param %w: ${w} = file ${X} %y = contract(%x, %w) {spec = "${way}"} return y = %y`)).toEqual(["w dense 4→6 T1"]);
    expect(table(`param %w: f32[4, 6] = file ${X} %t = permute(%w) {perm = [1, 0]} %y = contract(%x, %t) {spec = "ni,oi->no"} return y = %y`)).toEqual(["w dense 4→6 T1"]);
    expect(table(`param %w: f32[24] = file ${X} %t = reshape(%w) {shape = [6, 4]} %y = contract(%x, %t) {spec = "ni,oi->no"} return y = %y`)).toEqual(["w dense 4→6 T1"]);
    expect(table(`param %w: f32[2, 2, 6] = file ${X} %t = reshape(%w) {shape = [4, 6]} %p = permute(%t) {perm = [1, 0]} %y = contract(%x, %p) {spec = "ni,oi->no"} return y = %y`)).toEqual(["w dense 4→6 T1"]);
  });

  it("takes axes of its weight together in whatever order they come to stand", () => {
    expect(table(`param %w: f32[2, 5, 3] = file input %x: f32[2, 6] examples 0 %p = permute(%w) {perm = [2, 0, 1]} %t = reshape(%p) {shape = [6, 5]}
      %y = contract(%x, %t) {spec = "ni,io->no"} return y = %y`)).toEqual(["w dense 6→5 T1"]);
  });

  const FUSED = (cut: string, back: string, starts: readonly number[]) => `param %W: f32[12, 4] = file param %b: f32[12] = file input %x: f32[2, 3, 4] examples 0
    ${starts.map((s, k) => `%w${k} = slice(%W) {start = [${s}, 0], size = [${cut}, 4], stride = [1, 1]}
    %b${k} = slice(%b) {start = [${s}], size = [${cut}], stride = [1]}
    %y${k} = contract(%x, %w${k}) {spec = "nti,oi->nto"} %c${k} = broadcast(%b${k}) {shape = [2, 3, ${cut}], axes = [2]} %z${k} = add(%y${k}, %c${k})
    %h${k} = tanh(%z${k})`).join("\n")} ${back}`;

  it("is found three times in one parameter that is used in three parts, with parts of one bias", () => {
    expect(table(FUSED("4", "return a = %h0, b = %h1, c = %h2", [0, 4, 8]))).toEqual([0, 4, 8].map((s) => `W[${s}:${s + 4}] dense 4→4 +b T3`));
  });

  it("is found twice in parts that leave some of it unused", () => {
    expect(table(FUSED("4", "return a = %h0, c = %h1", [0, 8]))).toEqual([0, 8].map((s) => `W[${s}:${s + 4}] dense 4→4 +b T3`));
  });

  it("is refused where parts overlap", () => {
    expect(table(FUSED("6", "return a = %h0, c = %h1", [0, 4]))).toEqual(["W: its uses read parts of it that overlap", expect.stringMatching(/^b: /)]);
  });

  it("keeps its bias behind a reshape of its result", () => {
    expect(table(`param %w: f32[6, 4] = file param %b: f32[6] = file input %x: f32[2, 3, 4] examples 0
      %y = contract(%x, %w) {spec = "nti,oi->nto"} %r = reshape(%y) {shape = [6, 6]} %c = broadcast(%b) {shape = [6, 6], axes = [1]} %z = add(%r, %c)
      %h = tanh(%z) %o = reshape(%h) {shape = [2, 3, 6]} return y = %o`)).toEqual(["w dense 4→6 +b T3"]);
    // heads apart: outputs are two axes of the bias's view
    expect(table(`param %w: f32[6, 4] = file param %b: f32[6] = file input %x: f32[2, 3, 4] examples 0
      %y = contract(%x, %w) {spec = "nti,oi->nto"} %r = reshape(%y) {shape = [2, 3, 2, 3]} %p = permute(%r) {perm = [0, 2, 1, 3]}
      %v = reshape(%b) {shape = [2, 3]} %c = broadcast(%v) {shape = [2, 2, 3, 3], axes = [1, 3]} %z = add(%p, %c) %h = tanh(%z) return y = %h`)).toEqual(["w dense 4→6 +b T3"]);
  });

  it("has no bias where what is added has a number per position, or its result is also used without", () => {
    expect(table(`param %w: f32[6, 4] = file param %b: f32[3, 6] = file input %x: f32[2, 3, 4] examples 0
      %y = contract(%x, %w) {spec = "nti,oi->nto"} %c = broadcast(%b) {shape = [2, 3, 6], axes = [1, 2]} %z = add(%y, %c) %h = tanh(%z) return y = %h`))
      .toEqual(["w dense 4→6 T3", expect.stringMatching(/^b: /)]);
    expect(table(`param %w: f32[6, 4] = file param %b: f32[6] = file ${X}
      %y = contract(%x, %w) {spec = "ni,oi->no"} %c = broadcast(%b) {shape = [2, 6], axes = [1]} %z = add(%y, %c) %h = mul(%z, %y) return y = %h`))
      .toEqual(["w dense 4→6 T1", expect.stringMatching(/^b: /)]);
  });
});

describe("a convolution", () => {
  it.each(["conv1d", "conv2d", "conv3d"] as const)("%s: groups, depthwise, 1×1", (name) => {
    const dims = Number(name[4]);
    const shape = Array.from({ length: dims }, () => 5);
    const make = (filters: number, kernel: number, groups: number, bias = true) =>
      tableOf(net((m) => m.tanh(m[name](m.input("x", [4, ...shape]), filters, kernel, { groups, bias, name: "c" }))));
    const [taps, T] = [3 ** dims, 3 ** dims];
    expect(make(6, 3, 1)).toEqual([`c.weight conv ${4 * taps}→6 +c.bias T${T}`]);
    expect(make(6, 3, 2)).toEqual([`c.weight conv ${2 * taps}→3×2 +c.bias T${T}`]);
    expect(make(8, 3, 4, false)).toEqual([`c.weight conv ${taps}→2×4 T${T}`]);
    expect(make(4, 3, 4)).toEqual([`c.weight conv ${taps}→1×4 +c.bias T${T}`]);
    expect(make(6, 1, 1)).toEqual([`c.weight conv 4→6 +c.bias T${5 ** dims}`]);
    expect(make(6, 1, 2)).toEqual([`c.weight conv 2→3×2 +c.bias T${5 ** dims}`]);
  });

  it("keeps a bias that is added apart, of any shape that means one per channel", () => {
    for (const [shape, add] of [[[6, 1, 1], "b"], [[1, 6, 1, 1], "d"]] as const)
      expect(tableOf(net((m) => m.tanh(m.add(m.conv2d(m.input("x", [4, 5, 5]), 6, 3, { bias: false, groups: 2, name: "c" }), m.param(add, shape)))))).toEqual([`c.weight conv 18→3×2 +${add} T9`]);
  });

  it("is found transposed, with groups", () => {
    for (const groups of [1, 2])
      expect(tableOf(net((m) => m.tanh(m.convTranspose2d(m.input("x", [4, 3, 3]), 6, 3, { stride: 2, pad: 1, groups, name: "t" })))))
        .toEqual([`t.weight convT ${(4 / groups) * 9}→${6 / groups}${groups > 1 ? "×2" : ""} +t.bias T25`]);
  });
});

describe("an embedding", () => {
  it("has a diagonal A", () => {
    expect(tableOf(net((m) => m.tanh(m.embedding(m.input("x", [3], { dtype: "i32" }), 7, 5, { name: "e" }))))).toEqual(["e.weight embed 7→5 T3 diag(A)"]);
  });

  it("tied with the projection at the end, transposed there", () => {
    const table7 = `param %E: f32[7, 5] = file param %c: f32[7] = file input %x: i32[2, 3] examples 0
      %i = iota() {shape = [2, 3, 7], axis = 2} %xx = broadcast(%x) {shape = [2, 3, 7], axes = [0, 1]} %q = eq(%xx, %i) %one = cast(%q) {dtype = "f32"}
      %e = contract(%one, %E) {spec = "ntv,vd->ntd"} %h = tanh(%e) %z = contract(%h, %E) {spec = "ntd,vd->ntv"}`;
    expect(table(`${table7} return y = %z`)).toEqual(["E embed 7→5 T6 diag(A) [plain T3, transposed T3]", "c: not used by the loss"]);
    expect(table(`${table7} %cc = broadcast(%c) {shape = [2, 3, 7], axes = [2]} %o = add(%z, %cc) return y = %o`))
      .toEqual(["E embed 7→5 T6 diag(A) [plain T3, transposed T3]", expect.stringMatching(/^c: it is added where its layer's weight is used transposed/)]);
  });

  it("of dense one-hot rows tied with the projection is one layer with a transposed site", () => {
    expect(tableOf(net((m) => {
      const e = m.param("E", [7, 5]);
      const rows = m.matmul(m.tanh(m.input("x", [3, 7])), e);
      return m.matmul(m.tanh(rows), m.transpose(e));
    }))).toEqual(["E dense 7→5 T6 [plain T3, transposed T3]"]);
  });
});

describe("one weight at several sites", () => {
  it("tied autoencoder: two biases, of which the layer's own is the one on the way in", () => {
    expect(tableOf(net((m) => {
      const w = m.param("W", [3, 4]);
      const h = m.tanh(m.add(m.matmul(m.input("x", [4]), m.transpose(w)), m.param("b", [3])));
      return m.add(m.matmul(h, w), m.param("c", [4]));
    }))).toEqual([expect.stringMatching(/^W dense 4→3 \+b T2 \[plain \+bias T1, transposed T1\]$/), "c: it is added where its layer's weight is used transposed, in matmul2"]);
  });

  const twice = (first: string, second: string) => `param %w: f32[4, 4] = file param %b: f32[4] = file param %c: f32[4] = file ${X}
    %bb = broadcast(%b) {shape = [2, 4], axes = [1]} %cc = broadcast(%c) {shape = [2, 4], axes = [1]}
    %y = contract(%x, %w) {spec = "ni,oi->no"} ${first} %h = tanh(%y1) %z = contract(%h, %w) {spec = "ni,oi->no"} ${second} %o = tanh(%z1) return y = %o`;
  it("with the bias at both, at one, or with two biases", () => {
    expect(table(twice("%y1 = add(%y, %bb)", "%z1 = add(%z, %bb)")).slice(0, 1)).toEqual(["w dense 4→4 +b T2 [plain +bias T1, plain +bias T1]"]);
    expect(table(twice("%y1 = add(%y, %bb)", "%z1 = neg(%z)"))).toEqual(["w dense 4→4 +b T2 [plain +bias T1, plain T1]", "c: not used by the loss"]);
    expect(table(twice("%y1 = neg(%y)", "%z1 = add(%z, %cc)"))).toEqual(["w dense 4→4 +c T2 [plain T1, plain +bias T1]", "b: not used by the loss"]);
    const both = table(twice("%y1 = add(%y, %bb)", "%z1 = add(%z, %cc)"));
    expect(both).toEqual(["w dense 4→4 +b T2 [plain +bias T1, plain T1]", expect.stringMatching(/^c: its layer has another bias at another use, in /)]);
  });

  it("a bias of two layers is nobody's", () => {
    expect(table(`param %v: f32[4, 4] = file param %w: f32[4, 4] = file param %b: f32[4] = file ${X} %c = broadcast(%b) {shape = [2, 4], axes = [1]}
      %y = contract(%x, %v) {spec = "ni,oi->no"} %y1 = add(%y, %c) %h = tanh(%y1) %z = contract(%h, %w) {spec = "ni,oi->no"} %z1 = add(%z, %c) %o = tanh(%z1) return y = %o`))
      .toEqual(["v dense 4→4 T1", "w dense 4→4 T1", expect.stringMatching(/^b: it is added to several layers, in /)]);
  });

  it("a bias that is used elsewhere too is nobody's", () => {
    expect(table(`param %w: f32[4, 4] = file param %b: f32[4] = file ${X} %c = broadcast(%b) {shape = [2, 4], axes = [1]}
      %y = contract(%x, %w) {spec = "ni,oi->no"} %y1 = add(%y, %c) %e = exp(%c) %o = mul(%y1, %e) return y = %o`))
      .toEqual(["w dense 4→4 T1", expect.stringMatching(/^b: it is also used in /)]);
  });

  it("a bias that its two uses read in different orders is nobody's", () => {
    expect(table(twice("%y1 = add(%y, %bb)", `%r = reshape(%z) {shape = [2, 2, 2]} %v = reshape(%b) {shape = [2, 2]} %t = permute(%v) {perm = [1, 0]}
      %tt = broadcast(%t) {shape = [2, 2, 2], axes = [1, 2]} %z0 = add(%r, %tt) %z1 = reshape(%z0) {shape = [2, 4]}`)))
      .toEqual(["w dense 4→4 T2 [plain T1, plain T1]", expect.stringMatching(/^b: it is added in different ways in /), "c: not used by the loss"]);
  });

  it("for different matrices is refused", () => {
    expect(table(`param %w: f32[4, 4] = file ${X} %y = contract(%x, %w) {spec = "ni,oi->no"} %h = tanh(%y)
      %r = reshape(%h) {shape = [2, 2, 2]} %v = reshape(%w) {shape = [2, 2, 4]} %z = contract(%r, %v) {spec = "nab,abo->no"} %o = tanh(%z) return y = %o`))
      .toEqual(["w dense 4→4 T2 [plain T1, transposed T1]"]);
    expect(table(`param %w: f32[4, 4] = file ${X} %y = contract(%x, %w) {spec = "ni,oi->no"} %h = tanh(%y)
      %r = reshape(%h) {shape = [2, 2, 2]} %v = reshape(%w) {shape = [8, 2]} %z = contract(%r, %v) {spec = "nab,ob->nao"} %o = tanh(%z) return y = %o`))
      .toEqual([expect.stringMatching(/^w: its uses in .* take it for different matrices$/)]);
    // used as a bare number somewhere
    expect(table(`param %w: f32[4, 4] = file ${X} %y = contract(%x, %w) {spec = "ni,oi->no"} %s = tanh(%w) %o = contract(%y, %s) {spec = "ni,oi->no"} return y = %o`))
      .toEqual([expect.stringMatching(/^w: no layer pattern covers its use in tanh \(one of its 2 uses\)$/)]);
  });
});

describe("scales and shifts of a normalisation", () => {
  it("Batch, frozen: a block of scale and shift per channel", () => {
    expect(tableOf(net((m) => m.tanh(m.batchNorm(m.tanh(m.input("x", [3, 4, 4])), { name: "n", frozen: true }))))).toEqual(["n.weight norm 1→1×3 +n.bias T16 block"]);
  });

  it("Layer, RMS, a gain alone, a single number", () => {
    expect(tableOf(net((m) => m.tanh(m.layerNorm(m.input("x", [6, 4]), { name: "n" }))))).toEqual(["n.weight norm 1→1×4 +n.bias T6 block"]);
    expect(tableOf(net((m) => {
      const x = m.input("x", [6, 4]);
      return m.tanh(m.mul(m.div(x, m.sqrt(m.add(m.mean(m.mul(x, x), -1, true), 1e-5))), m.param("g", [4])));
    }))).toEqual(["g norm 1→1×4 T6 block"]);
    expect(tableOf(net((m) => m.tanh(m.mul(m.tanh(m.input("x", [4])), m.param("g", [4])))))).toEqual(["g norm 1→1×4 T1 block"]);
    for (const shape of [[], [1]]) expect(tableOf(net((m) => m.tanh(m.mul(m.tanh(m.input("x", [4])), m.param("g", shape)))))).toEqual(["g norm 1→1 T4 block"]);
  });

  it("Instance: each channel of each example by itself", () => {
    expect(tableOf(net((m) => {
      const x = m.input("x", [3, 8]);
      const d = m.sub(x, m.mean(x, 1, true));
      const n = m.div(d, m.sqrt(m.add(m.mean(m.mul(d, d), 1, true), 1e-5)));
      return m.tanh(m.add(m.mul(n, m.param("g", [3, 1])), m.param("b", [3, 1])));
    }))).toEqual(["g norm 1→1×3 +b T8 block"]);
  });

  it("Group, whose channels are behind reshapes", () => {
    const grouped = (shift: readonly number[]) => net((m) => {
      const x = m.reshape(m.input("x", [6, 5]), [2, 15]);
      const centred = m.sub(x, m.mean(x, 1, true));
      const n = m.reshape(m.div(centred, m.sqrt(m.add(m.mean(m.mul(centred, centred), 1, true), 1e-5))), [6, 5]);
      return m.tanh(m.add(m.mul(n, m.param("g", [6, 1])), m.param("b", shift)));
    });
    expect(tableOf(grouped([6, 1]))).toEqual(["g norm 1→1×6 +b T5 block"]);
    expect(tableOf(grouped([1, 6, 1]))).toEqual(["g norm 1→1×6 +b T5 block"]);
  });

  it("Batch in training, whose statistics mix examples", () => {
    expect(table(`param %g: f32[3] = file param %b: f32[3] = file input %x: f32[4, 3, 5] examples 0
      %s = reduce_sum(%x) {axes = [0, 2]} %m = broadcast(%s) {shape = [4, 3, 5], axes = [1]} %d = sub(%x, %m) %q = mul(%d, %d) %v = reduce_sum(%q) {axes = [0, 2]}
      %r = sqrt(%v) %rr = broadcast(%r) {shape = [4, 3, 5], axes = [1]} %n = div(%d, %rr) %gg = broadcast(%g) {shape = [4, 3, 5], axes = [1]} %y = mul(%n, %gg)
      %bb = broadcast(%b) {shape = [4, 3, 5], axes = [1]} %z = add(%y, %bb) %o = tanh(%z) return y = %o`)).toEqual(["g norm 1→1×3 +b T5 block"]);
  });

  it("an offset of the inputs alone is no layer, and says so", () => {
    expect(tableOf(net((m) => m.dense(m.add(m.input("x", [4]), m.param("p", [4])), 3, { name: "d" })))).toEqual(["d.weight dense 4→3 +d.bias T1", expect.stringMatching(/^p: no layer pattern covers its use in /)]);
  });

  it("a shift behind a reshape is kept", () => {
    expect(table(`param %g: f32[6] = file param %b: f32[6] = file input %x: f32[2, 6] examples 0
      %c = broadcast(%g) {shape = [2, 6], axes = [1]} %y = mul(%x, %c) %r = reshape(%y) {shape = [2, 2, 3]}
      %v = reshape(%b) {shape = [2, 3]} %d = broadcast(%v) {shape = [2, 2, 3], axes = [1, 2]} %z = add(%r, %d) %o = tanh(%z) return y = %o`)).toEqual(["g norm 1→1×6 +b T1 block"]);
  });
});

describe("what has a number for every example", () => {
  it("is no layer, and says so", () => {
    expect(table(`param %w: f32[2, 4, 3] = file ${X} %y = contract(%x, %w) {spec = "ni,nio->no"} return y = %y`)).toEqual([expect.stringMatching(/^w: in .* the examples are features of the weight \(--batch-axis NAME=-1/)]);
    expect(table(`param %g: f32[2, 4] = file ${X} %y = mul(%x, %g) return y = %y`)).toEqual([expect.stringMatching(/^g: in .* it has a number for every example$/)]);
  });
  it("nor is what a product sums over alone", () => {
    for (const spec of ["nti,oi->no", "nsi,toi->nso"])
      expect(table(`param %w: f32[${spec.includes("toi") ? "2, 6, 4" : "6, 4"}] = file input %x: f32[2, 3, 4] examples 0 %y = contract(%x, %w) {spec = "${spec}"} return y = %y`))
        .toEqual([expect.stringMatching(/^w: .* sums axes of one operand alone$/)]);
  });

  it("or nothing of any example", () => {
    expect(table(`param %w: f32[4, 3] = file param %g: f32[4] = file ${X} %u = tanh(%g) %y = contract(%u, %w) {spec = "i,io->o"} %c = broadcast(%y) {shape = [2, 3], axes = [1]}
      %k = reduce_sum(%x) {axes = [1]} %d = broadcast(%k) {shape = [2, 3], axes = [0]} %z = mul(%c, %d) return y = %z`))
      .toEqual([expect.stringMatching(/^w: the input of .* does not depend on examples$/), expect.stringMatching(/^g: no layer pattern covers its use in tanh$/)]);
  });
});

describe("options", () => {
  const NET = net((m) => m.dense(m.tanh(m.conv2d(m.input("x", [2, 4, 4]), 6, 3, { name: "c" })), 3, { name: "d" }));
  it("--max-factor makes the sides above it diagonal", () => {
    expect(tableOf(NET, { maxFactor: 19 })).toEqual(["c.weight conv 18→6 +c.bias T4", "d.weight dense 2→3 +d.bias T12"]);
    expect(tableOf(NET, { maxFactor: 18 })).toEqual(["c.weight conv 18→6 +c.bias T4 diag(A)", "d.weight dense 2→3 +d.bias T12"]);
    expect(tableOf(NET, { maxFactor: 2 })).toEqual(["c.weight conv 18→6 +c.bias T4 diag(AG)", "d.weight dense 2→3 +d.bias T12 diag(AG)"]);
  });

  it("--layer skip leaves a weight out, and its bias with it; dense overrules --register", () => {
    expect(tableOf(NET, { layerOverride: { "c.weight": "skip" } })).toEqual(["d.weight dense 2→3 +d.bias T12", "c.weight: skipped by --layer", expect.stringMatching(/^c.bias: /)]);
    expect(tableOf(NET, { register: ["dense"] })).toEqual(["d.weight dense 2→3 +d.bias T12", "c.weight: kind \"conv\" is not among --register", expect.stringMatching(/^c.bias: /)]);
    expect(tableOf(NET, { register: ["dense"], layerOverride: { "c.weight": "dense" } })).toEqual(["c.weight dense 18→6 +c.bias T4", "d.weight dense 2→3 +d.bias T12"]);
  });

  it("names that are none are refused", () => {
    for (const more of [{ layerOverride: { no: "skip" } }, { sharing: { no: "reduce" } }, { layerOverride: { "c.bias": "dense" } }] as const)
      expect(() => tableOf(NET, more)).toThrow(CompileError);
  });
});
