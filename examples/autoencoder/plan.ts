/** What every run of the example, and of its search, has in common. */
export const OPTIMIZERS = ["kfac", "ekfac", "sgd"] as const;
export type OptimizerName = (typeof OPTIMIZERS)[number];

export const BATCH = 256;
/** Length of a run in steps: at this batch a step of SGD takes about a third of the time of one of K-FAC, so it gets three times as many. */
export const STEPS: Record<OptimizerName, number> = { kfac: 300, ekfac: 300, sgd: 900 };
/** Of a trial of the search. */
export const SEARCH_STEPS: Record<OptimizerName, number> = { kfac: 50, ekfac: 50, sgd: 100 };
/** How often K-FAC and EKFAC renew their statistics and what is made of them, in steps. */
export const PERIODS = { factorPeriod: 5, inversePeriod: 20 } as const;
/** Steps between two looks at the held-back digits. */
export const JUDGE_EVERY = 25;
