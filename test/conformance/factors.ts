/** Factors, their spectra, damping and preconditioned gradients for the three Fishers and the three forms of damping. */
import type { Compiled } from "../../src/compile.js";
import type { HostArray } from "../../runtime/program.js";
import type { Trainer } from "../../runtime/trainer.js";
import type { FixtureLayer } from "./fixture.js";
import { batchFor, type Bench, build, type Fisher, KIND, readStack, readState, toMatrix, withTrainer } from "./program.js";
import { apart, eigenvalues, rebuilt, spectralError } from "./spectra.js";

type Inverse = "pi" | "eig" | "ekfac";

export async function factorFamilies(bench: Bench): Promise<void> {
  for (const kind of bench.fixture.fisher) {
    await factorsOf(bench, kind, "pi");
    if (bench.fixture.layers.some((l) => l.T > 1)) await reducedFactors(bench, kind);
    if (kind === "mc") continue;
    await factorsOf(bench, kind, "eig");
    await factorsOf(bench, kind, "ekfac");
  }
}

const layersOf = ({ fixture }: Bench, c: Compiled): FixtureLayer[] => c.artifact.layers.flatMap((own) => fixture.layers.filter((l) => l.key === own.name));

/** One step, after which the momentum (0) holds the preconditioned gradient. */
async function factorsOf(bench: Bench, kind: Fisher, inverse: Inverse): Promise<void> {
  const { device, fixture, untied, card } = bench;
  const c = build(fixture, untied, {
    inverse, fisher: { kind: KIND[kind], samples: 1 }, run: { lr: 1e-3, momentum: 0, klClip: 0, weightDecay: 0, damping: fixture.damping },
  });
  if (c.artifact.layers.length === 0) return;
  await withTrainer(device, c, async (t) => {
    await t.step(batchFor(fixture, kind)).loss;
    if (inverse === "pi") await readPi(bench, t, c, kind);
    for (const layer of layersOf(bench, c)) {
      const { key } = layer;
      if (inverse === "pi") {
        const [A, G] = await readState(t, [`kfac/${key}/A`, `kfac/${key}/G`]) as [HostArray, HostArray];
        card.compare(`A/${key}`, A);
        card.compare(`A.diag/${key}`, A);
        card.compare(`G.${kind}/${key}`, G);
      } else if (inverse === "eig") await eigenvaluesOf(bench, t, layer, kind);
      else await scalingsOf(bench, t, layer, kind);
      const [w, b] = await readState(t, [`opt/m/${key}`, ...(layer.bias ? [`opt/m/${layer.bias}`] : [])]);
      card.compare(`precond.${kind}.${inverse}/${key}`, toMatrix(layer, w as HostArray, b, c.artifact.params.find((p) => p.name === key)?.shape[0] ?? 1));
    }
  });
}

async function readPi({ card }: Bench, t: Trainer, c: Compiled, kind: Fisher): Promise<void> {
  const [pi] = await readState(t, ["pi"]) as [HostArray];
  let at = 0;
  for (const { name, groups } of c.artifact.layers) {
    card.compare(`damp.${kind}.pi/${name}`, pi.subarray(at, at + groups));
    at += groups;
  }
}

async function reducedFactors(bench: Bench, kind: Fisher): Promise<void> {
  const { device, fixture, untied, card } = bench;
  const c = build(fixture, untied, { sharing: { "*": "reduce" }, fisher: { kind: KIND[kind], samples: 1 }, run: { lr: 1e-3, damping: 1 } });
  await withTrainer(device, c, async (t) => {
    await t.step(batchFor(fixture, kind)).loss;
    for (const { key } of layersOf(bench, c)) {
      const [A, G] = await readState(t, [`kfac/${key}/A`, `kfac/${key}/G`]) as [HostArray, HostArray];
      card.compare(`A.reduce/${key}`, A);
      card.compare(`G.${kind}.reduce/${key}`, G);
    }
  });
}

/** The eigenbases in use diagonalise the factors: uᵀAu are the eigenvalues, and U diag(uᵀAu) Uᵀ is A again. */
async function eigenvaluesOf({ card }: Bench, t: Trainer, layer: FixtureLayer, kind: Fisher): Promise<void> {
  const { key, groups } = layer;
  for (const side of ["A", "G"] as const) {
    const name = `eigval.${kind}.${side}`;
    if (!card.has(`${name}/${key}`)) continue;
    const d = side === "A" ? layer.dA : layer.dG;
    const [factor] = await readState(t, [`kfac/${key}/${side}`]) as [HostArray];
    const U = await readStack(t, `kfac/${key}/U${side}`, groups, d, d);
    const values = eigenvalues(groups, d, Float64Array.from(factor), U);
    card.compare(`${name}/${key}`, values.sorted);
    card.compare(side === "A" ? `A/${key}` : `G.${kind}/${key}`, rebuilt(groups, d, values.inOrder, U), name);
  }
}

/** Scalings one by one where all eigenvalues are apart, else as U s Uᵀ: within a cluster bases may differ. */
async function scalingsOf({ card, fixture }: Bench, t: Trainer, layer: FixtureLayer, kind: Fisher): Promise<void> {
  const { key, groups, dA, dG } = layer;
  const name = `ekfac.${kind}.s/${key}`;
  const stored = (n: string): Float64Array => (fixture.tensors.get(n) as { data: Float64Array }).data;
  if (!card.has(name)) return;
  const s = await readStack(t, `kfac/${key}/S`, groups, dG, dA);
  if (apart(groups, stored(`eigval.${kind}.A/${key}`)) && apart(groups, stored(`eigval.${kind}.G/${key}`))) {
    card.compare(name, s);
    return;
  }
  const [UA, UG] = [await readStack(t, `kfac/${key}/UA`, groups, dA, dA), await readStack(t, `kfac/${key}/UG`, groups, dG, dG)];
  const want = { A: stored(`A/${key}`), G: stored(`G.${kind}/${key}`), s: stored(name) };
  card.judge(name, spectralError({ groups, dA, dG }, { UA, UG, s }, want));
}
