/** Damped inverses of symmetric matrices, one by one and many at once. */
import { Builder } from "../../../ir/builder.js";
import { inverse64, relativeError, spd } from "../../support/inverse-oracle.js";
import type { Subject } from "../measure.js";
import { programSubject } from "./program.js";

const KAPPA = 1e4;
const EPSILON = 2 ** -23;
/** float64 on one core is slow: larger ones are checked by a few rows of A·X. */
const ORACLE_UP_TO = 410;

function inverses(n: number, batch: number): Subject {
  const [id, name] = batch === 1 ? [`inverse/${n}`, `inverse ${n}`] : [`inverse/${batch}x${n}`, `inverse of ${batch} × ${n}`];
  return programSubject(id, name, "inverse", () => {
    const b = new Builder("inverse");
    const m = b.input("m", { dtype: "f32", shape: [batch, n, n] });
    const damping = b.input("damping", { dtype: "f32", shape: [batch] });
    const [x, clean] = b.node("inverse", [m, damping]).results;
    if (!x || !clean) throw new Error("an inverse has two results");
    const matrices = Array.from({ length: batch }, (_, k) => spd(n, KAPPA, n + k));
    const all = new Float32Array(batch * n * n);
    matrices.forEach((values, k) => { all.set(values, k * n * n); });
    return {
      graph: b.finish([{ name: "x", value: x }, { name: "clean", value: clean }]),
      inputs: new Map([["m", all], ["damping", new Float32Array(batch)]]),
      check: async (read) => {
        if ((await read("clean")).some((ok) => ok !== 1)) throw new Error(`${name}: a pivot failed`);
        const made = await read("x");
        for (const [k, matrix] of matrices.entries()) {
          const mine = made.slice(k * n * n, (k + 1) * n * n) as Float32Array;
          if (n <= ORACLE_UP_TO) {
            const error = relativeError(mine, inverse64(matrix, n, 0));
            // the condition number times the unit of the last place is what float32 can give
            if (!(error <= EPSILON * KAPPA)) throw new Error(`${name}: relative error ${error} of matrix ${k}`);
          } else {
            const worst = residual(matrix, mine, n);
            if (!(worst <= EPSILON * KAPPA * Math.sqrt(n))) throw new Error(`${name}: |A·X − I| is ${worst}`);
          }
        }
        return n <= ORACLE_UP_TO ? "against float64" : "A·X against I, three rows";
      },
    };
  });
}

/** max |A·X − I| over three rows. */
function residual(a: Float32Array, x: Float32Array, n: number): number {
  let worst = 0;
  for (const i of [0, n >> 1, n - 1])
    for (let j = 0; j < n; j++) {
      let sum = i === j ? -1 : 0;
      for (let k = 0; k < n; k++) sum += (a[i * n + k] as number) * (x[k * n + j] as number);
      worst = Math.max(worst, Math.abs(sum));
    }
  return worst;
}

export const INVERSES: readonly Subject[] = [...[26, 65, 257, 401, 785, 1153].map((n) => inverses(n, 1)), inverses(64, 40)];
