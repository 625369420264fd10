/** Contractions absorb the movement around them; reductions compose. */
import type { Node, Value } from "../graph.js";
import { intsAttr, stringAttr } from "../op.js";
import { parseSpec, type Spec } from "../ops/reduction.js";
import { sameShape } from "../type.js";
import { cutAxes, cutOf } from "./movement.js";
import type { Rule, Rules, Scope } from "./rewrite.js";

export const specOf = (node: Node): Spec => parseSpec(stringAttr(node.attrs, "spec"));
export const spellSpec = ({ left, right, out }: Spec): string => `${left},${right}->${out}`;
export const LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/** A letter that no operand uses; undefined if all 52 are taken. */
export const freeLabel = (spec: Spec): string | undefined => [...LETTERS].find((label) => !`${spec.left}${spec.right}`.includes(label));

const contract = (scope: Scope, left: Value, right: Value, spec: Spec): Value => scope.emit("contract", [left, right], { spec: spellSpec(spec) });

/** Labels a, b, c … in order of first appearance in left, then right. */
const canonicalLabels: Rule = (node, scope) => {
  const spec = specOf(node);
  const names = new Map([...new Set(spec.left + spec.right)].map((label, k) => [label, LETTERS[k] as string]));
  const renamed = (labels: string): string => [...labels].map((label) => names.get(label)).join("");
  const text = spellSpec({ left: renamed(spec.left), right: renamed(spec.right), out: renamed(spec.out) });
  return text === node.attrs["spec"] ? undefined : scope.emit("contract", node.inputs, { spec: text });
};

/** Tries a rule on the left operand, then on the right one. The rule gives a new operand with its labels. */
const eitherSide = (rule: (operand: Value, labels: string, other: string, out: string, scope: Scope) => readonly [Value, string] | undefined): Rule =>
  (node, scope) => {
    const [l, r] = node.inputs as [Value, Value];
    const spec = specOf(node);
    const left = rule(l, spec.left, spec.right, spec.out, scope);
    if (left) return contract(scope, left[0], r, { ...spec, left: left[1] });
    const right = rule(r, spec.right, spec.left, spec.out, scope);
    return right && contract(scope, l, right[0], { ...spec, right: right[1] });
  };

const permutedOperand = eitherSide((operand, labels, _other, _out, scope) => {
  const made = scope.producer(operand);
  if (made?.op !== "permute") return undefined;
  const from = new Array<string>(labels.length);
  intsAttr(made.attrs, "perm").forEach((axis, k) => { from[axis] = labels[k] as string; });
  return [made.inputs[0] as Value, from.join("")];
});

/**
 * Axes of size 1 that one operand alone has and that are summed, and those that a reshape has just added and that are not
 * needed in the output, are reshaped away: a 1×1 convolution is a contraction over channels.
 */
const unitOperand = eitherSide((operand, labels, other, out, scope) => {
  const { shape } = operand.type;
  const made = scope.producer(operand);
  const units = (s: readonly number[]): number => s.filter((n) => n === 1).length;
  const added = made?.op === "reshape" && units((made.inputs[0] as Value).type.shape) < units(shape);
  const drop = [...labels].filter((label, k) =>
    shape[k] === 1 && ((!other.includes(label) && !out.includes(label)) || (added && other.includes(label))));
  if (drop.length === 0) return undefined;
  const kept = [...labels].filter((label) => !drop.includes(label));
  return [scope.emit("reshape", [operand], { shape: kept.map((label) => shape[labels.indexOf(label)] as number) }), kept.join("")];
});

/** A contraction that this node alone uses. */
const onlyContract = (node: Node, scope: Scope): Node | undefined => {
  const made = scope.producer(node.inputs[0] as Value);
  return made?.op === "contract" && scope.single(node.inputs[0] as Value) ? made : undefined;
};

const permutedResult: Rule = (node, scope) => {
  const made = onlyContract(node, scope);
  if (!made) return undefined;
  const spec = specOf(made);
  const out = intsAttr(node.attrs, "perm").map((axis) => spec.out[axis] as string).join("");
  return contract(scope, made.inputs[0] as Value, made.inputs[1] as Value, { ...spec, out });
};

/** Output axes of size 1 that a reshape drops are summed instead. */
const droppedUnits: Rule = (node, scope) => {
  const made = onlyContract(node, scope);
  if (!made) return undefined;
  const spec = specOf(made);
  const { shape } = (made.results[0] as Value).type;
  const to = (node.results[0] as Value).type.shape;
  let next = 0;
  const out = [...spec.out].filter((_, k) => {
    // an axis stays if it is the next one wanted; of several axes of size 1 any will do
    if (next === to.length || shape[k] !== to[next]) return false;
    next++;
    return true;
  });
  const kept = out.map((label) => shape[spec.out.indexOf(label)] as number);
  const dropped = shape.filter((_, k) => !out.includes(spec.out[k] as string));
  if (!sameShape(kept, to) || dropped.length === 0 || dropped.some((n) => n !== 1)) return undefined;
  return contract(scope, made.inputs[0] as Value, made.inputs[1] as Value, { ...spec, out: out.join("") });
};

/** A part of a contraction is a contraction of parts. */
const slicedResult: Rule = (node, scope) => {
  const made = onlyContract(node, scope);
  if (!made) return undefined;
  const spec = specOf(made);
  const cut = cutOf(node);
  const part = (operand: Value, labels: string): Value => {
    const whole = operand.type.shape;
    const axes = [...labels].map((label) => spec.out.indexOf(label));
    const mine = cutAxes(cut, axes);
    const pick = (list: readonly (number | undefined)[], other: (k: number) => number) => list.map((v, k) => ((axes[k] as number) < 0 ? other(k) : (v as number)));
    return scope.emit("slice", [operand], {
      start: pick(mine.start, () => 0), size: pick(mine.size, (k) => whole[k] as number), stride: pick(mine.stride, () => 1),
    });
  };
  return contract(scope, part(made.inputs[0] as Value, spec.left), part(made.inputs[1] as Value, spec.right), spec);
};

/** A reduction of a permuted value reduces the value's own axes; what is left is permuted. */
const reduceOfPermute: Rule = (node, scope) => {
  const made = scope.producer(node.inputs[0] as Value);
  if (made?.op !== "permute") return undefined;
  const perm = intsAttr(made.attrs, "perm");
  const axes = intsAttr(node.attrs, "axes").map((axis) => perm[axis] as number);
  const kept = perm.filter((axis) => !axes.includes(axis));
  const order = [...kept].sort((a, b) => a - b);
  const reduced = scope.emit(node.op, [made.inputs[0] as Value], { axes: [...axes].sort((a, b) => a - b) });
  return scope.emit("permute", [reduced], { perm: kept.map((axis) => order.indexOf(axis)) });
};

const reduceOfReduce: Rule = (node, scope) => {
  const made = scope.producer(node.inputs[0] as Value);
  if (made?.op !== node.op || !scope.single(node.inputs[0] as Value)) return undefined;
  const first = intsAttr(made.attrs, "axes");
  const x = made.inputs[0] as Value;
  const kept = x.type.shape.map((_, axis) => axis).filter((axis) => !first.includes(axis));
  const axes = [...first, ...intsAttr(node.attrs, "axes").map((axis) => kept[axis] as number)].sort((a, b) => a - b);
  return scope.emit(node.op, [x], { axes });
};

export const CONTRACTION_RULES: Rules = {
  contract: [permutedOperand, unitOperand, canonicalLabels],
  permute: [permutedResult],
  reshape: [droppedUnits],
  slice: [slicedResult],
  reduce_sum: [reduceOfPermute, reduceOfReduce],
  reduce_max: [reduceOfPermute, reduceOfReduce],
};
