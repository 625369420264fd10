/** Twenty steps: losses before each, weights after all. Only dense and convolution layers take part; the rest keeps its raw gradient. */
import { type Bench, batchOf, build, KIND, withTrainer } from "./program.js";

const OPTIMIZERS = {
  sgd: { optimizer: "sgd" },
  kfac_pi: { optimizer: "kfac", inverse: "pi" },
  kfac_eig: { optimizer: "kfac", inverse: "eig" },
} as const;

export async function trajectories({ device, fixture, model, card }: Bench): Promise<void> {
  for (const [name, chosen] of Object.entries(OPTIMIZERS)) {
    const hp = fixture.trajectories[name];
    if (!hp) continue;
    const c = build(fixture, model, {
      ...chosen, register: ["dense", "conv"], fisher: { kind: KIND[hp.fisher ?? "emp"], samples: 1 },
      run: { lr: hp.lr, momentum: hp.momentum, weightDecay: hp.weight_decay, emaDecay: hp.ema ?? 0.95, damping: hp.damping ?? 0.01, klClip: hp.kl_clip ?? 0 },
    });
    await withTrainer(device, c, async (t) => {
      const made = Array.from({ length: 20 }, (_, k) => t.step(batchOf(fixture, "traj.", k % 4)).loss);
      card.compare(`traj.${name}.loss`, await Promise.all(made));
      for (const [p, w] of Object.entries(await t.weights())) card.compare(`traj.${name}.final/${p}`, w.data);
    });
  }
}
