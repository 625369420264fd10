/** Einstein sums of any number of operands, as a chain of products of two. */
import { CompileError } from "../../../ir/error.js";
import type { Value } from "../../../ir/graph.js";
import type { Context, ImportOp } from "../context.js";
import { reshape, sum } from "./common.js";
import { contraction } from "./contraction.js";

/** A tensor and its axes' labels: letters, or numbers for the axes of an ellipsis, counted from its last. */
interface Term {
  readonly value: Value;
  readonly labels: readonly string[];
}

interface Equation {
  readonly terms: readonly Term[];
  readonly out: readonly string[];
  readonly sizes: ReadonlyMap<string, number>;
}

const LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
const TERM = /^([A-Za-z]*)(\.\.\.)?([A-Za-z]*)$/;
const ellipsis = (count: number): string[] => Array.from({ length: count }, (_, k) => `${count - 1 - k}`);

/** Labels of one part of the equation; `count(letters)` says for how many axes an ellipsis stands. */
function labelsOf(c: Context, text: string, count: (letters: number) => number): string[] {
  const [, before, dots, after] = TERM.exec(text) ?? [];
  if (before === undefined || after === undefined) throw new CompileError("bad-model", `Einsum: "${text}" is not a list of letters`, c.where);
  return [...before, ...(dots ? ellipsis(count(before.length + after.length)) : []), ...after];
}

function read(c: Context): Equation {
  const text = c.text("equation", "").replace(/\s/g, "");
  const [left = "", right, ...more] = text.split("->");
  const parts = left.split(",");
  const bad = (why: string): CompileError => new CompileError("bad-model", `Einsum: "${text}" ${why}`, c.where);
  if (more.length > 0 || parts.length !== c.count) throw bad(`does not fit ${c.count} operands`);
  const sizes = new Map<string, number>();
  const terms = c.all().map((value, k) => {
    const { shape } = value.type;
    const labels = labelsOf(c, parts[k] as string, (letters) => Math.max(0, shape.length - letters));
    if (labels.length !== shape.length) throw bad(`does not fit operand ${k}, [${shape}]`);
    labels.forEach((label, axis) => {
      const [n, known] = [shape[axis] as number, sizes.get(label) ?? 1];
      if (n !== shape[labels.indexOf(label)]) throw bad(`takes the diagonal "${label}" of operand ${k}, [${shape}], which has none`);
      if (n !== known && n !== 1 && known !== 1) throw bad(`gives "${label}" the sizes ${known} and ${n}`);
      sizes.set(label, n === 1 ? known : n);
    });
    return { value, labels };
  });
  const all = terms.flatMap((t) => t.labels);
  const dots = ellipsis(Math.max(0, ...all.filter((label) => /\d/.test(label)).map((label) => Number(label) + 1)));
  // without an arrow: what the ellipsis stands for, then the letters that occur once, in alphabetical order
  const single = all.filter((label) => !/\d/.test(label) && all.indexOf(label) === all.lastIndexOf(label)).sort();
  const out = right === undefined ? [...dots, ...single] : labelsOf(c, right, () => dots.length);
  if (out.some((label, k) => !sizes.has(label) || out.indexOf(label) !== k)) throw bad("has an output that its operands do not give");
  return { terms, out, sizes };
}

/** Axes of 1 that another operand has larger are left out: the product repeats them. */
function withoutOnes(c: Context, { value, labels }: Term, sizes: ReadonlyMap<string, number>): Term {
  const kept = labels.flatMap((label, axis) => (value.type.shape[axis] === sizes.get(label) ? [axis] : []));
  return { value: reshape(c, value, kept.map((axis) => value.type.shape[axis] as number)), labels: kept.map((axis) => labels[axis] as string) };
}

/** A label that stands twice means the diagonal: of the two axes as one, every (n + 1)-th element. */
function diagonal(c: Context, term: Term): Term {
  const { value, labels } = term;
  const second = labels.findIndex((label, axis) => labels.indexOf(label) < axis);
  if (second < 0) return term;
  const label = labels[second] as string;
  const first = labels.indexOf(label);
  const rest = labels.flatMap((_, axis) => (axis === first || axis === second ? [] : [axis]));
  const outer = rest.map((axis) => value.type.shape[axis] as number);
  const n = value.type.shape[first] as number;
  const flat = reshape(c, c.emit("permute", [value], { perm: [...rest, first, second] }), [...outer, n * n]);
  const made = c.emit("slice", [flat], { start: [...outer.map(() => 0), 0], size: [...outer, n], stride: [...outer.map(() => 1), n + 1] });
  return diagonal(c, { value: made, labels: [...rest.map((axis) => labels[axis] as string), label] });
}

/** Sums over the labels that nobody else needs. */
function summed(c: Context, { value, labels }: Term, needed: ReadonlySet<string>): Term {
  const axes = labels.flatMap((label, axis) => (needed.has(label) ? [] : [axis]));
  return { value: sum(c, value, axes), labels: labels.filter((label) => needed.has(label)) };
}

/** The product of two terms, with the labels of `wanted` that they have, in its order. */
function joined(c: Context, l: Term, r: Term, wanted: readonly string[]): Term {
  const both = [...new Set([...l.labels, ...r.labels])];
  const labels = wanted.filter((label) => both.includes(label));
  const letters = (list: readonly string[]): string => list.map((label) => LETTERS[both.indexOf(label)] as string).join("");
  return { value: contraction(c, l.value, r.value, `${letters(l.labels)},${letters(r.labels)}->${letters(labels)}`), labels };
}

/** The two terms whose product costs the fewest multiplications. */
function cheapest(terms: readonly Term[], sizes: ReadonlyMap<string, number>): readonly [Term, Term] {
  const pairs = terms.flatMap((l, k) => terms.slice(k + 1).map((r) => [l, r] as const));
  const cost = ([l, r]: readonly [Term, Term]): number => [...new Set([...l.labels, ...r.labels])].reduce((product, label) => product * (sizes.get(label) as number), 1);
  return pairs.reduce((best, pair) => (cost(pair) < cost(best) ? pair : best));
}

/** Labels that the output or other terms have. */
const neededBy = (out: readonly string[], others: readonly Term[]): Set<string> => new Set([...out, ...others.flatMap((t) => t.labels)]);

export const einsum: ImportOp = (c) => {
  const { terms, out, sizes } = read(c);
  const plain = terms.map((t) => withoutOnes(c, diagonal(c, t), sizes));
  let open = plain.map((t) => summed(c, t, neededBy(out, plain.filter((other) => other !== t))));
  while (open.length > 1) {
    const [l, r] = cheapest(open, sizes);
    const rest = open.filter((t) => t !== l && t !== r);
    const needed = neededBy(out, rest);
    // in the output's order as far as it goes: the last product is the result as it stands
    const order = new Set([...out, ...l.labels, ...r.labels]);
    open = [...rest, joined(c, l, r, [...order].filter((label) => needed.has(label)))];
  }
  const [{ value, labels }] = open as [Term];
  const perm = out.map((label) => labels.indexOf(label));
  return perm.every((axis, k) => axis === k) ? value : c.emit("permute", [value], { perm });
};
