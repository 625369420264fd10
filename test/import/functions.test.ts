/** Model-local functions and branches are nodes like any others once a file is read. */
import onnxProto from "onnx-proto";
import { describe, expect, it } from "vitest";
import { CompileError } from "../../ir/error.js";
import { type ImportOptions, importModel } from "../../src/import/import.js";
import { loadModel } from "../../src/import/onnx.js";
import { concat, delimited } from "../../src/import/wire.js";
import { expectGradient } from "../support/gradient.js";
import { type AttrSpec, buildModel, floats, INT64, ints, type ModelSpec, type NodeSpec, node } from "../support/onnx-model.js";
import { bindingsOf, expectAgrees, random, runImported, seeded } from "../support/onnx-run.js";

const { onnx } = onnxProto;
type NodeProto = InstanceType<typeof onnx.NodeProto>;

/** A node of a body: attributes that refer to the function's, and sub-graphs. */
interface BodyNode extends NodeSpec {
  readonly refs?: Readonly<Record<string, string>>;
  readonly graphs?: Readonly<Record<string, { readonly nodes: readonly BodyNode[]; readonly outputs: readonly string[] }>>;
  readonly overload?: string;
}

interface FunctionSpec {
  readonly name: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly nodes: readonly BodyNode[];
  readonly attrs?: readonly string[];
  readonly defaults?: Readonly<Record<string, AttrSpec>>;
  readonly opset?: number;
  readonly overload?: string;
  readonly domain?: string;
}

const text = (field: number, s: string): Uint8Array => delimited(field, new TextEncoder().encode(s));
const call = (op: string, inputs: readonly string[], outputs: readonly string[], rest: Partial<BodyNode> = {}): BodyNode => ({ op, inputs, outputs, domain: "local", ...rest });

/** The bytes of one NodeProto; the overload is a field that the compiled protobuf does not know. */
function nodeBytes(n: BodyNode): Uint8Array {
  const model = onnx.ModelProto.decode(buildModel({ inputs: {}, outputs: [], nodes: [n] }));
  const proto = model.graph?.node?.[0] as NodeProto;
  for (const [name, refAttrName] of Object.entries(n.refs ?? {})) proto.attribute.push({ name, refAttrName, type: 1 });
  for (const [name, g] of Object.entries(n.graphs ?? {}))
    proto.attribute.push({ name, type: 5, g: { name, node: g.nodes.map((inner) => onnx.NodeProto.decode(nodeBytes(inner))), output: g.outputs.map((o) => ({ name: o, type: { tensorType: { elemType: 1 } } })) } });
  return concat([new Uint8Array(onnx.NodeProto.encode(proto).finish()), ...(n.overload ? [text(8, n.overload)] : [])]);
}

function functionBytes(f: FunctionSpec): Uint8Array {
  const known = onnx.FunctionProto.encode({
    name: f.name, domain: f.domain ?? "local", input: [...f.inputs], output: [...f.outputs], attribute: [...(f.attrs ?? [])],
    opsetImport: [{ domain: "", version: f.opset ?? 17 }, { domain: "local", version: 1 }],
  }).finish();
  const defaults = Object.entries(f.defaults ?? {}).map(([name, a]) => {
    const attribute = onnx.ModelProto.decode(buildModel({ inputs: {}, outputs: [], nodes: [node("X", [], [], { [name]: a })] })).graph?.node?.[0]?.attribute?.[0];
    return delimited(11, new Uint8Array(onnx.AttributeProto.encode(attribute ?? {}).finish()));
  });
  return concat([new Uint8Array(known), ...f.nodes.map((n) => delimited(7, nodeBytes(n))), ...defaults, ...(f.overload ? [text(13, f.overload)] : [])]);
}

/** A model with functions: repeated fields may be appended. */
function modelWith(spec: Omit<ModelSpec, "nodes"> & { readonly nodes: readonly BodyNode[] }, functions: readonly FunctionSpec[]): Uint8Array {
  const model = onnx.ModelProto.decode(buildModel({ ...spec, nodes: [] }));
  const head = new Uint8Array(onnx.ModelProto.encode({ ...model, graph: null }).finish());
  const graph = concat([new Uint8Array(onnx.GraphProto.encode(model.graph ?? {}).finish()), ...spec.nodes.map((n) => delimited(1, nodeBytes(n)))]);
  const local = onnx.OperatorSetIdProto.encode({ domain: "local", version: 1 }).finish();
  return concat([head, delimited(7, graph), delimited(8, new Uint8Array(local)), ...functions.map((f) => delimited(25, functionBytes(f)))]);
}

const errorOf = (f: () => unknown): CompileError | undefined => {
  try {
    f();
    return undefined;
  } catch (e) {
    if (e instanceof CompileError) return e;
    throw e;
  }
};
const importing = (model: Uint8Array, options: Partial<ImportOptions> = {}) => importModel(loadModel(model), { mode: "eval", ...options });
/** Every output of a model on seeded inputs. */
const outputs = (model: Uint8Array): Record<string, number[]> => {
  const made = importing(model);
  return Object.fromEntries(Object.entries(runImported(made, seeded(made.graph, 3))).map(([name, v]) => [name, [...v.data]]));
};
const io = { inputs: { x: [2, 3] }, outputs: ["y"] } as const;
const leaky: FunctionSpec = {
  name: "leaky", inputs: ["x"], outputs: ["y"], defaults: { slope: { float: 0.25 } },
  nodes: [{ ...node("LeakyRelu", ["x"], ["t"]), refs: { alpha: "slope" } }, node("Neg", ["t"], ["y"])],
};

describe("a call of a function is the nodes of its body", () => {
  it("with attributes, their defaults, nested calls and names of its own, as onnxruntime has it", async () => {
    const twice: FunctionSpec = {
      name: "twice", inputs: ["x", "b"], outputs: ["y", "t"], attrs: ["inner"],
      nodes: [call("leaky", ["x"], ["t"], { refs: { slope: "inner" } }), call("leaky", ["t"], ["u"]), node("Add", ["u", "b"], ["y"])],
    };
    // the main graph uses the functions' own names for other things
    const model = modelWith({
      ...io, outputs: ["y", "u"], initializers: { t: floats([3], [1, 2, 3]) },
      nodes: [call("twice", ["x", "t"], ["h", "b"], { attrs: { inner: { float: 0.5 } } }), call("twice", ["h", "b"], ["y", "unread"], { attrs: { inner: { float: 2 } } }), node("Relu", ["b"], ["u"])],
    }, [twice, leaky]);
    const made = await expectAgrees(model, 5, 2);
    expectGradient(made.graph, bindingsOf(made, seeded(made.graph, 5, 2)), 5);
    expect([...made.weights.keys()]).toEqual(["t"]);
  });

  it("an optional input left out is left out inside, and an input may be passed on as an output", () => {
    const clipped: FunctionSpec = { name: "clipped", inputs: ["x", "low", "high"], outputs: ["y", "x"], nodes: [node("Clip", ["x", "low", "high"], ["y"])] };
    for (const [inputs, low, high] of [[["x", "zero"], 0, 9], [["x", "", "zero"], -9, 0], [["x"], -9, 9]] as const) {
      const made = outputs(modelWith({ ...io, outputs: ["y", "z"], initializers: { zero: { dims: [], floats: [0] } }, nodes: [call("clipped", inputs, ["y", "z"])] }, [clipped]));
      expect(made.y).toEqual(made.z?.map((v) => Math.min(high, Math.max(low, v))));
      expect(made.z?.some((v) => v < 0) && made.z.some((v) => v > 0)).toBe(true);
    }
  });

  it("even if it is called like an op of the standard", () => {
    const model = modelWith({ ...io, nodes: [node("Relu", ["x"], ["y"])] }, [{ name: "Relu", domain: "", inputs: ["a"], outputs: ["b"], nodes: [node("Neg", ["a"], ["b"])] }]);
    expect(outputs(model).y).toEqual(Array.from(seeded(importing(model).graph, 3).x?.data as Float32Array, (v) => -v));
  });

  it("an attribute that neither the call nor a default gives is left out", () => {
    const bare: FunctionSpec = { ...leaky, attrs: ["slope"], defaults: {} };
    const [x, y] = [outputs(modelWith({ ...io, nodes: [node("Neg", ["x"], ["y"])] }, [])), outputs(modelWith({ ...io, nodes: [call("leaky", ["x"], ["y"])] }, [bare]))].map((o) => o.y as number[]) as [number[], number[]];
    y.forEach((v, k) => expect(v).toBeCloseTo((x[k] as number) * ((x[k] as number) > 0 ? 0.01 : 1), 6)); // LeakyRelu's own slope
  });

  it("and no name inside is one of the main graph's, or of another call's", () => {
    const { nodes } = loadModel(modelWith({ ...io, nodes: [node("Abs", ["x"], ["leaky/t"]), call("leaky", ["leaky/t"], ["a"]), call("leaky", ["a"], ["y"])] }, [leaky])).graph;
    expect(nodes.flatMap((n) => n.outputs)).toEqual(["leaky/t", "leaky/t#2", "a", "leaky#2/t", "y"]);
    expect(nodes.map((n) => n.name)).toEqual(["", "leaky/LeakyRelu_t", "leaky/Neg_y", "leaky#2/LeakyRelu_t", "leaky#2/Neg_y"]);
  });

  it("of two functions of one name the one with the call's overload", () => {
    const of = (overload: string, op: string): FunctionSpec => ({ name: "f", overload, inputs: ["x"], outputs: ["y"], nodes: [node(op, ["x"], ["y"])] });
    const model = modelWith({ ...io, outputs: ["a", "b", "c"], nodes: [call("f", ["x"], ["a"], { overload: "n" }), call("f", ["x"], ["b"]), call("f", ["x"], ["c"], { overload: "e" })] },
      [of("e", "Exp"), of("", "Abs"), of("n", "Neg")]);
    const { a, b, c } = outputs(model) as { a: number[]; b: number[]; c: number[] };
    expect(b).toEqual(a.map(Math.abs));
    c.forEach((v, k) => expect(v).toBeCloseTo(Math.exp(-(a[k] as number)), 12));
  });

  it("in the opset that the function names", () => {
    // before opset 13 a softmax from axis 0 normalises all elements jointly
    const soft = (opset: number): number[] =>
      outputs(modelWith({ ...io, nodes: [call("soft", ["x"], ["y"])] }, [{ name: "soft", opset, inputs: ["x"], outputs: ["y"], nodes: [node("Softmax", ["x"], ["y"], { axis: 0 })] }])).y as number[];
    expect(soft(11).reduce((a, b) => a + b)).toBeCloseTo(1, 12);
    expect(soft(17).reduce((a, b) => a + b)).toBeCloseTo(3, 12);
  });

  it("and messages name the function", () => {
    const model = modelWith({ ...io, nodes: [call("outer", ["x"], ["y"])] }, [
      { name: "outer", inputs: ["x"], outputs: ["y"], nodes: [call("f", ["x"], ["y"], { name: "f_1" })] },
      { name: "f", inputs: ["x"], outputs: ["y"], nodes: [{ ...node("NoSuchOp", ["x"], ["y"]), name: "deep" }] },
    ]);
    expect(errorOf(() => importing(model))).toMatchObject({ code: "unsupported-op", where: 'node "outer/f_1/deep" (opset 17)' });
  });

  it("but a weight stored in a body is none: several calls may share it, and nothing could write it back", () => {
    const dense: FunctionSpec = { name: "dense", inputs: ["x"], outputs: ["y"], nodes: [node("Constant", [], ["w"], { value: { tensor: floats([3, 3], [...random(9, 1)]) } }), node("MatMul", ["x", "w"], ["y"])] };
    const made = importing(modelWith({ ...io, nodes: [call("dense", ["x"], ["y"])] }, [dense]));
    expect(made.graph.params.filter((p) => p.trainable)).toEqual([]);
    expect(made.notes.join()).toMatch(/dense\/Constant_w.*stays as it is/);
  });
});

describe("a function that breaks the rules is refused in bounded time", () => {
  const code = (nodes: readonly BodyNode[], functions: readonly FunctionSpec[]): string => {
    const start = performance.now();
    const e = errorOf(() => loadModel(modelWith({ ...io, nodes }, functions)));
    expect(performance.now() - start).toBeLessThan(3000);
    return e ? `${e.code}: ${e.message}` : "none";
  };
  const f = (name: string, nodes: readonly BodyNode[]): FunctionSpec => ({ name, inputs: ["x"], outputs: ["y"], nodes });
  const pass = (name: string, to: string): FunctionSpec => f(name, [call(to, ["x"], ["y"])]);

  it("recursion", () => expect(code([call("a", ["x"], ["y"])], [pass("a", "b"), pass("b", "a")])).toMatch(/bad-model: function "a" calls itself/));
  it("growth beyond all bounds", () => {
    const doubling = Array.from({ length: 40 }, (_, k) => f(`f${k}`, k === 39 ? [node("Neg", ["x"], ["y"])] : [call(`f${k + 1}`, ["x"], ["t"]), call(`f${k + 1}`, ["t"], ["y"])]));
    expect(code([call("f0", ["x"], ["y"])], doubling)).toMatch(/too-large: .* more than 200000 nodes/);
  });
  it("a chain of thousands, in either order", () => {
    const chain = Array.from({ length: 3000 }, (_, k) => (k === 2999 ? f(`f${k}`, [node("Neg", ["x"], ["y"])]) : pass(`f${k}`, `f${k + 1}`)));
    expect(code([call("f0", ["x"], ["y"])], chain)).toMatch(/bad-model: .*64 deep/);
    // the last first, so that no descent is deep
    expect(code([...chain.keys()].reverse().map((k) => call(`f${k}`, ["x"], [k === 0 ? "y" : `v${k}`])), chain)).toMatch(/bad-model: .*64 deep/);
  });
  it("two of one name", () => expect(code([call("a", ["x"], ["y"])], [f("a", []), f("a", [])])).toMatch(/bad-model: two functions/));
  it("more inputs than it has", () => expect(code([call("a", ["x", "x"], ["y"])], [f("a", [node("Neg", ["x"], ["y"])])])).toMatch(/bad-model: 2 inputs/));
  it("an output that it does not define", () => expect(code([call("a", ["x"], ["y"])], [f("a", [node("Neg", ["x"], ["z"])])])).toMatch(/bad-model: the function never defines its output "y"/));
  it("a value of the main graph", () => expect(code([node("Abs", ["x"], ["outside"]), call("a", ["x"], ["y"])], [f("a", [node("Neg", ["outside"], ["y"])])])).toMatch(/bad-model: "a\/outside" is used but never defined/));
  it("an opset of long ago", () => expect(code([call("a", ["x"], ["y"])], [{ ...f("a", [node("Neg", ["x"], ["y"])]), opset: 0 }])).toMatch(/unsupported-op: opset 0/));
  it("a reference to an attribute outside of a function", () => expect(code([{ ...node("Elu", ["x"], ["y"]), refs: { alpha: "a" } }], [])).toMatch(/bad-model: an attribute refers/));

  it("any damage to its bytes loads or is refused, and never fails otherwise", () => {
    const inner = node("Abs", ["x"], ["r"]);
    const choice: BodyNode = { ...node("If", ["is"], ["z"]), graphs: { then_branch: { nodes: [inner], outputs: ["r"] }, else_branch: { nodes: [inner], outputs: ["r"] } } };
    const whole = modelWith({ ...io, outputs: ["y", "z"], initializers: { is: { dims: [], type: 9, int32s: [1] } }, nodes: [call("leaky", ["x"], ["y"], { overload: "o" }), choice] }, [{ ...leaky, overload: "o" }]);
    expect(errorOf(() => importing(whole))).toBeUndefined();
    for (let at = 0; at < whole.length; at++)
      for (const bit of [at % 8, (at + 3) % 8]) {
        const bytes = whole.slice();
        bytes[at] = (bytes[at] as number) ^ (1 << bit);
        errorOf(() => importing(bytes)); // throws on anything but a CompileError
      }
  });
});

describe("an If whose condition is known at import is the branch that it takes", () => {
  const branch = (...nodes: BodyNode[]) => ({ nodes, outputs: [nodes.at(-1)?.outputs[0] ?? ""] });
  const choose = (inputs: readonly string[], yes: BodyNode, no: BodyNode): BodyNode => ({ ...node("If", inputs, ["y"]), name: "choice", graphs: { then_branch: branch(yes), else_branch: branch(no) } });
  /** Whether the last axis of x is 1: what exporters ask before they squeeze. */
  const asks: BodyNode[] = [node("Shape", ["x"], ["s"]), node("Gather", ["s", "last"], ["n"]), node("Equal", ["n", "one"], ["is"])];
  const stored = { last: { dims: [], type: INT64, int64s: [-1] }, one: { dims: [], type: INT64, int64s: [1] }, axis: ints(-1) };

  for (const last of [1, 3])
    it(`of shapes: the other branch would not even fit (last axis ${last})`, () => {
      const nodes = [...asks, choose(["is"], node("Squeeze", ["x", "axis"], ["r"]), node("Neg", ["x"], ["r"]))];
      const made = importing(modelWith({ inputs: { x: [2, last] }, outputs: ["y"], initializers: stored, nodes }, []));
      const inputs = seeded(made.graph, 3);
      const x = inputs.x?.data as Float32Array;
      expect(runImported(made, inputs).y).toEqual({ dtype: "f32", shape: last === 1 ? [2] : [2, 3], data: Float64Array.from(x, (v) => (last === 1 ? v : -v)) });
    });

  it("inside a function, with the function's attributes, values and conditions, one inside the other", async () => {
    const inner = choose(["is"], node("Identity", ["x"], ["r"]), { ...node("Elu", ["double"], ["r"]), refs: { alpha: "a" } });
    const f: FunctionSpec = {
      name: "f", inputs: ["x", "last", "one"], outputs: ["y"], attrs: ["a"],
      nodes: [...asks, node("Not", ["is"], ["isnot"]), node("Add", ["x", "x"], ["double"]),
        { ...choose(["isnot"], inner, node("Abs", ["x"], ["z"])), graphs: { then_branch: { nodes: [{ ...inner, outputs: ["w"] }], outputs: ["w"] }, else_branch: branch(node("Abs", ["x"], ["z"])) } }],
    };
    const model = modelWith({ ...io, initializers: stored, nodes: [call("f", ["x", "last", "one"], ["y"], { attrs: { a: { float: 0.5 } } })] }, [f]);
    const made = await expectAgrees(model, 3, 2);
    expectGradient(made.graph, bindingsOf(made, seeded(made.graph, 3, 2)), 3);
  });

  it("and what only the other branch would compute is not asked for, a condition either", () => {
    const inner: BodyNode = { ...choose(["deep"], node("Neg", ["x"], ["w"]), node("Abs", ["x"], ["w"])), outputs: ["v"] };
    const other = { nodes: [node("ReduceSum", ["x"], ["total"], { keepdims: 0 }), node("Cast", ["total"], ["deep"], { to: 9 }), inner], outputs: ["v"] };
    const nodes: BodyNode[] = [...asks, { ...node("If", ["is"], ["y"]), graphs: { then_branch: other, else_branch: branch(node("Abs", ["x"], ["r"])) } }];
    expect(outputs(modelWith({ ...io, initializers: stored, nodes }, [])).y?.every((v) => v > 0)).toBe(true);
  });

  it("and of values it is refused by name", () => {
    const nodes = [node("ReduceSum", ["x"], ["total"], { keepdims: 0 }), node("Cast", ["total"], ["is"], { to: 9 }), choose(["is"], node("Neg", ["x"], ["r"]), node("Abs", ["x"], ["r"]))];
    expect(errorOf(() => importing(modelWith({ ...io, nodes }, [])))).toMatchObject({ code: "unsupported-op", where: 'node "choice"', message: expect.stringContaining("condition") });
  });
});
