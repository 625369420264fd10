/** Whether a program fits its device, asked before anything is allocated. */
import { type Plan, RuntimeFault } from "./artifact.js";

const known = new WeakMap<GPUDevice, number>();

/** Bytes that buffers of a device may take together, where that is known: a software adapter's memory is the machine's. */
export const setMemory = (device: GPUDevice, bytes: number): void => void known.set(device, bytes);

const HINT = "use a smaller batch or --max-factor, or another device";
const megabytes = (n: number): string => `${(n / 1e6).toFixed(1)} MB`;

/** @throws RuntimeFault "out-of-memory" naming what does not fit. */
export function requireRoom(device: GPUDevice, plan: Plan): void {
  const most = Math.min(device.limits.maxBufferSize, device.limits.maxStorageBufferBindingSize);
  const large = plan.buffers.find((b) => b.bytes > most);
  if (large) throw new RuntimeFault("out-of-memory", `"${large.name}" takes ${megabytes(large.bytes)}, and one buffer of this device holds ${megabytes(most)} at most`, undefined, HINT);
  const total = plan.buffers.reduce((n, b) => n + b.bytes, 0);
  const room = known.get(device);
  if (room !== undefined && total > room) throw new RuntimeFault("out-of-memory", `the program's ${plan.buffers.length} buffers take ${megabytes(total)}, and ${megabytes(room)} are free`, undefined, HINT);
}
