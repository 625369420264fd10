/** What every run of the example has in common, and what was tried to find the settings. */
export const OPTIMIZERS = ["kfac", "sgd"] as const;
export type OptimizerName = (typeof OPTIMIZERS)[number];

export const BATCH = 64;
export const EPOCHS = 5;
/** Images of an epoch and of a look at the test set: the first ones. On a software adapter the whole set would take hours. */
export const TRAIN_IMAGES = 10_000;
export const TEST_IMAGES = 2_000;
/** Training images on which the loss in evaluation mode is taken after each epoch (after the last: all). */
export const LOOKED_AT = 2_000;
/** Steps of which the curves show the mean loss. */
export const WINDOW = 20;

export interface Settings {
  readonly lr: number;
  readonly momentum: number;
  readonly weightDecay: number;
  /** Steps in which the rate rises before it falls along the cosine. */
  readonly warmup: number;
  /** K-FAC's λ and norm constraint, and how often its statistics and inverses are renewed, in steps. */
  readonly damping?: number;
  readonly klClip?: number;
  readonly factorPeriod?: number;
  readonly inversePeriod?: number;
}

export const SETTINGS: Record<OptimizerName, Settings> = {
  kfac: { lr: 0.05, momentum: 0.9, weightDecay: 1e-4, warmup: 0, damping: 0.03, klClip: 0.001, factorPeriod: 10, inversePeriod: 10 },
  sgd: { lr: 0.05, momentum: 0.9, weightDecay: 1e-4, warmup: 0 },
};
