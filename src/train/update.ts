/** Parameter updates: momentum for K-FAC directions and plain SGD, and Adam(W). Each is elementwise over one tensor. */
import { type Builder, broadcast } from "../../ir/builder.js";
import type { Value } from "../../ir/graph.js";

export type WeightDecayMode = "l2" | "decoupled";

/** The run-time knobs as scalar graph inputs, made on first use. */
export class Knobs {
  readonly #made = new Map<string, Value>();
  readonly #b: Builder;

  constructor(b: Builder) {
    this.#b = b;
  }

  get(name: string): Value {
    const known = this.#made.get(name);
    if (known) return known;
    // a model with dropout has asked for the seed and the step itself
    const own = this.#b.inputs.find((i) => i.value.name === `run.${name}`)?.value;
    const made = own ?? this.#b.input(`run.${name}`, { dtype: name === "seed" || name === "step" ? "u32" : "f32", shape: [] });
    this.#made.set(name, made);
    return made;
  }

  /** The knob repeated over v's shape. */
  over(v: Value, name: string): Value {
    return broadcast(this.#b.emit, this.get(name), v.type.shape, []);
  }
}

export interface Updated {
  readonly param: Value;
  /** State slot name → new value. */
  readonly state: Readonly<Record<string, Value>>;
}

/** m ← momentum·m + d;  p ← p − lr·m (decoupled decay: p ← p − lr·(m + w·p)). */
export function momentumUpdate(b: Builder, knobs: Knobs, param: Value, direction: Value, mode: WeightDecayMode): Updated {
  const { emit } = b;
  const slot = `opt/m/${param.name}`;
  const m = b.input(slot, param.type);
  const next = emit("add", [emit("mul", [m, knobs.over(m, "momentum")]), direction]);
  const step = mode === "decoupled" ? emit("add", [next, emit("mul", [param, knobs.over(param, "weightDecay")])]) : next;
  return { param: emit("sub", [param, emit("mul", [step, knobs.over(param, "lr")])]), state: { [slot]: next } };
}

/** Adam with bias correction (Kingma & Ba 2015); decoupled decay makes it AdamW (Loshchilov & Hutter 2019). */
export function adamUpdate(b: Builder, knobs: Knobs, param: Value, gradient: Value, mode: WeightDecayMode): Updated {
  const { emit } = b;
  const [ms, vs] = [`opt/m/${param.name}`, `opt/v/${param.name}`];
  const blend = (slot: string, beta: string, x: Value) => {
    const old = b.input(slot, param.type);
    return emit("add", [old, emit("mul", [emit("sub", [x, old]), emit("sub", [broadcast(emit, b.scalar(1), param.type.shape, []), knobs.over(param, beta)])])]);
  };
  const m = blend(ms, "beta1", gradient);
  const v = blend(vs, "beta2", emit("mul", [gradient, gradient]));
  const first = emit("div", [m, knobs.over(m, "correction1")]);
  const second = emit("sqrt", [emit("div", [v, knobs.over(v, "correction2")])]);
  const ratio = emit("div", [first, emit("add", [second, knobs.over(v, "epsilon")])]);
  const step = mode === "decoupled" ? emit("add", [ratio, emit("mul", [param, knobs.over(param, "weightDecay")])]) : ratio;
  return { param: emit("sub", [param, emit("mul", [step, knobs.over(param, "lr")])]), state: { [ms]: m, [vs]: v } };
}
