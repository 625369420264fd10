/** Limits that generated kernels respect, and the ones that keep software adapters truthful. */
import type { Limits } from "./kernel.js";

/** What every WebGPU device offers when asked (webgpu core defaults). */
export const PORTABLE: Limits = {
  invocations: 256,
  storageBuffers: 8,
  workgroupBytes: 16384,
  workgroupsPerDimension: 65535,
  bindingBytes: 128 * 1024 * 1024,
};

/**
 * llvmpipe silently ends an invocation after 65,535 loop iterations summed over all its loops. Every kernel knows its
 * total trip count and stays below this.
 */
export const MAX_TRIPS = 50_000;

/** Beyond this many accumulators compile time explodes on llvmpipe (1–2 s at 256). */
export const MAX_ACCUMULATORS = 128;
/** A GPU hides its memory's latency with other threads, and has registers for few with so many accumulators. */
const MAX_GPU_ACCUMULATORS = 64;
/** Accumulators of one invocation. */
export const maxAccumulators = (limits: Limits): number => (limits.target === "gpu" ? MAX_GPU_ACCUMULATORS : MAX_ACCUMULATORS);

/** Fewest invocations per workgroup: a GPU runs 32 or 64 in step, a software adapter would rather have a workgroup for every core. */
export const leastWorkgroup = (limits: Limits): number => (limits.target === "gpu" ? 32 : 8);

/** Straight-line multiply-adds in one kernel body. */
export const MAX_TERMS = 4000;
/** Characters of WGSL in one kernel. */
export const MAX_SOURCE = 60_000;
