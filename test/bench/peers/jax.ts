/** The work in jax-js, jitted. Its arrays are owned: what is used again is taken by `ref`. */
import { checkSampled } from "../work/program.js";
import { checkLosses, convData, library, matmul, MOMENTUM, RATE, training, type Works } from "./shared.js";

interface Arr {
  readonly ref: Arr;
  readonly shape: readonly number[];
  reshape(shape: readonly number[]): Arr;
  add(other: Arr | number): Arr;
  sub(other: Arr | number): Arr;
  mul(other: Arr | number): Arr;
  sum(axis?: number): Arr;
  data(): Promise<Float32Array>;
  dispose(): void;
}
type Tree = Readonly<Record<string, Arr>>;
type Fn<A extends readonly unknown[], R> = (...args: A) => R;

/** As far as it is used here. */
interface Jax {
  init(device: string): Promise<readonly string[]>;
  defaultDevice(device: string): void;
  jit<A extends readonly unknown[], R>(f: Fn<A, R>): Fn<A, R>;
  grad(f: Fn<readonly Arr[], Arr>, options: { readonly argnums: readonly number[] }): Fn<readonly Arr[], readonly Arr[]>;
  valueAndGrad<A extends readonly unknown[]>(f: Fn<readonly [Tree, ...A], Arr>): Fn<readonly [Tree, ...A], readonly [Arr, Tree]>;
  blockUntilReady(tree: unknown): Promise<unknown>;
  readonly numpy: { array(data: Float32Array): Arr; matmul(x: Arr, y: Arr): Arr; transpose(x: Arr): Arr; max(x: Arr): Arr; zeros(shape: readonly number[]): Arr };
  readonly nn: { relu(x: Arr): Arr; logSoftmax(x: Arr, axis: number): Arr };
  readonly lax: { conv(x: Arr, w: Arr, strides: readonly number[], padding: readonly (readonly [number, number])[] | "VALID"): Arr; reduceWindow(x: Arr, f: (x: Arr) => Arr, window: readonly number[], strides: readonly number[]): Arr };
  readonly tree: { map(f: (...x: readonly Arr[]) => Arr, ...trees: readonly Tree[]): Tree; ref(t: Tree): Tree };
}

export async function works(device: GPUDevice): Promise<Works> {
  const jax = (await library("@jax-js/jax/dist/index.js")) as Jax;
  const found = await jax.init("webgpu");
  if (!found.includes("webgpu")) throw new Error(`no WebGPU in jax-js, only ${found.join(", ")}`);
  jax.defaultDevice("webgpu");
  const { numpy: np, nn, lax } = jax;
  const array = (data: Float32Array, shape: readonly number[]): Arr => np.array(data).reshape(shape);
  const done = async (tree: unknown): Promise<void> => {
    await jax.blockUntilReady(tree);
    await device.queue.onSubmittedWorkDone();
  };

  /** A jitted function of arrays, done over and over. */
  const repeated = (f: Fn<readonly Arr[], readonly Arr[]>, inputs: readonly Arr[], check: (results: readonly Arr[]) => Promise<string>) => ({
    run: async (count: number) => {
      let last: readonly Arr[] = [];
      for (let k = 0; k < count; k++) {
        for (const a of last) a.dispose();
        last = f(...inputs.map((a) => a.ref));
        // lazy until somebody wants it
        await Promise.all(last.map((a) => jax.blockUntilReady(a)));
      }
      await done(last);
      for (const a of last) a.dispose();
    },
    check: async () => check(f(...inputs.map((a) => a.ref))),
  });
  const same = [[1, 1], [1, 1]] as const;

  const trained = async (which: "mlp" | "lenet", logits: (p: Tree, x: Arr) => Arr) => {
    const t = await training(device, which);
    let params: Tree = Object.fromEntries([...t.weights].map(([name, w]) => [name, array(w.data, w.shape)]));
    let momenta: Tree = Object.fromEntries([...t.weights].map(([name, w]) => [name, np.zeros(w.shape)]));
    const [x, y] = [array(t.input.data, t.input.shape), array(t.target, [t.batch, 10])];
    const loss = (p: Tree, input: Arr, target: Arr): Arr => nn.logSoftmax(logits(p, input), -1).mul(target).sum().mul(-1 / t.batch);
    const step = jax.jit((p: Tree, m: Tree, input: Arr, target: Arr): readonly [Tree, Tree, Arr] => {
      const [value, gradient] = jax.valueAndGrad(loss)(jax.tree.ref(p), input, target);
      const moved = jax.tree.map((a, g) => (a as Arr).mul(MOMENTUM).add(g as Arr), m, gradient);
      return [jax.tree.map((a, d) => (a as Arr).sub((d as Arr).mul(RATE)), p, jax.tree.ref(moved)), moved, value];
    });
    const steps = async (count: number): Promise<readonly number[]> => {
      const values: Arr[] = [];
      for (let k = 0; k < count; k++) {
        const [p, m, value] = step(params, momenta, x.ref, y.ref);
        [params, momenta] = [p, m];
        values.push(value);
      }
      await done([params, momenta]);
      const read: number[] = [];
      for (const v of values) read.push((await v.data())[0] as number);
      return read;
    };
    return { laps: [10], run: async (count: number) => { await steps(count); }, check: async () => checkLosses(await steps(t.losses.length), t) };
  };

  const dense = (p: Tree, h: Arr, name: string): Arr => np.matmul(h, np.transpose(p[`${name}.weight`] as Arr)).add(p[`${name}.bias`] as Arr);
  const pooled = (p: Tree, h: Arr, name: string): Arr => {
    const bias = p[`${name}.bias`] as Arr;
    const z = lax.conv(h, p[`${name}.weight`] as Arr, [1, 1], "VALID").add(bias.reshape([bias.shape[0] as number, 1, 1]));
    return lax.reduceWindow(nn.relu(z), (window) => np.max(window), [2, 2], [2, 2]);
  };

  return {
    "matmul/512": async () => {
      const { left, right, truth } = matmul(512);
      return repeated(jax.jit((a: Arr, b: Arr) => [np.matmul(a, b)]) as Fn<readonly Arr[], readonly Arr[]>, [array(left, [512, 512]), array(right, [512, 512])], async ([z]) => `${checkSampled("z", await (z as Arr).data(), truth)} elements against float64`);
    },
    "conv/plain/forward": async () => {
      const d = convData();
      const { c } = d;
      const f = jax.jit((x: Arr, w: Arr, b: Arr) => [nn.relu(lax.conv(x, w, [1, 1], same).add(b.reshape([c.co, 1, 1])))]);
      return repeated(f as Fn<readonly Arr[], readonly Arr[]>, [array(d.image, [c.n, c.ci, c.side, c.side]), array(d.weight, [c.co, c.ci, c.k, c.k]), array(d.bias, [c.co])],
        async ([y]) => `${checkSampled("y", await (y as Arr).data(), (e) => d.forward(e))} elements against float64`);
    },
    "conv/plain/gradients": async () => {
      const d = convData();
      const { c } = d;
      // only the gradient comes back: jit drops the product itself
      const f = jax.jit(jax.grad((...[x, w, g]: readonly Arr[]) => lax.conv(x as Arr, w as Arr, [1, 1], same).mul(g as Arr).sum(), { argnums: [0, 1] }));
      return repeated(f, [array(d.image, [c.n, c.ci, c.side, c.side]), array(d.weight, [c.co, c.ci, c.k, c.k]), array(d.cotangent, [c.n, c.co, c.side, c.side])],
        async ([dx, dw]) => `${checkSampled("dx", await (dx as Arr).data(), (e) => d.input(e)) + checkSampled("dw", await (dw as Arr).data(), (e) => d.filter(e))} elements against float64`);
    },
    "mlp/sgd": async () => trained("mlp", (p, x) => dense(p, nn.relu(dense(p, nn.relu(dense(p, x, "fc0")), "fc1")), "fc2")),
    "lenet/sgd": async () => trained("lenet", (p, x) => {
      const maps = pooled(p, pooled(p, x, "conv1"), "conv2");
      const flat = maps.reshape([maps.shape[0] as number, 256]);
      return dense(p, nn.relu(dense(p, nn.relu(dense(p, flat, "fc1")), "fc2")), "fc3");
    }),
  };
}
