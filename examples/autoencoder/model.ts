/**
 * The deep autoencoder for MNIST digits, 784-1000-500-250-30-250-500-1000-784: logistic units but for 30 linear code units, pixels as
 * Bernoulli means. The benchmark of second-order methods since Hinton & Salakhutdinov 2006; Martens & Grosse 2015, section 13.
 */
import { model } from "kfacc/dsl";

export const WIDTHS = [1000, 500, 250, 30, 250, 500, 1000] as const;
const PIXELS = 28 * 28;
const CODE = 30;
/** Weights that begin other than 0, per unit. Source: Martens 2010, "Deep learning via Hessian-free optimization", section 5. */
const CONNECTIONS = 15;

/** Uniform numbers in (0, 1); its own small generator (mulberry32), so that the first weights depend on nothing else. */
function uniform(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x = (x + Math.imul(x ^ (x >>> 7), x | 61)) ^ x;
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32 + 2 ** -33;
  };
}

/**
 * Sparse first weights [units, inputs], row-major: every unit hears `CONNECTIONS` different inputs, with weights from N(0, 1). Dense ones
 * of that size would saturate the logistic units, smaller ones would let every layer answer the same to all digits.
 */
export function sparse(units: number, inputs: number, seed: number): readonly number[] {
  const next = uniform(seed);
  const weights = new Array<number>(units * inputs).fill(0);
  for (let unit = 0; unit < units; unit++) {
    const heard = new Set<number>();
    while (heard.size < Math.min(CONNECTIONS, inputs)) heard.add(Math.floor(next() * inputs));
    for (const input of heard) weights[unit * inputs + input] = Math.sqrt(-2 * Math.log(next())) * Math.cos(2 * Math.PI * next());
  }
  return weights;
}

// biome-ignore lint/style/noDefaultExport: a model file exports its model as default
export default model("autoencoder", (m) => {
  let h = m.flatten(m.input("image", [28, 28]));
  let inputs = PIXELS;
  for (const [k, units] of WIDTHS.entries()) {
    const z = m.dense(h, units, { name: units === CODE ? "code" : `dense${k + 1}`, init: sparse(units, inputs, k + 1) });
    h = units === CODE ? z : m.sigmoid(z);
    inputs = units;
  }
  return m.output("logits", m.dense(h, PIXELS, { name: "pixels", init: sparse(PIXELS, inputs, WIDTHS.length + 1) }), { loss: "bernoulli-ce" });
});
