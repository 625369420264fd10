/**
 * Finds a WebGPU device in Node: a real GPU, else Mesa's llvmpipe through OpenGL ES, else SwiftShader as npm ships it.
 * Every script, test, bench and generated module gets its device here. The only file that loads `webgpu` (Dawn).
 */
import os from "node:os";
import { join } from "node:path";
import { RuntimeFault } from "./artifact.js";
import {
  ADAPTER_KINDS,
  type AdapterKind,
  type DeviceLimits,
  FEATURE_SETS,
  type FeatureSet,
  limitsOf,
  nameOf,
  type OpenDevice,
  openFrom,
  usefulFeatures,
} from "./device.js";
import { setMemory } from "./memory.js";
import { findSwiftShader } from "./swiftshader.node.js";

export type { AdapterKind, FeatureSet, OpenDevice } from "./device.js";

/** What `kfacc devices` prints for one way to a device. */
export interface AdapterReport {
  readonly kind: AdapterKind;
  /** Why this way leads to no device; undefined if it leads to one. */
  readonly refusal: string | undefined;
  readonly name: string | undefined;
  readonly features: readonly string[];
  readonly limits: DeviceLimits | undefined;
  /** The one `openDevice()` would take. */
  readonly used: boolean;
}

/** An adapter and the `GPU` object it came from, which must stay referenced while in use. */
interface Found {
  readonly gpu: GPU;
  readonly adapter: GPUAdapter;
}

const HINT = [
  "one of: a GPU with its Vulkan, Metal or D3D12 driver",
  "Mesa's software OpenGL (Debian: apt-get install libegl-dev libgl1-mesa-dri)",
  "SwiftShader from npm (Linux x64: npm install @sparticuz/chromium)",
].join("; ");

/** Names of adapters that compute on the CPU: they are not what "gpu" means, whatever they say of themselves. */
const SOFTWARE = /llvmpipe|lavapipe|softpipe|swiftshader|basic render/i;

/** `GPU` objects of open devices. Dawn frees what hangs on one when it is collected, the device included. */
const inUse = new Set<GPU>();

/**
 * Opens the first device that works: `options.adapter`, else the KFACC_ADAPTER variable, forces one way. `options.features`, else the
 * KFACC_FEATURES variable: "portable" leaves out features that kernels have other texts for (subgroups), default "all".
 *
 * @throws RuntimeFault "no-adapter" naming the three ways; "bad-option" if KFACC_ADAPTER is none of them, or KFACC_FEATURES neither set.
 */
export const openDevice = (options: { readonly adapter?: AdapterKind; readonly features?: FeatureSet } = {}): Promise<OpenDevice> =>
  inTurn(async () => {
    const forced = options.adapter ?? environment().forced;
    const features = options.features ?? environment().features;
    // without the package no way leads anywhere: that must be the error, not what one of the ways lacks
    await import("webgpu").catch((reason: NodeJS.ErrnoException) => {
      if (reason.code === "ERR_MODULE_NOT_FOUND") throw new RuntimeFault("no-adapter", `no usable WebGPU adapter (${reason.message})`, forced && `adapter "${forced}"`, HINT);
    });
    const notes: string[] = [];
    for (const kind of forced ? [forced] : ADAPTER_KINDS) {
      const opened = await attempt(kind, (found) => open(found, kind, [...notes], features));
      if (typeof opened !== "string") return opened;
      notes.push(`${kind}: ${opened}`);
    }
    throw new RuntimeFault("no-adapter", `no usable WebGPU adapter (${notes.join("; ")})`, forced && `adapter "${forced}"`, HINT);
  });

/** The way that openDevice() would take and its adapter's name, without opening a device; undefined where no way leads to one. */
export const findAdapter = (): Promise<{ readonly kind: AdapterKind; readonly name: string } | undefined> =>
  inTurn(async () => {
    const forced = environment().forced;
    for (const kind of forced ? [forced] : ADAPTER_KINDS) {
      const found = await attempt(kind, async ({ adapter }) => ({ kind, name: nameOf(adapter.info) }));
      if (typeof found !== "string") return found;
    }
    return undefined;
  });

/** Tries every way, forced or not, without opening a device. */
export const listAdapters = (): Promise<readonly AdapterReport[]> =>
  inTurn(async () => {
    const forced = environment().forced;
    const reports: AdapterReport[] = [];
    for (const kind of ADAPTER_KINDS) {
      const found = await attempt(kind, async ({ adapter }) => ({
        name: nameOf(adapter.info),
        features: usefulFeatures(adapter.features),
        limits: limitsOf(adapter.limits),
      }));
      const nothing = { name: undefined, features: [], limits: undefined };
      const used = typeof found !== "string" && (forced ? kind === forced : !reports.some((r) => r.used));
      reports.push({
        kind,
        refusal: typeof found === "string" ? found : undefined,
        ...(typeof found === "string" ? nothing : found),
        used,
      });
    }
    return reports;
  });

/** Dawn's null backend: compiles WGSL and checks bindings, computes nothing, needs no driver. */
export const nullDevice = (): Promise<OpenDevice> =>
  inTurn(async () => {
    const found = await request(["backend=null"], {});
    if (!found) throw new RuntimeFault("no-adapter", "Dawn has no null backend on this platform");
    return open(found, "null", []);
  });

/** Each way to an adapter, or one sentence on why it leads nowhere. */
const WAYS: { readonly [K in AdapterKind]: () => Promise<Found | string> } = {
  gpu: async () => {
    // Dawn prints warnings of its own when there is no Vulkan loader: look before asking.
    if (process.platform === "linux" && !loads("libvulkan.so.1")) return "no Vulkan loader (libvulkan.so.1)";
    const found = await request(["enable-dawn-features=allow_unsafe_apis"], { powerPreference: "high-performance" });
    if (!found) return "no adapter found";
    const name = nameOf(found.adapter.info);
    return found.adapter.info.isFallbackAdapter || SOFTWARE.test(name) ? `only a software adapter found (${name})` : found;
  },
  llvmpipe: async () => {
    if (process.platform !== "linux") return "only on Linux";
    // Dawn opens the development name, which Debian's libegl1 alone does not bring.
    if (!loads("libEGL.so")) return "no OpenGL ES (libEGL.so)";
    process.env["EGL_PLATFORM"] = "surfaceless"; // no display server
    process.env["XDG_RUNTIME_DIR"] ??= os.tmpdir(); // libwayland complains when it is not set
    const found = await request(["backend=opengles"], { featureLevel: "compatibility" });
    if (!found) return "OpenGL ES gives no adapter (is libgl1-mesa-dri installed?)";
    const name = nameOf(found.adapter.info);
    return /llvmpipe/i.test(name) ? found : `OpenGL ES gives ${name}, not llvmpipe`;
  },
  swiftshader: async () => {
    const driver = await findSwiftShader(environment().cache);
    if (typeof driver === "string") return driver;
    if (!loads(driver.loader)) return `the driver's loader does not load (${driver.loader})`;
    process.env["VK_ICD_FILENAMES"] = driver.icd;
    return (await request(["backend=vulkan"], {})) ?? "the driver gives no adapter";
  },
};

/** What drivers read from the environment while an adapter and its device are made. */
const DRIVER_VARIABLES = ["EGL_PLATFORM", "XDG_RUNTIME_DIR", "VK_ICD_FILENAMES"] as const;

/** Walks one way and hands what it finds to `use`; a thrown reason counts as not found. Leaves the environment as it was. */
const attempt = async <T extends object>(kind: AdapterKind, use: (found: Found) => Promise<T>): Promise<T | string> => {
  const before = DRIVER_VARIABLES.map((name) => [name, process.env[name]] as const);
  try {
    const found = await WAYS[kind]();
    return typeof found === "string" ? found : await use(found);
  } catch (reason) {
    const message = reason instanceof Error ? reason.message : String(reason);
    return message.split("\n", 1)[0] ?? message; // Dawn and the module loader append stack traces
  } finally {
    for (const [name, value] of before) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  }
};

const open = async (found: Found, kind: AdapterKind | "null", notes: readonly string[], features: FeatureSet = "all"): Promise<OpenDevice> => {
  inUse.add(found.gpu);
  try {
    const opened = await openFrom(found.adapter, kind, notes, () => inUse.delete(found.gpu), features);
    if (kind === "llvmpipe" || kind === "swiftshader") setMemory(opened.device, freeMemory());
    return opened;
  } catch (reason) {
    inUse.delete(found.gpu);
    throw reason;
  }
};

/** Of this process: what is free on the machine, or under the limit that it was started with. */
const freeMemory = (): number => {
  const limit = process.constrainedMemory();
  return Math.min(os.freemem(), limit ? Math.max(0, limit - process.memoryUsage.rss()) : Number.POSITIVE_INFINITY);
};

const request = async (flags: string[], options: GPURequestAdapterOptions): Promise<Found | undefined> => {
  // Loaded late: on a platform without a Dawn build this throws, and the reason belongs into the notes.
  const { create } = await import("webgpu");
  // a browser rounds timestamps to 0.1 ms to hide them from other sites; here is nobody to hide them from, and kernels are shorter
  const gpu = create([...flags, "disable-dawn-features=timestamp_quantization"]);
  const adapter = await gpu.requestAdapter(options);
  return adapter ? { gpu, adapter } : undefined;
};

/** glibc's and musl's RTLD_NODELETE; Node does not name it. */
const RTLD_NODELETE = 0x1000;

/** Loads a shared library for good. Node always throws: it looks for an addon in it and unloads what has none. */
const loads = (library: string): boolean => {
  try {
    process.dlopen({ exports: {} }, library, os.constants.dlopen.RTLD_LAZY | RTLD_NODELETE);
    return true;
  } catch (reason) {
    return reason instanceof Error && reason.message.includes("did not self-register");
  }
};

/** The variables a user may set. `cache` is where unpacked drivers go. */
const environment = (): { readonly forced: AdapterKind | undefined; readonly features: FeatureSet; readonly cache: string } => {
  const wanted = process.env["KFACC_ADAPTER"] || undefined;
  const forced = ADAPTER_KINDS.find((kind) => kind === wanted);
  if (wanted && !forced)
    throw new RuntimeFault("bad-option", `unknown adapter "${wanted}"`, "KFACC_ADAPTER", `one of ${ADAPTER_KINDS.join(", ")}`);
  const set = process.env["KFACC_FEATURES"] || "all";
  const features = FEATURE_SETS.find((f) => f === set);
  if (!features) throw new RuntimeFault("bad-option", `unknown set of features "${set}"`, "KFACC_FEATURES", `one of ${FEATURE_SETS.join(", ")}`);
  return { forced, features, cache: join(process.env["XDG_CACHE_HOME"] || join(os.homedir(), ".cache"), "kfacc") };
};

/** One opening at a time: the ways set environment variables that belong to the whole process. */
let last: Promise<unknown> = Promise.resolve();
const inTurn = <T>(work: () => Promise<T>): Promise<T> => {
  const mine = last.then(work);
  last = mine.catch(() => {});
  return mine;
};
