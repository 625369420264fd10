/** Products of matrices: squares, odd shapes, a sum that has to be split, and the factor of a wide layer. */
import { Builder, contract } from "../../../ir/builder.js";
import type { Subject } from "../measure.js";
import { programSubject, seeded, Sum } from "./program.js";

/** out[m, n] = Σ_k, with both operands stored along m and n ("nn": left [m, k], right [k, n]; "tn": left [k, m]). */
function product(id: string, name: string, form: "nn" | "tn", m: number, k: number, n: number): Subject {
  return programSubject(`matmul/${id}`, name, "matmul", () => {
    const b = new Builder("matmul");
    const x = b.input("x", { dtype: "f32", shape: form === "nn" ? [m, k] : [k, m] });
    const y = b.input("y", { dtype: "f32", shape: [k, n] });
    const graph = b.finish([{ name: "z", value: contract(b.emit, form === "nn" ? "ik,kj->ij" : "ki,kj->ij", x, y) }]);
    const [left, right] = [seeded(m * k, 1), seeded(k * n, 2)];
    return {
      graph, inputs: new Map([["x", left], ["y", right]]),
      truth: new Map([["z", (element: number) => {
        const [i, j, sum] = [Math.floor(element / n), element % n, new Sum()];
        for (let p = 0; p < k; p++) sum.add(left[form === "nn" ? i * k + p : p * m + i] as number, right[p * n + j] as number);
        return sum.truth();
      }]]),
    };
  });
}

/** xᵀx of `rows` rows: half of its products are mirror images. */
function factor(id: string, name: string, rows: number, side: number): Subject {
  return programSubject(`matmul/${id}`, name, "matmul", () => {
    const b = new Builder("factor");
    const x = b.input("x", { dtype: "f32", shape: [rows, side] });
    const values = seeded(rows * side, 3);
    return {
      graph: b.finish([{ name: "a", value: contract(b.emit, "ki,kj->ij", x, x) }]), inputs: new Map([["x", values]]),
      truth: new Map([["a", (element: number) => {
        const [i, j, sum] = [Math.floor(element / side), element % side, new Sum()];
        for (let p = 0; p < rows; p++) sum.add(values[p * side + i] as number, values[p * side + j] as number);
        return sum.truth();
      }]]),
    };
  });
}

export const MATMULS: readonly Subject[] = [
  ...[256, 512, 1024].map((n) => product(`${n}`, `matmul ${n}³`, "nn", n, n, n)),
  product("1x785x10", "matmul 1×785×10", "nn", 1, 785, 10),
  product("127x783x251", "matmul 127×783×251", "nn", 127, 783, 251),
  product("64x60000x64", "matmul 64×60000×64 (split K)", "tn", 64, 60_000, 64),
  factor("4608", "4608² = xᵀx, 128 rows", 128, 4608),
];
