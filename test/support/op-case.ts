/** One ONNX op in a model of its own: what the tests of the importer's ops are lists of. */
import { type AttrSpec, buildModel, type TensorSpec } from "./onnx-model.js";

export interface Case {
  readonly op: string;
  readonly opsets: readonly number[];
  /** Shapes of the model's inputs, which are the op's first inputs. */
  readonly shapes: readonly (readonly number[])[];
  /** The op's further inputs. "" leaves one out. */
  readonly stored?: readonly (TensorSpec | "")[];
  readonly attrs?: Readonly<Record<string, AttrSpec>>;
  readonly scale?: number;
  readonly shift?: number;
  readonly results?: number;
  /** Element type of the result, if not float. */
  readonly gives?: number;
  readonly takes?: number;
  /** Element types of single inputs (by place) and outputs, where they are not all alike. */
  readonly inputTypes?: Readonly<Record<number, number>>;
  readonly outputTypes?: readonly number[];
  /** Why the gradient cannot be held to a finite difference at the seeded point (it is a kink, say). */
  readonly noGradient?: string;
  readonly domain?: string;
}

/** Collects cases: `add(op, opsets, shapes of inputs, rest)`. */
export function caseList(): { readonly cases: readonly Case[]; readonly add: (op: string, opsets: readonly number[], shapes: readonly (readonly number[])[], rest?: Omit<Case, "op" | "opsets" | "shapes">) => void } {
  const cases: Case[] = [];
  return { cases, add: (op, opsets, shapes, rest = {}) => void cases.push({ op, opsets, shapes, ...rest }) };
}

/** Spells the case in a test's name. */
export const spellCase = (c: Case): string => [c.op, c.shapes.map((s) => `[${s}]`).join(" "), c.attrs ? JSON.stringify(c.attrs) : ""].filter(Boolean).join(" ");

export function modelOf(c: Case, opset: number): Uint8Array {
  const inputs = Object.fromEntries(c.shapes.map((shape, k) => [`x${k}`, shape]));
  const stored = (c.stored ?? []).map((t, k) => [t === "" ? "" : `s${k}`, t] as const);
  return buildModel({
    opset, inputs, outputs: Array.from({ length: c.results ?? 1 }, (_, k) => `y${k}`),
    ...(c.gives === undefined ? {} : { outputType: c.gives }),
    ...(c.outputTypes ? { outputTypes: c.outputTypes } : {}),
    types: Object.fromEntries(Object.keys(inputs).flatMap((name, k) => {
      const type = c.inputTypes?.[k] ?? c.takes;
      return type === undefined ? [] : [[name, type]];
    })),
    initializers: Object.fromEntries(stored.flatMap(([name, t]) => (t === "" ? [] : [[name, t]]))),
    nodes: [{
      op: c.op, inputs: [...Object.keys(inputs), ...stored.map(([name]) => name)], outputs: Array.from({ length: c.results ?? 1 }, (_, k) => `y${k}`),
      ...(c.attrs ? { attrs: c.attrs } : {}), ...(c.domain ? { domain: c.domain } : {}),
    }],
  });
}
