/** The unit of speed: C[512, 512] = A · B, one plain 4×4 register tile per thread, vec4 loads, no workgroup memory. */
import type { Buffer, Lowered } from "../../codegen/kernel.js";

const matrix = (name: string): Buffer => ({ name, dtype: "f32", elements: 512 * 512 });
const [a, b, c] = [matrix("a"), matrix("b"), matrix("c")];
const four = (line: (i: number) => string): string => [0, 1, 2, 3].map(line).join("\n  ");

const wgsl = `@group(0) @binding(0) var<storage, read> a: array<vec4f>;
@group(0) @binding(1) var<storage, read> b: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> c: array<vec4f>;
const N4 = 128u;
@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let col = id.x;
  let row = id.y * 4u;
  ${four((i) => `var s${i} = vec4f();`)}
  for (var k = 0u; k < N4; k++) {
  ${four((i) => `  let b${i} = b[(k * 4u + ${i}u) * N4 + col];`)}
  ${four((i) => `  let a${i} = a[(row + ${i}u) * N4 + k];`)}
  ${four((i) => `  s${i} = fma(vec4f(a${i}.w), b3, fma(vec4f(a${i}.z), b2, fma(vec4f(a${i}.y), b1, fma(vec4f(a${i}.x), b0, s${i}))));`)}
  }
  ${four((i) => `c[(row + ${i}u) * N4 + col] = s${i};`)}
}
`;

export const YARDSTICK: Lowered = {
  kernels: [{
    name: "yardstick", wgsl, workgroups: [16, 16, 1],
    bindings: [{ kind: "buffer", buffer: a, access: "read" }, { kind: "buffer", buffer: b, access: "read" }, { kind: "buffer", buffer: c, access: "read_write" }],
  }],
  scratch: [],
};
