/** Text tables, and the ones that several commands print. */
import type { LayerInfo, OrphanInfo } from "../../runtime/artifact.js";
import type { Param } from "../../ir/graph.js";

/** Columns as wide as their widest cell; numbers to the right. */
export function table(head: readonly string[], rows: readonly (readonly (string | number)[])[]): string {
  const all = [head, ...rows.map((r) => r.map(String))];
  const widths = head.map((_, c) => Math.max(...all.map((r) => (r[c] ?? "").length)));
  const right = head.map((_, c) => rows.length > 0 && rows.every((r) => typeof r[c] === "number"));
  return all.map((r) => r.map((cell, c) => (right[c] ? cell.padStart(widths[c] as number) : cell.padEnd(widths[c] as number))).join("  ").trimEnd()).join("\n");
}

/** `[N, 784]`: a batch that nobody fixed prints as N. */
export const spellExamples = (shape: readonly number[], examples: number | undefined, batch: number | undefined): string =>
  `[${shape.map((n, k) => (k === examples ? (batch ?? "N") : n)).join(", ")}]`;

export function layerTable(layers: readonly LayerInfo[], orphans: readonly OrphanInfo[], params: readonly Pick<Param["value"], "name" | "type">[]): string {
  const shape = (name: string): string => `[${params.find((p) => p.name === name)?.type.shape.join(", ") ?? "?"}]`;
  const parts = [];
  if (layers.length > 0)
    parts.push(table(["layer", "kind", "weight", "bias", "T", "A", "G", "node"],
      layers.map((l) => [l.name, l.kind, shape(l.params.weight), l.params.bias ?? "–", l.T, ...factorCells(l), spellSites(l)])));
  if (orphans.length > 0)
    parts.push(`without a layer:\n${table(["parameter", "shape", "update", "why"], orphans.map((o) => [o.param, shape(o.param), o.update, o.reason]))}`);
  if (parts.length === 0) parts.push("no trainable parameter");
  return parts.join("\n\n");
}

/** `26×26`; `diagonal 30522`; with several groups `16 of 9×9`; a block layer has one small block per group. */
function factorCells(l: LayerInfo): [string, string] {
  const groups = l.groups > 1 ? `${l.groups} of ` : "";
  if (l.form === "block") return [`block ${groups}${l.dA * l.dG}×${l.dA * l.dG}`, "–"];
  const side = (d: number, form: string): string => `${groups}${form === "diagonal" ? `diagonal ${d}` : `${d}×${d}`}`;
  return [side(l.dA, l.sides.A), side(l.dG, l.sides.G)];
}

const spellSites = (l: LayerInfo): string =>
  `${l.siteDetails.map((d) => `${d.node}${d.transposed ? " transposed" : ""}`).join(", ")}${l.sharing === "reduce" ? " (reduce)" : ""}`;

export const layersJson = (layers: readonly LayerInfo[], orphans: readonly OrphanInfo[]): object => ({ layers, orphans });
