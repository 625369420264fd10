/** The second half of a step: preconditioned directions, the norm constraint, updates. */
import { type Builder, reshape } from "../../ir/builder.js";
import { cotangents } from "../../ir/grad.js";
import type { Value } from "../../ir/graph.js";
import type { Layer } from "../kfac/layer.js";
import { type LayerRows, rowsDirection } from "../kfac/lowrank.js";
import * as matrices from "../kfac/matrices.js";
import * as pre from "../kfac/precondition.js";
import { diagonalParams, diagonalSlot, gradientSlot, layersOf, layerSlot, plainParams, type StepModel } from "./step-model.js";
import { adamUpdate, type Knobs, momentumUpdate } from "./update.js";

export interface BackForm {
  /** Gradients get no L2 decay: the knob is 0, or decay is decoupled. */
  readonly undecayed?: boolean;
  /** Layers whose directions are made of rows; their gradients are not asked for. */
  readonly rows?: ReadonlyMap<Layer, LayerRows>;
}

/** A layer's direction: ⟨P, ∇⟩, and P times a scalar in the shapes of its parameters' views. */
interface Direction {
  readonly layer: Layer;
  readonly product: Value;
  scaled(scale: Value): { readonly weight: Value; readonly bias: Value | undefined };
}

/** The preconditioned gradient of one layer; M and the result are of stored size. */
function directionOf(b: Builder, m: StepModel, knobs: Knobs, layer: Layer, M: Value): Value {
  const slot = (part: string, shape: readonly number[]) => b.input(layerSlot(layer, part), { dtype: "f32", shape });
  if (layer.form === "block") return pre.preconditionedBlock(b, layer, M, slot("Finv", matrices.blockShape(layer)));
  const side = (part: string, s: "A" | "G") => slot(part, pre.inverseShape(layer, s));
  if (m.inverse === "pi") return pre.preconditioned(b, layer, M, side("Ainv", "A"), side("Ginv", "G"));
  const basis = (s: "A" | "G") => (layer.sides[s] === "full" ? side(`U${s}`, s) : undefined);
  const lambda = b.emit("mul", [knobs.get("damping"), reshape(b.emit, slot("scale", [1]), [])]);
  return pre.preconditionedEigen(b, layer, M, basis("A"), basis("G"), slot("S", pre.storedShape(layer)), lambda);
}

/** Directions and updates from gradient sums. */
export function buildBack(b: Builder, m: StepModel, knobs: Knobs, gradients: (slot: string, shape: readonly number[]) => Value, form: BackForm = {}): Record<string, Value> {
  const { emit } = b;
  const results: Record<string, Value> = {};
  const decay = (gradient: Value, param: Value) =>
    m.weightDecayMode === "l2" && !form.undecayed ? emit("add", [gradient, emit("mul", [param, knobs.over(param, "weightDecay")])]) : gradient;
  const mean = (sum: Value) => emit("div", [sum, knobs.over(sum, "count")]);
  const apply = (param: Value, direction: Value) => {
    const update = m.optimizer === "adam" ? adamUpdate : momentumUpdate;
    const made = update(b, knobs, param, direction, m.weightDecayMode);
    results[param.name] = made.param;
    Object.assign(results, made.state);
  };
  const directions = layersOf(m).map((layer): Direction => {
    const rows = form.rows?.get(layer);
    if (rows) {
      const inverse = (s: "A" | "G") => b.input(layerSlot(layer, `${s}inv`), { dtype: "f32", shape: pre.inverseShape(layer, s) });
      return { layer, ...rowsDirection(b, layer, rows, { A: inverse("A"), G: inverse("G") }, knobs.get("count")) };
    }
    const sum = gradients(gradientSlot(layer.name), matrices.matrixShape(layer));
    const M = pre.padded(b, decay(mean(sum), matrices.asMatrix(b, layer)), pre.storedShape(layer));
    const P = directionOf(b, m, knobs, layer, M);
    const parts = matrices.fromMatrix(b, layer, P);
    return { layer, product: pre.inner(b, P, M), scaled: (nu) => ({ weight: pre.scaled(b, parts.weight, nu), bias: parts.bias && pre.scaled(b, parts.bias, nu) }) };
  });
  const diagonals = diagonalParams(m).map((param) => {
    const M = decay(mean(gradients(gradientSlot(param.name), param.type.shape)), param);
    const P = pre.quotient(b, M, emit("add", [b.input(diagonalSlot(param), param.type), knobs.over(param, "damping")]));
    return { param, P, product: pre.inner(b, P, M) };
  });
  if (directions.length + diagonals.length > 0) {
    const nu = pre.klScale(b, [...directions, ...diagonals].map((d) => d.product), knobs.get("lr"), knobs.get("klClip"));
    results["stat/nu"] = reshape(emit, nu, [1]);
    // parts of one parameter are layers apart: their directions are one tensor
    const moves = new Map<Value, Value[]>();
    const move = (param: Value, view: Value, part: Value) => {
      const whole = cotangents(b, new Map([[view, part]]), [param]).get(param) as Value;
      moves.set(param, [...(moves.get(param) ?? []), whole]);
    };
    for (const { layer, scaled } of directions) {
      const parts = scaled(nu);
      move(layer.weight.param, layer.weight.view, parts.weight);
      if (layer.bias && parts.bias) move(layer.bias.param, layer.bias.view, parts.bias);
    }
    for (const [param, all] of moves) apply(param, all.reduce((x, y) => emit("add", [x, y])));
    for (const { param, P } of diagonals) apply(param, pre.scaled(b, P, nu));
  }
  const moved = new Set(diagonals.map((d) => d.param));
  for (const p of plainParams(m)) if (!moved.has(p)) apply(p, decay(mean(gradients(gradientSlot(p.name), p.type.shape)), p));
  return results;
}
