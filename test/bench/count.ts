/** Counts what reaches a device: submits and dispatches, whoever makes them (a trainer, or a library that knows nothing of the bench). */

export interface Calls {
  readonly dispatches: number;
  readonly submits: number;
}

export interface Counter {
  /** Since the last call of `take`. */
  take(): Calls;
}

/** Hooks into the device's classes: the prototypes of its queue and passes. Costs less than a microsecond per call. */
export function countCalls(device: GPUDevice): Counter {
  let [dispatches, submits] = [0, 0];
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.end();
  const passes = Object.getPrototypeOf(pass) as GPUComputePassEncoder;
  const queues = Object.getPrototypeOf(device.queue) as GPUQueue;
  const [dispatch, submit] = [passes.dispatchWorkgroups, queues.submit];
  passes.dispatchWorkgroups = function (this: GPUComputePassEncoder, ...args) {
    dispatches++;
    return dispatch.apply(this, args);
  };
  queues.submit = function (this: GPUQueue, ...args) {
    submits++;
    return submit.apply(this, args);
  };
  return {
    take: () => {
      const taken = { dispatches, submits };
      [dispatches, submits] = [0, 0];
      return taken;
    },
  };
}
