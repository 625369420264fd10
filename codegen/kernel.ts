/**
 * What codegen hands from one stage to the next: iteration axes, index maps over them, scalar expressions, and the
 * three fused kernel forms (`map`, `reduce`, `contract`) before and after they are text.
 *
 * An access says which element of a buffer belongs to a point of the iteration space. All addresses count elements.
 */
import type { OpName } from "../ir/ops/names.js";
import type { KernelFeature } from "../runtime/artifact.js";

/** One iteration axis, 0 ≤ value < size. Compared by identity. */
export interface Axis {
  readonly name: string;
  readonly size: number;
}

/** at + Σ by[axis] · axis. Coefficients are non-zero integers (they may be negative). */
export interface Affine {
  readonly at: number;
  readonly by: ReadonlyMap<Axis, number>;
}

/** low ≤ expr < high */
export interface Bound {
  readonly expr: Affine;
  readonly low: number;
  readonly high: number;
}

/** A coordinate that exists only where `divisor` divides `expr`: contributes stride · (expr / divisor) to the address. */
export interface Quotient {
  readonly expr: Affine;
  readonly divisor: number;
  readonly stride: number;
}

/** Reads `buffer[address + Σ quotients]` where every bound holds and every quotient is exact, `fill` elsewhere. */
export interface Access {
  readonly buffer: Buffer;
  readonly address: Affine;
  readonly bounds: readonly Bound[];
  readonly quotients: readonly Quotient[];
  readonly fill: number;
}

/** A storage buffer as a kernel sees it. Compared by identity inside one kernel; `elements` is the stored extent. */
export interface Buffer {
  readonly name: string;
  readonly dtype: "f32" | "i32" | "u32";
  /** Elements that exist. Memory is always rounded up to a multiple of 4 elements (16 bytes). */
  readonly elements: number;
}

/** Scalar operations of expressions: the elementwise ops of the IR. */
export type ScalarOp = Extract<
  OpName,
  | "neg" | "abs" | "sign" | "exp" | "log" | "sqrt" | "reciprocal" | "tanh" | "sigmoid" | "relu" | "softplus" | "erf" | "sin" | "cos"
  | "atan" | "expm1" | "log1p" | "bits" | "from_bits" | "floor" | "ceil" | "round" | "not" | "detach" | "add" | "sub" | "mul" | "div" | "max" | "min" | "pow"
  | "lt" | "le" | "gt" | "ge" | "eq" | "ne" | "and" | "or" | "select"
>;
export type ScalarType = "f32" | "i32" | "u32" | "bool";

/** A scalar expression at one point of the iteration space. A DAG: shared sub-expressions are one object, printed once. */
export type Expr =
  | { readonly kind: "const"; readonly dtype: ScalarType; readonly value: number }
  | { readonly kind: "load"; readonly dtype: ScalarType; readonly access: Access }
  /** A run-time knob in the uniform block `run`, by name (f32 or u32). */
  | { readonly kind: "run"; readonly dtype: "f32" | "u32"; readonly name: string }
  /** The result of the kernel's reduction or contraction (of a pooled one: the maximum, or as i32 its position); `fold`: of one of several. */
  | { readonly kind: "acc"; readonly dtype: ScalarType; readonly fold?: number }
  /** The value of an affine index expression (from `iota`). */
  | { readonly kind: "index"; readonly dtype: "i32"; readonly index: Affine }
  /** Counter-based random number in (0, 1): hash of the two key words, the stream and the element's index. */
  | { readonly kind: "uniform"; readonly dtype: "f32"; readonly key: readonly [Expr, Expr]; readonly stream: number; readonly index: Affine }
  | { readonly kind: "op"; readonly dtype: ScalarType; readonly op: ScalarOp; readonly args: readonly Expr[] }
  | { readonly kind: "cast"; readonly dtype: ScalarType; readonly arg: Expr }
  /** `access` with `row · stride` added to its address; zero where the row is not in [0, rows). */
  | { readonly kind: "gather"; readonly dtype: ScalarType; readonly access: Access; readonly row: Expr; readonly rows: number; readonly stride: number }
  /** `inner` where every bound holds and every quotient is exact, else `fill` (a padded view of a fused expression). */
  | { readonly kind: "masked"; readonly dtype: ScalarType; readonly bounds: readonly Bound[]; readonly quotients: readonly Quotient[]; readonly inner: Expr; readonly fill: number };

export interface Store {
  readonly buffer: Buffer;
  readonly address: Affine;
  readonly value: Expr;
}

/** out[axes] = value: elementwise work and movement. */
export interface MapSpec {
  readonly kind: "map";
  readonly label: string;
  readonly axes: readonly Axis[];
  readonly stores: readonly Store[];
}

/**
 * out[axes] = epilogue(combine over `reduction` of value). `argmax` gives the row-major index of the first maximum (i32). `when`: only
 * elements where it holds count (of a sum), and only those are read.
 */
export interface ReduceSpec {
  readonly kind: "reduce";
  readonly label: string;
  readonly combine: "sum" | "max" | "argmax";
  readonly axes: readonly Axis[];
  readonly reduction: readonly Axis[];
  readonly value: Expr;
  readonly when?: Expr;
  readonly stores: readonly Store[];
}

/**
 * out[output] = epilogue(Σ_reduction left · right). Every axis of left and right is in `output` or `reduction`.
 * `symmetric`: pairs of output axes (i_k, j_k), such that exchanging all pairs exchanges left and right; then only one
 * triangle is computed and each store also writes its mirror image (the store address with every i_k ↔ j_k).
 */
export interface ContractSpec {
  readonly kind: "contract";
  readonly label: string;
  readonly output: readonly Axis[];
  readonly reduction: readonly Axis[];
  readonly left: Access | "one";
  readonly right: Access | "one";
  readonly stores: readonly Store[];
  readonly symmetric?: readonly (readonly [Axis, Axis])[];
  readonly sums?: readonly SideSum[];
  readonly pool?: Pool;
}

/**
 * A second result of a contraction's kernel: Σ_reduction of one access (an operand's: what a column of ones on the other side would give),
 * stored where the output axes that neither it nor its stores move along are 0. "none": nothing is summed, the stores only share the kernel.
 */
export interface SideSum {
  readonly of: Access | "none";
  readonly stores: readonly Store[];
}

/**
 * The maximum over some output axes, which one invocation holds whole, of `value`, an expression of the contraction's sum (`acc`). The stores
 * then see the maximum as `acc` of f32, and the row-major number of its first position within `axes` as `acc` of i32.
 */
export interface Pool {
  readonly axes: readonly Axis[];
  readonly value: Expr;
}

/**
 * Several reductions of the same rows, and the work between and after them. Reduction k is `acc` with `fold` k in later ones' values and in
 * the stores. `rowStores` have one element per row (they do not move along `reduction`), `stores` one per element.
 */
export interface RowsSpec {
  readonly kind: "rows";
  readonly label: string;
  readonly axes: readonly Axis[];
  readonly reduction: readonly Axis[];
  readonly folds: readonly { readonly combine: ReduceSpec["combine"]; readonly value: Expr }[];
  readonly rowStores: readonly Store[];
  readonly stores: readonly Store[];
}

export type KernelSpec = MapSpec | ReduceSpec | ContractSpec | RowsSpec;

/** Where a compiled kernel binds what: index = position in `bindings`. */
export type Binding =
  | { readonly kind: "buffer"; readonly buffer: Buffer; readonly access: "read" | "read_write" }
  /** The uniform block with the run-time knobs; `fields` are the names it reads. */
  | { readonly kind: "run" };

/** WGSL and how to dispatch it. */
export interface Kernel {
  /** Short and readable, e.g. `contract_128x784x256`; made unique by the emitter. */
  readonly name: string;
  readonly wgsl: string;
  /** Other texts for devices with a feature: same bindings, same workgroups, same results up to the order of sums. */
  readonly variants?: readonly { readonly feature: KernelFeature; readonly wgsl: string }[];
  readonly bindings: readonly Binding[];
  readonly workgroups: readonly [number, number, number];
}

/** Device limits that schedules depend on. `codegen/limits.ts` holds the portable baseline. */
export interface Limits {
  readonly invocations: number;
  readonly storageBuffers: number;
  readonly workgroupBytes: number;
  readonly workgroupsPerDimension: number;
  readonly bindingBytes: number;
  /** What schedules are shaped for; default software. */
  readonly target?: Target;
  /** Schedules that measurement chose for contractions, by the key of their canonical form; go before the rules. */
  readonly schedules?: ReadonlyMap<string, ChosenSchedule>;
}

/** software: registers only, as adapters that compute on the CPU like it; gpu: tiles in workgroup memory, few accumulators. */
export type Target = "software" | "gpu";

/** rows: register tiles and splits by axis, output axes first. tiled: a workgroup's tile, a thread's part of it, splits of the reduction. */
export type ChosenSchedule =
  | { readonly family: "rows"; readonly tile: readonly number[]; readonly split: readonly number[] }
  | { readonly family: "tiled"; readonly rows: number; readonly columns: number; readonly depth: number; readonly perRow: number; readonly perColumn: number; readonly parts: number };

/** A lowered kernel spec: one or more dispatches in order, plus scratch buffers they use between them. */
export interface Lowered {
  readonly kernels: readonly Kernel[];
  readonly scratch: readonly Buffer[];
}
