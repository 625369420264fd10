/**
 * What a model file writes: `m.dense(h, 256)` and the like. Shapes are those of one example; the graph has the examples in front.
 *
 * Layouts and formulas are PyTorch's and ONNX's: images are [channels, height, width], weights [out, in, taps…].
 */
import { size, spellShape } from "../../ir/type.js";
import { LOSS_ALIASES, LOSSES, type LossSpec } from "../train/loss.js";
import type { ModelDefinition, StepAttrs } from "./model.js";
import type { BatchNormOptions, ConvOptions, ConvTransposeOptions, DenseOptions, Loss, Named, NormOptions, OutputOptions, ParamOptions, PoolOptions, WindowOptions } from "./options.js";
import { type Init, Recorder, type Tensor } from "./record.js";
import { biasOf, conv, pool, weightOf } from "./windows.js";

export class ModelBuilder {
  readonly #r: Recorder;

  /** @internal */
  constructor(model: string, seed: number) {
    this.#r = new Recorder(model, seed);
  }

  // ——— what goes in and out

  /** What a batch brings: [examples, ...shape]. */
  input(name: string, shape: readonly number[], options: { readonly dtype?: "f32" | "i32" } = {}): Tensor {
    return this.#r.input(name, shape, options.dtype ?? "f32");
  }

  /** A parameter of its own. */
  param(name: string, shape: readonly number[], options: ParamOptions = {}): Tensor {
    return this.#r.param(name, shape, options.init ?? "glorot", options.trainable);
  }

  /**
   * Names a result. `loss` is taken on logits for "softmax-ce" (classes on its first axis) and "bernoulli-ce". Several outputs may have one:
   * the total is Σ weight · loss. Where no output names one, the first may end in softmax, logSoftmax or sigmoid, which imply it; it is
   * differentiated from the logits there.
   */
  output(name: string, x: Tensor, options: OutputOptions = {}): Tensor {
    const { weight } = options;
    if (weight !== undefined && !(weight >= 0 && Number.isFinite(weight))) throw this.#r.error(name, "bad-option", `a weight of ${weight}`, "weights are numbers ≥ 0");
    this.#r.output(name, x, options.loss === undefined ? undefined : this.#loss(name, options.loss), weight);
    return x;
  }

  #loss(name: string, loss: Loss): LossSpec {
    if (typeof loss === "string") {
      const known = LOSSES.find((kind) => kind === loss) ?? LOSS_ALIASES[loss];
      if (known) return known;
      throw this.#r.error(name, "bad-option", `no loss "${loss}"`, `one of ${LOSSES.join(", ")}`);
    }
    const bad = (message: string) => this.#r.error(name, "bad-option", message, "{ name, perExample(ops, z, target), fisher: { factor(ops, z) }, target: { dtype, shape } }");
    if (typeof loss?.name !== "string" || loss.name === "" || loss.name in LOSS_ALIASES || LOSSES.some((kind) => kind === loss.name)) throw bad("a loss of one's own needs a name of its own");
    if (typeof loss.perExample !== "function" || (loss.fisher && typeof loss.fisher.factor !== "function")) throw bad(`loss "${loss.name}" has no function perExample, or a fisher without one called factor`);
    if (loss.target) this.#r.shape(name, loss.target.shape);
    return { ...loss, kind: "custom" };
  }

  // ——— layers with weights

  /** y = x·Wᵀ + b over the last axis. weight [units, in], bias [units]. */
  dense(x: Tensor, units: number, options: DenseOptions = {}): Tensor {
    const layer = this.#r.layer("dense", options);
    this.#r.count(layer, "units", units);
    this.#r.floats(layer, x);
    const width = x.shape.at(-1);
    if (width === undefined || !x.perExample) throw this.#r.error(layer, "shape-mismatch", `takes [..., features] of each example, got ${spellShape(x.shape)}`);
    const weight = weightOf(this.#r, layer, [units, width], options.init);
    const bias = options.bias === false ? [] : [biasOf(this.#r, layer, units)];
    if (x.shape.length === 1) return this.#r.op(layer, "Gemm", [x, weight, ...bias], { transB: 1 });
    const y = this.#r.op(layer, "MatMul", [x, this.#r.op(layer, "Transpose", [weight], { perm: [1, 0] })]);
    return bias.length === 0 ? y : this.#r.op(layer, "Add", [y, ...bias]);
  }

  /** x [channels, length] → [filters, positions]. weight [filters, channels / groups, kernel]. */
  conv1d(x: Tensor, filters: number, kernel: number | readonly number[], options: ConvOptions = {}): Tensor {
    return conv(this.#r, "Conv", 1, x, filters, kernel, options);
  }
  /** x [channels, height, width] → [filters, rows, columns]. weight [filters, channels / groups, kh, kw]. */
  conv2d(x: Tensor, filters: number, kernel: number | readonly number[], options: ConvOptions = {}): Tensor {
    return conv(this.#r, "Conv", 2, x, filters, kernel, options);
  }
  /** x [channels, depth, height, width]. */
  conv3d(x: Tensor, filters: number, kernel: number | readonly number[], options: ConvOptions = {}): Tensor {
    return conv(this.#r, "Conv", 3, x, filters, kernel, options);
  }
  /** The transpose of a convolution: [channels, h, w] → [filters, (h − 1)·stride + kernel − pads, …]. weight [channels, filters / groups, kh, kw]. */
  convTranspose2d(x: Tensor, filters: number, kernel: number | readonly number[], options: ConvTransposeOptions = {}): Tensor {
    return conv(this.#r, "ConvTranspose", 2, x, filters, kernel, options);
  }
  /** The same over [channels, length]. */
  convTranspose1d(x: Tensor, filters: number, kernel: number | readonly number[], options: ConvTransposeOptions = {}): Tensor {
    return conv(this.#r, "ConvTranspose", 1, x, filters, kernel, options);
  }
  /** The same over [channels, depth, height, width]. */
  convTranspose3d(x: Tensor, filters: number, kernel: number | readonly number[], options: ConvTransposeOptions = {}): Tensor {
    return conv(this.#r, "ConvTranspose", 3, x, filters, kernel, options);
  }

  /** x whole numbers [...] below `count` → rows of a table [count, width]: [..., width]. */
  embedding(x: Tensor, count: number, width: number, options: Named & { readonly init?: Init } = {}): Tensor {
    const layer = this.#r.layer("embedding", options);
    this.#r.count(layer, "count", count);
    this.#r.count(layer, "width", width);
    if (x.dtype !== "i32") throw this.#r.error(layer, "shape-mismatch", "takes whole numbers", 'declare the input with { dtype: "i32" }');
    return this.#r.op(layer, "Gather", [weightOf(this.#r, layer, [count, width], options.init ?? "glorot"), x], { axis: 0 });
  }

  /** Rows of a table [count, width] of one's own by whole numbers x [...]: [..., width]. A table that is also used elsewhere is one layer with several sites. */
  gather(table: Tensor, x: Tensor): Tensor {
    const layer = this.#r.layer("gather", {});
    this.#r.floats(layer, table);
    if (x.dtype !== "i32") throw this.#r.error(layer, "shape-mismatch", "takes whole numbers", 'declare the input with { dtype: "i32" }');
    if (table.shape.length !== 2 || table.perExample) throw this.#r.error(layer, "shape-mismatch", `takes a table [count, width] that is the same for all examples, got ${spellShape(table.shape)}`, "m.param makes one");
    return this.#r.op(layer, "Gather", [table, x], { axis: 0 });
  }

  /**
   * (x − mean) / √(variance + ε) · weight + bias per channel (axis 0). Training uses the mean and variance of each batch and keeps running
   * ones (running · momentum + batch · (1 − momentum), from 0 and 1), which evaluation uses. `frozen`: the stored ones, always.
   */
  batchNorm(x: Tensor, options: BatchNormOptions = {}): Tensor {
    const layer = this.#r.layer("batchNorm", options);
    const channels = [this.#r.floats(layer, x).shape[0] ?? 0];
    const stored = (name: string, init: Init, trainable: boolean) => this.param(`${layer}.${name}`, channels, { init, trainable });
    const scale = [stored("weight", "ones", true), stored("bias", "zeros", true), stored("mean", "zeros", false), stored("variance", "ones", false)];
    return this.#r.op(layer, "BatchNormalization", [x, ...scale], {
      epsilon: options.epsilon ?? 1e-5, momentum: options.momentum ?? 0.9, training_mode: options.frozen === true ? 0 : 1,
    });
  }

  /** In training, every number is left out with probability `rate` and the others grow by 1 / (1 − rate); in evaluation, x. */
  dropout(x: Tensor, rate = 0.5, options: Named = {}): Tensor {
    const layer = this.#r.layer("dropout", options);
    if (!(rate >= 0 && rate < 1)) throw this.#r.error(layer, "bad-option", `a rate of ${rate} is not in [0, 1)`);
    return this.#r.op(layer, "Dropout", [this.#r.floats(layer, x), { number: rate, dtype: "f32" }, { number: 1, dtype: "bool" }]);
  }

  /** (x − mean) / √(variance + ε) · weight + bias over the last axis of each example. */
  layerNorm(x: Tensor, options: NormOptions = {}): Tensor {
    const layer = this.#r.layer("layerNorm", options);
    const width = [this.#r.floats(layer, x).shape.at(-1) ?? 0];
    const [weight, bias] = [this.param(`${layer}.weight`, width, { init: "ones" }), this.param(`${layer}.bias`, width, { init: "zeros" })];
    return this.#r.op(layer, "LayerNormalization", [x, weight, bias], { axis: -1, epsilon: options.epsilon ?? 1e-5 });
  }

  // ——— pooling, over all axes after the channels

  /** The largest of each window; stride = kernel unless given. */
  maxPool(x: Tensor, kernel: number | readonly number[], options: WindowOptions = {}): Tensor {
    return pool(this.#r, "MaxPool", "maxPool", x, kernel, options, {});
  }
  /** The mean of each window; stride = kernel unless given. */
  avgPool(x: Tensor, kernel: number | readonly number[], options: PoolOptions = {}): Tensor {
    return pool(this.#r, "AveragePool", "avgPool", x, kernel, options, { count_include_pad: options.countPad ? 1 : 0 });
  }
  /** [channels, ...] → [channels]: the mean over all positions. */
  globalAvgPool(x: Tensor): Tensor {
    return this.flatten(this.#unary("GlobalAveragePool", x));
  }
  globalMaxPool(x: Tensor): Tensor {
    return this.flatten(this.#unary("GlobalMaxPool", x));
  }

  // ——— activations

  relu = (x: Tensor): Tensor => this.#unary("Relu", x);
  tanh = (x: Tensor): Tensor => this.#unary("Tanh", x);
  sigmoid = (x: Tensor): Tensor => this.#unary("Sigmoid", x);
  softplus = (x: Tensor): Tensor => this.#unary("Softplus", x);
  softsign = (x: Tensor): Tensor => this.#unary("Softsign", x);
  mish = (x: Tensor): Tensor => this.#unary("Mish", x);
  selu = (x: Tensor): Tensor => this.#unary("Selu", x);
  elu = (x: Tensor, alpha = 1): Tensor => this.#unary("Elu", x, { alpha });
  celu = (x: Tensor, alpha = 1): Tensor => this.#unary("Celu", x, { alpha });
  leakyRelu = (x: Tensor, alpha = 0.01): Tensor => this.#unary("LeakyRelu", x, { alpha });
  /** x · sigmoid(x), also called SiLU. */
  swish = (x: Tensor): Tensor => this.#unary("Swish", x);
  hardSwish = (x: Tensor): Tensor => this.#unary("HardSwish", x);
  /** min(max(x / 6 + 1 / 2, 0), 1) */
  hardSigmoid = (x: Tensor): Tensor => this.#unary("HardSigmoid", x, { alpha: 1 / 6, beta: 0.5 });
  /** x · Φ(x); approximate: its form with tanh. */
  gelu = (x: Tensor, options: { readonly approximate?: boolean } = {}): Tensor => this.#unary("Gelu", x, { approximate: options.approximate ? "tanh" : "none" });
  softmax = (x: Tensor, axis = -1): Tensor => this.#along("Softmax", "softmax", x, axis);
  logSoftmax = (x: Tensor, axis = -1): Tensor => this.#along("LogSoftmax", "logSoftmax", x, axis);

  // ——— element by element; a parameter or number is repeated as NumPy would

  add = (a: Tensor, b: Tensor | number): Tensor => this.#pair("Add", "add", a, b);
  sub = (a: Tensor | number, b: Tensor | number): Tensor => this.#pair("Sub", "sub", a, b);
  mul = (a: Tensor, b: Tensor | number): Tensor => this.#pair("Mul", "mul", a, b);
  div = (a: Tensor | number, b: Tensor | number): Tensor => this.#pair("Div", "div", a, b);
  pow = (a: Tensor, b: Tensor | number): Tensor => this.#pair("Pow", "pow", a, b);
  maximum = (a: Tensor, b: Tensor | number): Tensor => this.#pair("Max", "maximum", a, b);
  minimum = (a: Tensor, b: Tensor | number): Tensor => this.#pair("Min", "minimum", a, b);
  neg = (x: Tensor): Tensor => this.#unary("Neg", x);
  abs = (x: Tensor): Tensor => this.#unary("Abs", x);
  exp = (x: Tensor): Tensor => this.#unary("Exp", x);
  log = (x: Tensor): Tensor => this.#unary("Log", x);
  sqrt = (x: Tensor): Tensor => this.#unary("Sqrt", x);
  erf = (x: Tensor): Tensor => this.#unary("Erf", x);
  sin = (x: Tensor): Tensor => this.#unary("Sin", x);
  cos = (x: Tensor): Tensor => this.#unary("Cos", x);

  /** NumPy's matmul per example: [..., n, i] · [..., i, o], or [i] · a parameter [i, o]. */
  matmul(a: Tensor, b: Tensor): Tensor {
    const layer = this.#r.layer("matmul", {});
    this.#r.floats(layer, a);
    this.#r.floats(layer, b);
    const row = a.shape.length === 1 && a.perExample && b.shape.length === 2 && !b.perExample;
    const fits = a.shape.at(-1) === b.shape.at(-2) && (row || (a.shape.length >= 2 && b.shape.length >= 2));
    if (!fits) throw this.#r.error(layer, "shape-mismatch", `${spellShape(a.shape)} and ${spellShape(b.shape)} cannot be multiplied`, "it takes [..., n, i] and [..., i, o]");
    return this.#r.op(layer, "MatMul", row ? [a, b] : this.#r.aligned(layer, [a, b], (x) => x.shape.slice(0, -2)));
  }

  // ——— reductions over axes of each example (all of them, unless named)

  sum = (x: Tensor, axes?: number | readonly number[], keepDims = false): Tensor => this.#reduce("ReduceSum", "sum", x, axes, keepDims);
  mean = (x: Tensor, axes?: number | readonly number[], keepDims = false): Tensor => this.#reduce("ReduceMean", "mean", x, axes, keepDims);
  max = (x: Tensor, axes?: number | readonly number[], keepDims = false): Tensor => this.#reduce("ReduceMax", "max", x, axes, keepDims);

  // ——— shapes

  /** Each example as one row. */
  flatten(x: Tensor): Tensor {
    const layer = this.#r.layer("flatten", {});
    this.#r.number(x, layer);
    return x.perExample ? this.#r.op(layer, "Flatten", [x], { axis: 1 }) : this.#r.op(layer, "Reshape", [x, { ints: [-1] }]);
  }

  /** The same elements in another shape; one −1 stands for what is left. */
  reshape(x: Tensor, shape: readonly number[]): Tensor {
    const layer = this.#r.layer("reshape", {});
    this.#r.number(x, layer);
    const open = shape.filter((n) => n === -1).length;
    const rest = size(shape.filter((n) => n !== -1));
    const fits = open === 0 ? rest === size(x.shape) : open === 1 && size(x.shape) % rest === 0;
    if (!shape.every((n) => n === -1 || (Number.isInteger(n) && n > 0)) || !fits)
      throw this.#r.error(layer, "shape-mismatch", `${spellShape(x.shape)} cannot become ${spellShape(shape)}`, "the examples are not part of the shape");
    return this.#r.op(layer, "Reshape", [x, { ints: x.perExample ? [0, ...shape] : shape }]);
  }

  /** Axis k of the result is axis order[k] of x; default: reversed. */
  transpose(x: Tensor, order: readonly number[] = x.shape.map((_, k) => k).reverse()): Tensor {
    const layer = this.#r.layer("transpose", {});
    const axes = order.map((axis) => this.#r.axis(layer, x, axis) - Number(x.perExample));
    if (axes.length !== x.shape.length || new Set(axes).size !== axes.length)
      throw this.#r.error(layer, "bad-attribute", `${spellShape(order)} is no order of the axes of ${spellShape(x.shape)}`, "the examples are not among the axes");
    return this.#r.op(layer, "Transpose", [x], { perm: x.perExample ? [0, ...axes.map((axis) => axis + 1)] : axes });
  }

  /** One after the other along an axis of each example. */
  concat(tensors: readonly Tensor[], axis = 0): Tensor {
    const layer = this.#r.layer("concat", {});
    const [first] = tensors;
    if (!first) throw this.#r.error(layer, "shape-mismatch", "nothing to join");
    const at = this.#r.axis(layer, first, axis);
    const k = at - Number(first.perExample);
    for (const x of tensors)
      if (x.perExample !== first.perExample || x.shape.length !== first.shape.length || x.shape.some((n, d) => d !== k && n !== first.shape[d]))
        throw this.#r.error(layer, "shape-mismatch", `${spellShape(first.shape)} and ${spellShape(x.shape)}${x.perExample === first.perExample ? "" : " of a parameter"} cannot be joined along axis ${axis}`);
    return this.#r.op(layer, "Concat", tensors, { axis: at });
  }

  // ——— shared by several

  /** @internal */
  finish(): ModelDefinition {
    return this.#r.finish();
  }

  #unary(op: string, x: Tensor, attrs: StepAttrs = {}): Tensor {
    const layer = this.#r.layer(`${op.charAt(0).toLowerCase()}${op.slice(1)}`, {});
    return this.#r.op(layer, op, [this.#r.floats(layer, x)], attrs);
  }

  #along(op: string, kind: string, x: Tensor, axis: number): Tensor {
    const layer = this.#r.layer(kind, {});
    return this.#r.op(layer, op, [this.#r.floats(layer, x)], { axis: this.#r.axis(layer, x, axis) });
  }

  #reduce(op: string, kind: string, x: Tensor, axes: number | readonly number[] | undefined, keepDims: boolean): Tensor {
    const layer = this.#r.layer(kind, {});
    const named = axes === undefined ? x.shape.map((_, k) => k) : typeof axes === "number" ? [axes] : axes;
    return named.length === 0 ? x : this.#r.op(layer, op, [this.#r.floats(layer, x), { ints: named.map((axis) => this.#r.axis(layer, x, axis)) }], { keepdims: keepDims ? 1 : 0 });
  }

  #pair(op: string, kind: string, a: Tensor | number, b: Tensor | number): Tensor {
    const layer = this.#r.layer(kind, {});
    const tensors = [a, b].filter((v) => typeof v !== "number");
    if (tensors.length === 0) throw this.#r.error(layer, "shape-mismatch", "two numbers", "do that in JavaScript");
    for (const v of tensors) this.#r.number(v, layer);
    const [x, y] = tensors;
    if (x && y && x.dtype !== y.dtype) throw this.#r.error(layer, "shape-mismatch", `${x.dtype} and ${y.dtype} do not mix`);
    return this.#r.op(layer, op, this.#r.aligned(layer, [a, b], (v) => v.shape));
  }
}
