/**
 * A WebGPU device as the runtime uses it: its limits in the compiler's words, and an orderly end. Browser-safe; Node finds
 * its adapters in `adapter.node.ts`.
 */
import { RuntimeFault } from "./artifact.js";

/** The ways to a device that the command line tries, in this order. */
export const ADAPTER_KINDS = ["gpu", "llvmpipe", "swiftshader"] as const;
export type AdapterKind = (typeof ADAPTER_KINDS)[number];

/** `null` compiles but does not compute; `browser` came from `navigator.gpu`; `given` was made by the caller. */
export type DeviceKind = AdapterKind | "null" | "browser" | "given";

/** The limits that schedules depend on; the same fields as the compiler's `Limits`. */
export interface DeviceLimits {
  /** Invocations per workgroup. */
  readonly invocations: number;
  /** Storage buffers one shader may bind. */
  readonly storageBuffers: number;
  /** Bytes of workgroup memory. */
  readonly workgroupBytes: number;
  readonly workgroupsPerDimension: number;
  /** Bytes one storage binding can cover. */
  readonly bindingBytes: number;
}

export interface OpenDevice {
  readonly kind: DeviceKind;
  /** Vendor, architecture and model as far as the adapter tells them. */
  readonly name: string;
  readonly device: GPUDevice;
  /** Features the device was opened with, sorted. */
  readonly features: readonly string[];
  readonly limits: DeviceLimits;
  /** Why earlier ways to a device were not taken, one sentence each. */
  readonly notes: readonly string[];
  /** Settles when the device is gone; `reason` is "destroyed" after `close`. */
  readonly lost: Promise<GPUDeviceLostInfo>;
  /** True once the device was closed or lost: WebGPU accepts work after that without an error and does nothing. */
  isGone(): boolean;
  /** Waits for the submitted work, then destroys the device. Harmless when called again. */
  close(): Promise<void>;
}

/** `GPUBufferUsage` and `GPUMapMode` as numbers: Node has no such globals. */
export const USAGE = { mapRead: 1, mapWrite: 2, copySrc: 4, copyDst: 8, uniform: 64, storage: 128, queryResolve: 512 } as const;
export const MAP_READ = 1;
/** `GPUShaderStage.COMPUTE`. */
export const STAGE_COMPUTE = 4;

/** all: what the adapter has of what kernels can use. portable: nothing that changes how kernels compute. */
export const FEATURE_SETS = ["all", "portable"] as const;
export type FeatureSet = (typeof FEATURE_SETS)[number];

/** Features that only tell how long work took. */
const HARMLESS_FEATURES: readonly string[] = ["timestamp-query"];

/** Features kernels or profiles can use; each is asked for where the adapter has it. */
const WANTED_FEATURES: readonly string[] = ["timestamp-query", "subgroups", "shader-f16", "chromium-experimental-subgroup-matrix"];

/** Limits raised from WebGPU's small defaults to all the adapter offers. */
const WANTED_LIMITS = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxBindingsPerBindGroup",
  "maxUniformBufferBindingSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupSizeY",
  "maxComputeWorkgroupSizeZ",
  "maxComputeWorkgroupStorageSize",
  "maxComputeWorkgroupsPerDimension",
] as const satisfies readonly (keyof GPUSupportedLimits)[];

export const limitsOf = (limits: GPUSupportedLimits): DeviceLimits => ({
  invocations: limits.maxComputeInvocationsPerWorkgroup,
  storageBuffers: limits.maxStorageBuffersPerShaderStage,
  workgroupBytes: limits.maxComputeWorkgroupStorageSize,
  workgroupsPerDimension: limits.maxComputeWorkgroupsPerDimension,
  bindingBytes: Math.min(limits.maxStorageBufferBindingSize, limits.maxBufferSize),
});

/** `vendor architecture device description`, without the empty parts and repetitions. */
export const nameOf = (info: GPUAdapterInfo): string => {
  const parts = [info.vendor, info.architecture, info.device, info.description].filter((part) => part !== "");
  return [...new Set(parts)].join(" ") || "unnamed adapter";
};

/** Those of `WANTED_FEATURES` that an adapter or device has, sorted. */
export const usefulFeatures = (features: GPUSupportedFeatures): readonly string[] => WANTED_FEATURES.filter((f) => features.has(f)).sort();

/**
 * Opens a device with every useful feature and limit of the adapter; `wanted` may leave features out. The adapter cannot be used again.
 * `onClose` runs once the device has been destroyed.
 */
export const openFrom = async (
  adapter: GPUAdapter,
  kind: DeviceKind,
  notes: readonly string[],
  onClose: () => void = () => {},
  wanted: FeatureSet = "all",
): Promise<OpenDevice> => {
  const name = nameOf(adapter.info);
  const requiredLimits: Record<string, number> = {};
  for (const key of WANTED_LIMITS) requiredLimits[key] = adapter.limits[key];
  const requiredFeatures = usefulFeatures(adapter.features).filter((f) => wanted === "all" || HARMLESS_FEATURES.includes(f)) as GPUFeatureName[];
  const device = await adapter.requestDevice({ label: `kfacc on ${name}`, requiredFeatures, requiredLimits });
  return wrap(device, kind, name, notes, () => {
    device.destroy();
    onClose();
  });
};

/** A device that the caller made and will destroy: `close` only waits for its work. */
export const adopt = (device: GPUDevice): OpenDevice =>
  wrap(device, "given", device.adapterInfo ? nameOf(device.adapterInfo) : "given device", [], () => {});

/**
 * The browser's device.
 *
 * @throws RuntimeFault "no-adapter" where the browser has no WebGPU or no adapter.
 */
export const openBrowserDevice = async (): Promise<OpenDevice> => {
  const gpu = (globalThis as { navigator?: { gpu?: GPU } }).navigator?.gpu;
  const adapter = await gpu?.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) {
    throw new RuntimeFault(
      "no-adapter",
      gpu ? "the browser found no WebGPU adapter" : "this browser has no WebGPU",
      "navigator.gpu",
      "use a browser with WebGPU switched on, over https or from localhost",
    );
  }
  return openFrom(adapter, "browser", []);
};

const wrap = (device: GPUDevice, kind: DeviceKind, name: string, notes: readonly string[], end: () => void): OpenDevice => {
  let gone = false;
  let closing: Promise<void> | undefined;
  void device.lost.then(() => {
    gone = true;
  });
  const close = async (): Promise<void> => {
    // Destroying a device, or leaving the process, with work pending crashes or hangs some drivers. A lost device
    // rejects here: then nothing is pending.
    await device.queue.onSubmittedWorkDone().catch(() => {});
    gone = true;
    end();
  };
  return {
    kind,
    name,
    device,
    features: usefulFeatures(device.features),
    limits: limitsOf(device.limits),
    notes,
    lost: device.lost,
    isGone: () => gone,
    close: () => {
      closing ??= close();
      return closing;
    },
  };
};
