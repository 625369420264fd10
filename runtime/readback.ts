/** Reads small results back without stalling: a pool of staging buffers, one copy in the step's own submit. */
import type { EntryPart, HostArray, Program } from "./program.js";

const MAP_READ = 0x1;
const COPY_DST = 0x8;

export class Readback {
  readonly #program: Program;
  readonly #free: GPUBuffer[] = [];
  #bytes = 256;

  constructor(program: Program) {
    this.#program = program;
  }

  /** Submits the entries and copies of the named buffers behind them; resolves when the copies are on the host. */
  async submit(entries: readonly (string | EntryPart)[], names: readonly string[]): Promise<ReadonlyMap<string, HostArray>> {
    const wanted = names.map((n) => this.#program.buffer(n));
    const total = wanted.reduce((n, b) => n + b.info.bytes, 0);
    if (total === 0) {
      this.#program.submit(entries);
      return new Map();
    }
    if (total > this.#bytes) {
      this.#bytes = total;
      for (const b of this.#free.splice(0)) b.destroy();
    }
    const staging = this.#free.pop() ?? this.#program.device.createBuffer({ label: "readback", size: this.#bytes, usage: MAP_READ | COPY_DST });
    this.#program.submit(entries, (encoder) => {
      let at = 0;
      for (const b of wanted) {
        encoder.copyBufferToBuffer(b.gpu, 0, staging, at, b.info.bytes);
        at += b.info.bytes;
      }
    });
    await staging.mapAsync(MAP_READ, 0, total);
    const bytes = staging.getMappedRange(0, total).slice(0);
    staging.unmap();
    if (staging.size === this.#bytes) this.#free.push(staging);
    else staging.destroy();
    let at = 0;
    return new Map(wanted.map((b, k) => {
      const elements = (b.info.shape ?? []).reduce((n, d) => n * d, 1);
      const view = new ({ f32: Float32Array, i32: Int32Array, u32: Uint32Array }[b.info.dtype])(bytes, at, elements);
      at += b.info.bytes;
      return [names[k] as string, view];
    }));
  }
}
