/** Fisher-vector products over all parameters, and the Fisher's diagonal, from the trainer's own entries. */
import type { Trainer } from "../../runtime/trainer.js";
import { batchOf, type Bench, build, withTrainer } from "./program.js";

export async function curvatureFamilies({ device, fixture, model, card }: Bench): Promise<void> {
  const asked = (prefix: string): boolean => [...fixture.tensors.keys()].some((name) => name.startsWith(`${prefix}/`));
  const diagonal = asked("diagF.exact") || asked("diagF.emp");
  const c = build(fixture, model, { optimizer: "sgd", fisherDiagonal: diagonal });
  const v: Record<string, { shape: readonly number[]; data: Float64Array }> = {};
  for (const { name, shape } of c.artifact.params) {
    const given = fixture.tensors.get(`fvp.v/${name}`);
    if (given) v[name] = { shape, data: given.data };
  }
  const batch = batchOf(fixture);
  await withTrainer(device, c, async (t: Trainer) => {
    for (const [family, kind] of [["fvp.exact", "exact"], ["fvp.ggn_batch", "exact"], ["fvp.emp", "empirical"]] as const)
      if (asked(family)) for (const [name, made] of Object.entries(await t.fisher.multiply(v, batch, { kind }))) card.compare(`${family}/${name}`, made.data);
    for (const [family, kind] of [["diagF.exact", "exact"], ["diagF.emp", "empirical"]] as const)
      if (asked(family)) for (const [name, made] of Object.entries(await t.fisher.diagonal(batch, { kind }))) card.compare(`${family}/${name}`, made.data);
  });
}
