/**
 * Registration: every use of every trainable parameter is either a site of exactly one layer, or the parameter is an orphan with a
 * reason. Nothing is guessed and nothing is left out in silence.
 *
 * Uses of one weight are sites of one layer (tied weights, repeated layers); parts of a weight that are used apart are layers apart.
 */
import { CompileError } from "../../ir/error.js";
import { exampleMarks, type Mark } from "../../ir/examples.js";
import type { Graph, Node, Value } from "../../ir/graph.js";
import { intsAttr } from "../../ir/op.js";
import { size } from "../../ir/type.js";
import type { Digits, MatrixDigits } from "../../runtime/artifact.js";
import { type DigitView, merged } from "./digits.js";
import type { Layer, LayerKindName, Orphan, Registration, Sharing, SideForm, Site } from "./layer.js";
import { addedReason } from "./reasons.js";
import { autoSharing } from "./sharing.js";
import { type BiasSite, type Candidate, type Scene, sceneOf, toCandidate, type Use, usesOf } from "./sites.js";

export interface RegisterOptions {
  /** Only these kinds become layers (`--register`). */
  readonly kinds?: readonly LayerKindName[];
  readonly override?: Readonly<Record<string, "dense" | "skip">>;
  /** Factor sides larger than this are diagonal. */
  readonly maxFactor?: number;
  /** Bytes that one factor may have. */
  readonly maxBytes?: number;
  /** By layer name; `*` for all. Default: the automatic rule. */
  readonly sharing?: Readonly<Record<string, Sharing | "auto">>;
  /** Values the loss is made from; default: the graph's results. */
  readonly roots?: readonly Value[];
  readonly marks?: ReadonlyMap<Value, Mark>;
}

export const MAX_FACTOR = 5120;

/** @param graph canonical forward graph. @throws CompileError "bad-option" for names that are no layer's. */
export function register(graph: Graph, options: RegisterOptions = {}): Registration {
  const marks = options.marks ?? exampleMarks(graph, { sharedSums: true });
  const scene = sceneOf(graph, marks, options.roots ?? graph.results.map((r) => r.value));
  const params = graph.params.filter((p) => p.trainable).map((p) => p.value);
  const uses = new Map(params.map((p) => [p, usesOf(scene, p)]));
  const reasons = new Map<Value, string>();
  const groups: Candidate[][] = [];
  for (const p of params) {
    const found = candidatesOf(scene, uses.get(p) as Use[], options);
    if (typeof found === "string") reasons.set(p, found);
    else groups.push(...found);
  }
  const biases = biasOwners(groups, uses);
  const layers = groups.map((sites) => toLayer(scene, sites, biases, options));
  const order = new Map(graph.nodes.map((n, k) => [n.results[0] as Value, k] as const));
  const place = (l: Layer): number => order.get((l.sites[0] as Site).output.value) ?? 0;
  layers.sort((a, b) => place(a) - place(b));
  const covered = new Set(layers.flatMap((l) => [l.weight.param, ...(l.bias ? [l.bias.param] : [])]));
  const orphans = params.filter((p) => !covered.has(p)).map((p): Orphan => ({ param: p.name, reason: biases.refused.get(p) ?? addedReason(scene, uses.get(p) as Use[], layers, reasons) ?? reasons.get(p) ?? "not used by the loss" }));
  checkNames(graph, { layers, orphans }, options);
  return { layers, orphans };
}

/** The sites of each layer that a parameter's uses make, or why they make none. */
function candidatesOf(scene: Scene, uses: readonly Use[], options: RegisterOptions): Candidate[][] | string {
  const first = uses[0];
  if (!first) return "not used by the loss";
  const rule = options.override?.[first.param.name];
  if (rule === "skip") return "skipped by --layer";
  const made: Candidate[] = [];
  for (const use of uses) {
    const c = toCandidate(scene, use);
    if (typeof c === "string") return uses.length > 1 ? `${c} (one of its ${uses.length} uses)` : c;
    const kind = rule === "dense" && c.how === "contract" ? "dense" : c.kind;
    if (rule !== "dense" && options.kinds && !options.kinds.includes(kind)) return `kind "${kind}" is not among --register`;
    made.push({ ...c, kind });
  }
  const regions = new Map<string, Candidate[]>();
  for (const c of made) regions.set(regionKey(c.region), [...(regions.get(regionKey(c.region)) ?? []), c]);
  const groups = [...regions.values()];
  for (const sites of groups) {
    const [a, b] = [sites[0] as Candidate, sites.find((c) => c.how !== sites[0]?.how || !orientation(sites[0] as Candidate, c))];
    if (b) return `its uses in ${a.use.node.origin ?? a.use.node.op} and ${b.use.node.origin ?? b.use.node.op} take it for different matrices`;
  }
  const overlap = groups.length > 1 && overlapping(groups.map((g) => (g[0] as Candidate).region), size(first.param.type.shape));
  return overlap ? "its uses read parts of it that overlap" : groups;
}

const regionKey = (r: DigitView): string => `${r.offset} ${JSON.stringify(merged(r.axes.flat().sort((a, b) => b.stride - a.stride)))}`;

const roleDigits = (c: Candidate): { groups: Digits; out: Digits; in: Digits } => {
  const of = (axes: readonly number[]) => merged(axes.flatMap((k) => c.region.axes[k] ?? []));
  return { groups: of(c.weight.groups), out: of(c.weight.out), in: of(c.weight.in) };
};

/** How a second use lies to the first: "same", "transposed", or undefined. */
function orientation(first: Candidate, other: Candidate): "same" | "transposed" | undefined {
  const [a, b] = [roleDigits(first), roleDigits(other)];
  const key = (...lists: Digits[]): string => JSON.stringify(lists);
  if (key(a.groups, a.out, a.in) === key(b.groups, b.out, b.in)) return "same";
  return key(a.groups, a.out, a.in) === key(b.groups, b.in, b.out) ? "transposed" : undefined;
}

/** Whether any element of a parameter is in two regions. */
function overlapping(regions: readonly DigitView[], elements: number): boolean {
  const seen = new Uint8Array(elements);
  for (const r of regions) {
    let places = [r.offset];
    for (const d of r.axes.flat()) places = places.flatMap((p) => Array.from({ length: d.count }, (_, k) => p + k * d.stride));
    for (const p of places) if (seen[p]) return true;
    for (const p of places) seen[p] = 1;
  }
  return false;
}

interface BiasOwners {
  /** Layer (its sites) → its bias, and which of its sites add it. */
  readonly of: ReadonlyMap<readonly Candidate[], { readonly bias: BiasSite; readonly sites: ReadonlySet<Candidate> }>;
  readonly refused: ReadonlyMap<Value, string>;
}

/** A bias belongs to a layer if each of its uses is an addition to a site of one layer, all in the same way. */
function biasOwners(groups: readonly (readonly Candidate[])[], uses: ReadonlyMap<Value, readonly Use[]>): BiasOwners {
  const claims = new Map<Value, { sites: readonly Candidate[]; site: Candidate; bias: BiasSite }[]>();
  for (const sites of groups)
    for (const site of sites) if (site.bias) claims.set(site.bias.param, [...(claims.get(site.bias.param) ?? []), { sites, site, bias: site.bias }]);
  const of = new Map<readonly Candidate[], { bias: BiasSite; sites: Set<Candidate> }>();
  const refused = new Map<Value, string>();
  for (const [param, list] of claims) {
    const at = (c: Candidate): string => c.use.node.origin ?? c.use.node.op;
    const stray = (uses.get(param) ?? []).find((u) => !list.some((c) => c.bias.use === u.node));
    const turned = list.find((c) => orientation(c.sites[0] as Candidate, c.site) !== "same");
    const byLayer = new Map(list.map((c) => [c.sites, list.filter((d) => d.sites === c.sites)] as const));
    const key = (c: { bias: BiasSite }): string => JSON.stringify(c.bias.digits);
    const mixed = [...byLayer.values()].find((mine) => mine.some((c) => key(c) !== key(mine[0] as typeof c)));
    const shared = list.find((c) => list.some((d) => d.sites !== c.sites && key(d) === key(c)));
    const second = list.find((c) => of.has(c.sites));
    if (stray) refused.set(param, `it is also used in ${stray.node.origin ?? stray.node.op}`);
    else if (turned) refused.set(param, `it is added where its layer's weight is used transposed, in ${at(turned.site)}`);
    else if (mixed) refused.set(param, `it is added in different ways in ${at(mixed[0]?.site as Candidate)}`);
    else if (shared) refused.set(param, `it is added to several layers, in ${list.map((c) => at(c.site)).join(", ")}: the file has one tensor for all of them`);
    else if (second) refused.set(param, `its layer has another bias at another use, in ${at(second.site)}`);
    else for (const [sites, mine] of byLayer) of.set(sites, { bias: (mine[0] as (typeof mine)[0]).bias, sites: new Set(mine.map((c) => c.site)) });
  }
  return { of, refused };
}

function toLayer(scene: Scene, candidates: readonly Candidate[], biases: BiasOwners, options: RegisterOptions): Layer {
  const first = candidates[0] as Candidate;
  const own = biases.of.get(candidates);
  const shape = first.weight.view.type.shape;
  const extent = (axes: readonly number[]): number => size(axes.map((k) => shape[k] as number));
  const [groups, dG, dA] = [extent(first.weight.groups), extent(first.weight.out), extent(first.weight.in) + (own ? 1 : 0)];
  const name = layerName(first);
  const block = first.how === "scale";
  const limit = options.maxFactor ?? MAX_FACTOR;
  const side = (d: number): SideForm => (d > limit || groups * d * d * 4 > (options.maxBytes ?? Number.POSITIVE_INFINITY) ? "diagonal" : "full");
  const wanted = options.sharing?.[name] ?? options.sharing?.[first.use.param.name] ?? options.sharing?.["*"] ?? "auto";
  const many = candidates.some((c) => c.T > 1);
  const sharing = block || !many ? "expand" : wanted === "auto" ? autoSharing(scene, candidates) : wanted;
  const digits: MatrixDigits = { offset: first.region.offset, ...roleDigits(first) };
  return {
    name, kind: first.kind, form: block ? "block" : "kronecker", sharing,
    sides: { A: first.kind === "embed" ? "diagonal" : side(dA), G: side(dG) },
    weight: first.weight, bias: own?.bias.view,
    sites: candidates.map((c): Site => ({
      node: c.use.node.origin ?? c.use.node.op, T: c.T, transposed: orientation(first, c) === "transposed",
      ones: own?.sites.has(c) ?? false, input: c.input, output: c.output,
    })),
    groups, T: candidates.reduce((n, c) => n + c.T, 0), dA, dG,
    matrix: { weight: digits, bias: own ? own.bias.digits : null },
  };
}

/** The parameter's name; behind it, the range that is used where that is not all of it. */
function layerName(c: Candidate): string {
  const { param, chain } = c.use;
  const whole = c.region.axes.flat().reduce((n, d) => n * d.count, 1) === size(param.type.shape);
  if (whole) return param.name;
  const cut = chain.find((n: Node) => n.op === "slice");
  const from = cut?.inputs[0]?.type.shape ?? [];
  if (!cut) return `${param.name}[${c.region.offset}]`;
  const [start, count] = [intsAttr(cut.attrs, "start"), intsAttr(cut.attrs, "size")];
  const ranges = from.map((n, k) => (count[k] === n ? ":" : `${start[k]}:${(start[k] as number) + (count[k] as number)}`));
  while (ranges[ranges.length - 1] === ":") ranges.pop();
  return `${param.name}[${ranges.join(",")}]`;
}

/** Options name layers of the model, and `dense` must have made a layer. */
function checkNames(graph: Graph, { layers, orphans }: Registration, options: RegisterOptions): void {
  const trainable = graph.params.filter((p) => p.trainable).map((p) => p.value.name);
  const known = (flag: string, name: string) => {
    if (!trainable.includes(name) && !layers.some((l) => l.name === name))
      throw new CompileError("bad-option", `${flag}: the model has no trainable parameter "${name}"`, flag.split(" ")[0], `its parameters are ${trainable.join(", ")}`);
  };
  for (const [name, rule] of Object.entries(options.override ?? {})) {
    known(`--layer ${name}=${rule}`, name);
    if (rule === "dense" && !layers.some((l) => l.weight.param.name === name && l.kind === "dense"))
      throw new CompileError("bad-option", `--layer ${name}=dense: "${name}" cannot be a dense layer: ${orphans.find((o) => o.param === name)?.reason ?? "it is a bias or a scale"}`, "--layer", "leave the override out");
  }
  for (const name of Object.keys(options.sharing ?? {})) if (name !== "*") known(`--sharing ${name}=…`, name);
}

/** @throws CompileError "orphan-parameter" if there are any. */
export function requireNoOrphans(orphans: readonly Orphan[]): void {
  const first = orphans[0];
  if (!first) return;
  throw new CompileError("orphan-parameter", `${orphans.length} trainable parameter${orphans.length > 1 ? "s belong" : " belongs"} to no layer: ${orphans.map((o) => o.param).slice(0, 5).join(", ")}`,
    `parameter "${first.param}": ${first.reason}`, "leave out --strict to train them with the plain update, or freeze them");
}
