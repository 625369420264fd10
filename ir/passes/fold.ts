/** Arithmetic at compile time. */
import type { Node, Value } from "../graph.js";
import { ndarray } from "../ndarray.js";
import { floatAttr } from "../op.js";
import { OPS } from "../ops/index.js";
import type { OpName } from "../ops/names.js";
import type { Pass } from "../pass.js";
import { type DType, sameType, size } from "../type.js";
import { type Rule, type Rules, rewrite, type Scope } from "./rewrite.js";
import { uniform, uniformOf } from "./uniform.js";

const RANGE: Partial<Record<DType, readonly [number, number]>> = { i32: [-(2 ** 31), 2 ** 31 - 1], u32: [0, 2 ** 32 - 1] };

/** An elementwise op whose operands are one number each is one number, computed in float64. */
const evaluateUniform: Rule = (node, scope) => {
  const { type } = node.results[0] as Value;
  if (!OPS[node.op].elementwise || node.op === "detach") return undefined;
  const numbers = node.inputs.map((v) => uniformOf(v, scope));
  if (numbers.length === 0 || numbers.some((n) => n === undefined)) return undefined;
  const scalars = node.inputs.map((v, k) => ndarray(v.type.dtype, [], [numbers[k] as number]));
  const value = OPS[node.op].evaluate(scalars, node.attrs, [{ dtype: type.dtype, shape: [] }])[0]?.data[0] as number;
  const range = RANGE[type.dtype];
  // what an integer division by zero or a cast out of range gives is the machine's business
  if (range && !(Number.isInteger(value) && value >= range[0] && value <= range[1])) return undefined;
  if (range && node.op === "div" && numbers[1] === 0) return undefined;
  return uniform(scope, type, value);
};

/** What is made from an operand without elements: sums of nothing, padding alone, the other parts of a concatenation. */
const emptyOperand: Rule = (node, scope) => {
  const { type } = node.results[0] as Value;
  if (size(type.shape) === 0 || !node.inputs.some((v) => size(v.type.shape) === 0)) return undefined;
  switch (node.op) {
    case "reduce_sum": case "contract": case "window": case "fold": case "gather": case "scatter": return uniform(scope, type, 0);
    case "pad": return uniform(scope, type, floatAttr(node.attrs, "value"));
    case "concat": {
      const parts = node.inputs.filter((v) => size(v.type.shape) > 0);
      return parts.length === 1 ? parts[0] : scope.emit("concat", parts, node.attrs);
    }
    default: return undefined;
  }
};

/** x where the other operand is the number that changes nothing: exact, but for the sign of a zero in x + 0 and 0 - x. */
function neutral(node: Node, scope: Scope): Value | undefined {
  const [x, y] = node.inputs as [Value, Value];
  const [a, b] = [uniformOf(x, scope), uniformOf(y, scope)];
  switch (node.op) {
    case "add":
      return b === 0 ? x : a === 0 ? y : undefined;
    case "sub":
      return b === 0 ? x : a === 0 ? scope.emit("neg", [y]) : undefined;
    case "mul":
      if (b === 1 || a === 1) return b === 1 ? x : y;
      return b === -1 ? scope.emit("neg", [x]) : a === -1 ? scope.emit("neg", [y]) : undefined;
    case "div":
      return b === 1 ? x : b === -1 ? scope.emit("neg", [x]) : undefined;
    case "pow":
      return b === 1 ? x : undefined;
    case "and":
      return b === 1 ? x : a === 1 ? y : b === 0 ? y : a === 0 ? x : undefined;
    case "or":
      return b === 0 ? x : a === 0 ? y : b === 1 ? y : a === 1 ? x : undefined;
    default:
      return undefined;
  }
}

const neutralRule: Rule = (node, scope) => neutral(node, scope);

/** The operand of x's producer if that is `op`. */
const under = (x: Value, op: OpName, scope: Scope): Value | undefined => {
  const made = scope.producer(x);
  return made?.op === op ? made.inputs[0] : undefined;
};

/** f(f(x)) = x */
const involution: Rule = (node, scope) => under(node.inputs[0] as Value, node.op, scope);
/** f(f(x)) = f(x) */
const idempotent: Rule = (node, scope) => (scope.producer(node.inputs[0] as Value)?.op === node.op ? node.inputs[0] : undefined);
/** f(x, x) = x */
const equalOperands: Rule = (node) => (node.inputs[0] === node.inputs[1] ? node.inputs[0] : undefined);

const absOfNeg: Rule = (node, scope) => {
  const x = under(node.inputs[0] as Value, "neg", scope);
  return x && scope.emit("abs", [x]);
};

/** a + (-b) = a - b, exactly. */
const addOfNeg: Rule = (node, scope) => {
  const [x, y] = node.inputs as [Value, Value];
  const [a, b] = [under(x, "neg", scope), under(y, "neg", scope)];
  return b ? scope.emit("sub", [x, b]) : a && scope.emit("sub", [y, a]);
};

/** a - (-b) = a + b, exactly. */
const subOfNeg: Rule = (node, scope) => {
  const b = under(node.inputs[1] as Value, "neg", scope);
  return b && scope.emit("add", [node.inputs[0] as Value, b]);
};

/** A decided condition, equal branches, and a branch that asks the same condition again. */
const selectRule: Rule = (node, scope) => {
  const [c, x, y] = node.inputs as [Value, Value, Value];
  const known = uniformOf(c, scope);
  if (known !== undefined) return known !== 0 ? x : y;
  if (x === y) return x;
  const [inner, other] = [scope.producer(x), scope.producer(y)];
  if (inner?.op === "select" && inner.inputs[0] === c) return scope.emit("select", [c, inner.inputs[1] as Value, y]);
  if (other?.op === "select" && other.inputs[0] === c) return scope.emit("select", [c, x, other.inputs[2] as Value]);
  const opposite = under(c, "not", scope);
  return opposite && scope.emit("select", [opposite, y, x]);
};

const castRule: Rule = (node) => (sameType((node.inputs[0] as Value).type, (node.results[0] as Value).type) ? node.inputs[0] : undefined);

export const FOLD_RULES: Rules = {
  any: [emptyOperand, evaluateUniform],
  neg: [involution], not: [involution],
  abs: [idempotent, absOfNeg], relu: [idempotent], sign: [idempotent], floor: [idempotent], ceil: [idempotent], round: [idempotent],
  add: [neutralRule, addOfNeg], sub: [neutralRule, subOfNeg], mul: [neutralRule], div: [neutralRule], pow: [neutralRule],
  max: [equalOperands], min: [equalOperands],
  and: [neutralRule, equalOperands], or: [neutralRule, equalOperands],
  select: [selectRule], cast: [castRule],
};

export const fold: Pass = {
  name: "fold",
  doc: "Arithmetic on constants is done, and arithmetic that changes nothing (x · 1, x + 0, x / 1, --x, equal branches) is gone.",
  run: (graph) => rewrite(graph, FOLD_RULES),
};
