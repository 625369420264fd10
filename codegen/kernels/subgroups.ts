/**
 * Sums and maxima over a workgroup on devices with subgroups.
 *
 * The language says nothing of which threads make a subgroup, of how many there are, or of their order. So a subgroup goes by the number of
 * the thread that it elects, and subgroups are taken in the order of these numbers: right for any grouping, and where a device groups the
 * threads of equal dispatches equally, the same to the bit.
 */
import type { Body } from "../body.js";
import { isNan } from "../wgsl.js";

/**
 * Emits what makes `acc` of thread 0 the sum or maximum of all threads' `acc`, and ends the other threads. Needs `local`, the thread's number
 * in its workgroup, and uniform control flow.
 *
 * @param threads of the workgroup
 * @returns the module's variables: one slot for each possible subgroup, and a bit for each slot that is taken.
 */
export function combineSubgroups(body: Body, combine: "sum" | "max", dtype: "f32" | "i32" | "u32", threads: number): string[] {
  // a maximum of floats may lose NaN: whole numbers in the order of the floats, NaN above all, do not
  const keys = combine === "max" && dtype === "f32";
  const type = keys ? "u32" : dtype;
  const words = Math.ceil(threads / 32);
  if (keys) {
    body.push("let acc_bits = bitcast<u32>(acc);");
    body.push(`let acc_key = select(select(acc_bits | 0x80000000u, ~acc_bits, acc_bits >= 0x80000000u), 0xffffffffu, ${isNan("f32", "acc")});`);
  }
  const own = keys ? "acc_key" : "acc";
  body.push(`let joined: ${type} = ${combine === "sum" ? "subgroupAdd" : "subgroupMax"}(${own});`);
  body.push("if (subgroupElect()) {");
  body.push("  shares[local] = joined;");
  body.push("  atomicOr(&elected[local / 32u], 1u << (local % 32u));");
  body.push("}");
  body.push("workgroupBarrier();");
  body.push("if (local != 0u) { return; }");
  // a maximum may begin with what is among the others, too
  body.push(combine === "sum" ? `var whole: ${type} = 0;` : `var whole: ${type} = joined;`);
  body.push(`for (var word = 0u; word < ${words}u; word++) {`);
  body.push("  for (var left = atomicLoad(&elected[word]); left != 0u; left &= left - 1u) {");
  const share = "shares[word * 32u + firstTrailingBit(left)]";
  body.push(combine === "sum" ? `    whole += ${share};` : `    whole = max(whole, ${share});`);
  body.push("  }");
  body.push("}");
  body.push(keys ? "acc = bitcast<f32>(select(~whole, whole & 0x7fffffffu, whole >= 0x80000000u));" : "acc = whole;");
  return [`var<workgroup> shares: array<${type}, ${threads}>;`, `var<workgroup> elected: array<atomic<u32>, ${words}>;`];
}
