/** Index arithmetic of tiled kernels as text: flattened indices into axes by constant divisions, sums of names and numbers. */
import type { Form, Problem } from "./problem.js";
import { runsOf } from "./tiled-roles.js";

/** Statements of one scope; equal texts are one value. Names are nobody else's in the kernel. */
export class Scope {
  readonly lines: string[] = [];
  readonly #known: Map<string, string>;
  readonly #taken: Set<string>;
  readonly #indent: string;

  constructor(taken: Set<string>, indent: string, outer?: Scope) {
    this.#taken = taken;
    this.#indent = indent;
    this.#known = new Map(outer ? outer.#known : []);
  }

  /** A scope inside this one, which knows its values. */
  inner(): Scope {
    return new Scope(this.#taken, `${this.#indent}  `, this);
  }

  push(...lines: readonly string[]): void {
    for (const line of lines) this.lines.push(this.#indent + line);
  }

  /** `name`, or `name2` where that is taken, … */
  name(name: string): string {
    let unique = name;
    for (let n = 2; this.#taken.has(unique); n++) unique = `${name}${/\d$/.test(name) ? "_" : ""}${n}`;
    this.#taken.add(unique);
    return unique;
  }

  /** The name of a value; nothing is written for a single name or number. */
  let(name: string, text: string): string {
    if (/^(\w+|-\d+)$/.test(text)) return text;
    const known = this.#known.get(text);
    if (known !== undefined) return known;
    const made = this.name(name);
    this.push(`let ${made} = ${text};`);
    this.#known.set(text, made);
    return made;
  }
}

/** Σ terms + at. */
export interface Value {
  readonly terms: readonly string[];
  readonly at: number;
}

export const ZERO: Value = { terms: [], at: 0 };
export const plus = (...values: readonly Value[]): Value => ({ terms: values.flatMap((v) => v.terms), at: values.reduce((sum, v) => sum + v.at, 0) });

export function spell({ terms, at }: Value): string {
  if (terms.length === 0) return `${at}`;
  return terms.join(" + ") + (at === 0 ? "" : at > 0 ? ` + ${at}` : ` - ${-at}`);
}

/** Like `spell`, to be a factor or an operand of a comparison. */
export const grouped = (value: Value): string => (value.terms.length + Number(value.at !== 0) > 1 ? `(${spell(value)})` : spell(value));

export const times = (text: string, coefficient: number): string => (coefficient === 1 ? text : `${text} * ${coefficient < 0 ? `(${coefficient})` : coefficient}`);

const isNumber = (text: string): boolean => /^\d+$/.test(text);

/** One digit of a flattened index; `size` 0: no remainder. */
const digit = (index: string, weight: number, size: number): string => {
  if (isNumber(index)) return `${Math.floor(Number(index) / weight) % (size || Infinity)}`;
  const shifted = weight === 1 ? index : `${index} / ${weight}`;
  return size === 0 ? shifted : `${weight === 1 ? index : `(${shifted})`} % ${size}`;
};

/** A flattened index: a name, and how far beyond it. */
export interface Index {
  readonly name: string;
  readonly plus: number;
}

/** What flattened axes add to a form, at `index`. An even form moves with the index; else its axes are taken apart. */
export function partOf(form: Form, axes: readonly number[], index: Index, problem: Problem, scope: Scope, what: string): Value {
  const runs = runsOf(form, axes, problem);
  const [only] = runs;
  if (only === undefined) return ZERO;
  if (runs.length === 1 && only.size === 0 && only.weight === 1)
    return { terms: [scope.let(what, times(index.name, only.coefficient))], at: only.coefficient * index.plus };
  const at = index.plus === 0 ? index.name : isNumber(index.name) ? `${Number(index.name) + index.plus}` : scope.let(`${index.name}_${index.plus}`, `${index.name} + ${index.plus}`);
  const terms = runs.map((run) => {
    const name = scope.let(`${what}_${digitName(axes, run.weight, problem)}`, digit(at, run.weight, run.size));
    return times(/^\w+$/.test(name) ? name : `(${name})`, run.coefficient);
  });
  return { terms: [terms.length === 1 && /^\w+$/.test(terms[0] as string) ? (terms[0] as string) : scope.let(what, terms.join(" + "))], at: 0 };
}

/** The axis that begins with a weight. */
function digitName(axes: readonly number[], weight: number, problem: Problem): string {
  let below = 1;
  for (const a of axes.toReversed()) {
    if (below === weight) return problem.names[a] ?? "axis";
    below *= problem.axes[a]?.size ?? 1;
  }
  return "axis";
}

/** Spelling of each flattened axis at an index. */
export function axesAt(axes: readonly number[], index: string, problem: Problem, scope: Scope): ReadonlyMap<number, string> {
  const found = new Map<number, string>();
  let weight = 1;
  for (const [i, a] of axes.toReversed().entries()) {
    const size = problem.axes[a]?.size ?? 1;
    const last = i === axes.length - 1;
    found.set(a, scope.let(`${index}_${problem.names[a]}`, digit(index, weight, last ? 0 : size)));
    weight *= size;
  }
  return found;
}
