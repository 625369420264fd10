/** Length of the demo: steps of 64 digits, the same for both optimisers. About four minutes on two idle cores without a GPU. */
export const STEPS = 600;
/** Accuracies whose first crossing is reported. */
export const THRESHOLDS = [0.95, 0.97] as const;
