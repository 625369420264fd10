/** What `--explain` says about layers: a table, a line of history, and a warning where damping is all there is. */
import type { LayerDiagnosis } from "../../runtime/diagnose.js";
import { table } from "./table.js";

/**
 * A median eigenvalue below this share of λ changes a typical direction's step by less than a hundredth. That alone is no fault: spectra are
 * skewed (in healthy runs on MNIST the share is 1e-5 … 0.04), and the large eigenvalues still shape the step (cos 0.4 … 0.9). So the
 * step has to be the gradient's, too, but for a hundredth.
 */
export const DROWNED = { share: 0.01, cosine: 0.99 } as const;

const spell = (x: number | null): string => (x === null ? "–" : x === 0 ? "0" : Math.abs(x) >= 0.01 && Math.abs(x) < 1e4 ? String(Number(x.toPrecision(3))) : x.toExponential(1).replace("e+", "e"));

/** One row per layer; ∇ and P are norms, `rank` is the effective one out of all eigenvalues. */
export function explainTable(layers: readonly LayerDiagnosis[]): string {
  const head = ["layer", "damping", "λ", "π", "median", "largest", "median/λ", "rank", "cos", "|∇|", "|P|", "ν", "age"];
  return table(head, layers.map((d) => [
    d.layer, d.form, spell(d.lambda), spell(d.pi), spell(d.medianEigenvalue), spell(d.largestEigenvalue), spell(d.share), `${spell(d.effectiveRank)} of ${d.dimension}`,
    spell(d.cosine), spell(d.gradientNorm), spell(d.directionNorm), spell(d.nu), d.age === null ? "–" : String(d.age),
  ]));
}

/** Its step is the gradient's, scaled: what K-FAC knows of the layer makes no difference. */
export const drowned = ({ share, cosine }: LayerDiagnosis): boolean => share < DROWNED.share && cosine !== null && cosine > DROWNED.cosine;

/** A sentence for each layer that is drowned for the first time. `warned` remembers. */
export function drownedLayers(layers: readonly LayerDiagnosis[], warned: Set<string>): string[] {
  const news = layers.filter((d) => drowned(d) && !warned.has(d.layer));
  for (const d of news) warned.add(d.layer);
  return news.map((d) => `layer "${d.layer}": its curvature is drowned by damping (median eigenvalue ${spell(d.medianEigenvalue)}, λ ${spell(d.lambda)}): lower --damping`);
}
