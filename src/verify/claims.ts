/** The rows that a layer of the registration claims: its sites' values on the canonical graph, arranged as it says. */
import { exampleMarks } from "../../ir/examples.js";
import type { Value } from "../../ir/graph.js";
import type { NdArray } from "../../ir/ndarray.js";
import { eachIndex } from "../../ir/ndarray.js";
import { size, strides } from "../../ir/type.js";
import type { Rows, Site } from "../kfac/layer.js";
import type { StepModel } from "../train/step-model.js";
import { Backward, evaluateFrom, type Known } from "./values.js";
import { type Cotangents, bindingsOf } from "./oracle.js";

export interface ClaimedRows {
  readonly positions: number;
  readonly features: number;
  /** [groups, positions, features] */
  readonly rows: Float64Array;
  /** [groups, positions] */
  readonly example: Int32Array;
}

export class Claims {
  readonly #forward: Known;
  readonly #backward: Backward;
  readonly #marks: NonNullable<StepModel["marks"]>;
  readonly #wanted: readonly Value[];

  constructor(model: StepModel, named: Readonly<Record<string, NdArray>>, roots: readonly Value[]) {
    const { graph } = model;
    const sites = model.registration.layers.flatMap((l) => l.sites);
    this.#wanted = [...new Set(sites.map((s) => s.output.value))];
    this.#forward = evaluateFrom(graph.nodes, bindingsOf(graph, named), [...roots, ...sites.flatMap((s) => [s.input.value, s.output.value]), ...graph.nodes.flatMap((n) => n.results)]);
    this.#backward = new Backward(graph, this.#forward, roots, this.#wanted);
    this.#marks = model.marks ?? exampleMarks(graph, { sharedSums: true });
  }

  value(v: Value): NdArray | undefined {
    return this.#forward.get(v);
  }

  cotangents(seeds: Known): Cotangents {
    return this.#backward.run(seeds, this.#wanted);
  }

  input(site: Site): ClaimedRows {
    return this.#arrange(site.input, this.#forward.get(site.input.value) as NdArray);
  }

  output(site: Site, cotangents: Cotangents): ClaimedRows {
    return this.#arrange(site.output, cotangents.get(site.output.value) as NdArray);
  }

  #arrange(r: Rows, x: NdArray): ClaimedRows {
    const { shape } = x;
    const extent = (axes: readonly number[]): number => size(axes.map((k) => shape[k] as number));
    const [groups, positions, features] = [extent(r.groups), extent(r.positions), extent(r.features)];
    const rows = new Float64Array(groups * positions * features);
    const example = new Int32Array(groups * positions).fill(-1);
    const mark = this.#marks.get(r.value);
    const digit = (axes: readonly number[], index: readonly number[]): number => {
      const step = strides(axes.map((k) => shape[k] as number));
      return axes.reduce((sum, axis, k) => sum + (index[axis] as number) * (step[k] as number), 0);
    };
    eachIndex(shape, (index, flat) => {
      const at = digit(r.groups, index) * positions + digit(r.positions, index);
      rows[at * features + digit(r.features, index)] = x.data[flat] as number;
      if (mark && !("lost" in mark)) example[at] = Math.floor((index[mark.axis] as number) / mark.inner) % ((shape[mark.axis] as number) / (mark.outer * mark.inner));
    });
    return { positions, features, rows, example };
  }
}
