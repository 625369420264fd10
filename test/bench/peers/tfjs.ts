/** The work in TensorFlow.js with its WebGPU backend, whose images have their channels last. */
import { checkSampled } from "../work/program.js";
import { checkLosses, convData, library, matmul, MOMENTUM, permuted, RATE, training, type Training, type Works } from "./shared.js";

interface Ten {
  readonly shape: readonly number[];
  data(): Promise<Float32Array>;
  dispose(): void;
  add(other: Ten): Ten;
  relu(): Ten;
  reshape(shape: readonly number[]): Ten;
}
type Pad = "same" | "valid";
const FORMAT = { strides: [1, 1], pad: "same", dataFormat: "NHWC", dimRoundingMode: undefined } as const;

/** As far as it is used here. */
interface Tf {
  setBackend(name: string): Promise<boolean>;
  tensor(data: Float32Array, shape: readonly number[]): Ten;
  variable(t: Ten): Ten;
  matMul(a: Ten, b: Ten, transposeA: boolean, transposeB: boolean): Ten;
  conv2d(x: Ten, w: Ten, strides: number, pad: Pad): Ten;
  maxPool(x: Ten, size: number, strides: number, pad: Pad): Ten;
  engine(): { runKernel(name: string, inputs: Readonly<Record<string, Ten>>, attrs: object): Ten };
  tidy<T>(f: () => T): T;
  readonly fused: { conv2d(parts: { readonly x: Ten; readonly filter: Ten; readonly strides: number; readonly pad: Pad; readonly bias: Ten; readonly activation: "relu" }): Ten };
  readonly losses: { softmaxCrossEntropy(labels: Ten, logits: Ten): Ten };
  readonly train: { momentum(rate: number, momentum: number): { minimize(f: () => Ten, returnCost: true): Ten } };
}

export async function works(device: GPUDevice): Promise<Works> {
  const own = (module: unknown): unknown => (module as { readonly default?: unknown }).default ?? module;
  const tf = own(await library("@tensorflow/tfjs/dist/tf.node.js")) as Tf;
  await library("@tensorflow/tfjs-backend-webgpu/dist/tf-backend-webgpu.node.js");
  if (!(await tf.setBackend("webgpu"))) throw new Error("tfjs does not take its WebGPU backend");

  /** Commands wait in a queue of the library's own until a value is asked for. */
  const flush = async (t: Ten): Promise<Float32Array> => {
    const values = await t.data();
    await device.queue.onSubmittedWorkDone();
    return values;
  };
  const repeated = (f: () => readonly Ten[], check: (results: readonly Ten[]) => Promise<string>) => {
    const probe = (t: Ten): Ten => tf.tidy(() => tf.engine().runKernel("Slice", { x: t }, { begin: t.shape.map(() => 0), size: t.shape.map(() => 1) }));
    return {
      run: async (count: number) => {
        let last: readonly Ten[] = [];
        for (let k = 0; k < count; k++) {
          for (const t of last) t.dispose();
          last = f();
        }
        for (const t of last) {
          const one = probe(t);
          await flush(one);
          one.dispose();
          t.dispose();
        }
      },
      check: async () => check(f()),
    };
  };
  const lastChannels = (values: Float32Array, shape: readonly number[]): Ten => tf.tensor(permuted(values, shape, [0, 2, 3, 1]), [0, 2, 3, 1].map((k) => shape[k] as number));
  const firstChannels = async (t: Ten): Promise<Float32Array> => permuted(await t.data(), t.shape, [0, 3, 1, 2]);
  /** [co, ci, ky, kx] → [ky, kx, ci, co] */
  const filterOf = (values: Float32Array, shape: readonly number[]): Ten => tf.tensor(permuted(values, shape, [2, 3, 1, 0]), [2, 3, 1, 0].map((k) => shape[k] as number));

  const trained = async (t: Training, weights: ReadonlyMap<string, Ten>, input: Ten, logits: (w: (name: string) => Ten, x: Ten) => Ten) => {
    const variables = new Map([...weights].map(([name, w]) => [name, tf.variable(w)] as const));
    const optimizer = tf.train.momentum(RATE, MOMENTUM);
    const target = tf.tensor(t.target, [t.batch, 10]);
    const steps = async (count: number): Promise<readonly number[]> => {
      const costs: Ten[] = [];
      for (let k = 0; k < count; k++) costs.push(optimizer.minimize(() => tf.losses.softmaxCrossEntropy(target, logits((name) => variables.get(name) as Ten, input)), true));
      const read: number[] = [];
      for (const cost of costs) {
        read.push((await flush(cost))[0] as number);
        cost.dispose();
      }
      return read;
    };
    return { laps: [3], run: async (count: number) => { await steps(count); }, check: async () => checkLosses(await steps(t.losses.length), t) };
  };
  const dense = (w: (name: string) => Ten, h: Ten, name: string): Ten => tf.matMul(h, w(`${name}.weight`), false, true).add(w(`${name}.bias`));
  const pooled = (w: (name: string) => Ten, h: Ten, name: string): Ten => tf.maxPool(tf.conv2d(h, w(`${name}.weight`), 1, "valid").add(w(`${name}.bias`)).relu(), 2, 2, "valid");

  return {
    "matmul/512": async () => {
      const { left, right, truth } = matmul(512);
      const [a, b] = [tf.tensor(left, [512, 512]), tf.tensor(right, [512, 512])];
      return repeated(() => [tf.matMul(a, b, false, false)], async ([z]) => `${checkSampled("z", await (z as Ten).data(), truth)} elements against float64`);
    },
    "conv/plain/forward": async () => {
      const d = convData();
      const { c } = d;
      const [x, filter, bias] = [lastChannels(d.image, [c.n, c.ci, c.side, c.side]), filterOf(d.weight, [c.co, c.ci, c.k, c.k]), tf.tensor(d.bias, [c.co])];
      return repeated(() => [tf.fused.conv2d({ x, filter, strides: 1, pad: "same", bias, activation: "relu" })],
        async ([y]) => `${checkSampled("y", await firstChannels(y as Ten), (e) => d.forward(e))} elements against float64`);
    },
    "conv/plain/gradients": async () => {
      const d = convData();
      const { c } = d;
      const [x, filter, dy] = [lastChannels(d.image, [c.n, c.ci, c.side, c.side]), filterOf(d.weight, [c.co, c.ci, c.k, c.k]), lastChannels(d.cotangent, [c.n, c.co, c.side, c.side])];
      // the kernels that its own gradient of conv2d runs
      const gradients = () => [
        tf.engine().runKernel("Conv2DBackpropInput", { dy, filter }, { ...FORMAT, inputShape: x.shape }),
        tf.engine().runKernel("Conv2DBackpropFilter", { x, dy }, { ...FORMAT, filterShape: filter.shape }),
      ];
      return repeated(gradients, async ([dx, dw]) => {
        const filters = permuted(await (dw as Ten).data(), (dw as Ten).shape, [3, 2, 0, 1]);
        return `${checkSampled("dx", await firstChannels(dx as Ten), (e) => d.input(e)) + checkSampled("dw", filters, (e) => d.filter(e))} elements against float64`;
      });
    },
    "mlp/sgd": async () => {
      const t = await training(device, "mlp");
      const weights = new Map([...t.weights].map(([name, w]) => [name, tf.tensor(w.data, w.shape)] as const));
      return trained(t, weights, tf.tensor(t.input.data, t.input.shape), (w, x) => dense(w, dense(w, dense(w, x, "fc0").relu(), "fc1").relu(), "fc2"));
    },
    "lenet/sgd": async () => {
      const t = await training(device, "lenet");
      const weights = new Map([...t.weights].map(([name, w]) => {
        if (w.shape.length === 4) return [name, filterOf(w.data, w.shape)] as const;
        // its input is flattened with the channels last
        if (name === "fc1.weight") return [name, tf.tensor(permuted(w.data, [120, 16, 4, 4], [0, 2, 3, 1]), w.shape)] as const;
        return [name, tf.tensor(w.data, w.shape)] as const;
      }));
      return trained(t, weights, lastChannels(t.input.data, t.input.shape), (w, x) => {
        const maps = pooled(w, pooled(w, x, "conv1"), "conv2");
        return dense(w, dense(w, dense(w, maps.reshape([t.batch, 256]), "fc1").relu(), "fc2").relu(), "fc3");
      });
    },
  };
}
