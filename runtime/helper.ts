/** What `offthread.ts` needs of a worker, be it a browser's or Node's. */

/** A worker, whatever the host calls it. */
export interface Helper {
  post(message: unknown, transfer: readonly ArrayBuffer[]): void;
  /** It keeps the process alive from here on, or no longer. */
  hold(): void;
  release(): void;
  end(): void;
}

export interface HelperEvents {
  message(message: unknown): void;
  fault(reason: unknown): void;
}
