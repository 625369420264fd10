/** The networks that the bench trains, each with a batch of made-up data. */
import { Builder, broadcast, contract } from "../../ir/builder.js";
import type { Batch, Tensor } from "../../runtime/tensors.js";
import type { Compiled, ForwardModel } from "../../src/compile.js";
import { openModel } from "../../src/model.js";
import type { LossKind } from "../../src/train/loss.js";
import { seeded } from "./work/program.js";

export interface Network {
  readonly id: string;
  readonly name: string;
  readonly batch: number;
  readonly loss: LossKind;
  forward(): Promise<(batch: number) => ForwardModel>;
  readonly slow?: boolean;
}

const example = (path: string): string => new URL(`../../examples/${path}`, import.meta.url).pathname;
const opened = (path: string) => async () => (await openModel(example(path))).forward;

/** 784-256-256-10, relu, softmax. */
export function mlp(batch: number): ForwardModel {
  const b = new Builder("mlp");
  const sizes = [784, 256, 256, 10];
  const weights = new Map<string, { shape: readonly number[]; data: Float32Array }>();
  let h = b.input("input", { dtype: "f32", shape: [batch, 784] }, 0);
  for (let k = 0; k < 3; k++) {
    const [i, o] = [sizes[k] as number, sizes[k + 1] as number];
    const param = (name: string, shape: readonly number[], scale: number) => {
      const values = seeded(shape.reduce((n, d) => n * d, 1), k + 1);
      weights.set(name, { shape, data: values.map((v) => v * scale) });
      return b.param(name, { dtype: "f32", shape });
    };
    const s = contract(b.emit, "ni,oi->no", h, param(`fc${k}.weight`, [o, i], 2 * Math.sqrt(3 / i)));
    const z = b.emit("add", [s, broadcast(b.emit, param(`fc${k}.bias`, [o], 0), s.type.shape, [1])]);
    h = k < 2 ? b.emit("relu", [z]) : z;
  }
  return { name: "mlp", graph: b.finish([{ name: "logits", value: h }]), outputs: [{ name: "logits", value: h }], weights };
}

export const MLP: Network = { id: "mlp", name: "MLP 784-256-256-10, batch 128", batch: 128, loss: "softmax-ce", forward: async () => mlp };
export const LENET: Network = { id: "lenet", name: "LeNet-5, batch 64", batch: 64, loss: "softmax-ce", forward: opened("mnist-lenet/model.onnx") };
export const AUTOENCODER: Network = { id: "autoencoder", name: "autoencoder 784-1000-500-250-30-…, batch 256", batch: 256, loss: "bernoulli-ce", forward: opened("autoencoder/model.ts"), slow: true };
export const RESNET20: Network = { id: "resnet20", name: "ResNet-20, batch 32", batch: 32, loss: "softmax-ce", forward: opened("cifar-resnet/model.ts"), slow: true };

export const NETWORKS: readonly Network[] = [MLP, LENET, AUTOENCODER, RESNET20];

/** Inputs in [0, 1) and targets that have nothing to do with them. */
export function batchOf(network: Network, { artifact }: Compiled): Batch {
  const n = network.batch;
  const made: Record<string, Tensor> = {};
  artifact.inputs.forEach((input, k) => {
    const shape = [n, ...input.shape];
    made[input.name] = { shape, data: seeded(shape.reduce((a, d) => a * d, 1), 7 + k).map((v) => v + 0.5) };
  });
  const shape = [n, ...artifact.target.shape];
  const size = shape.reduce((a, d) => a * d, 1);
  const { classes } = artifact;
  const target = { shape, data: classes === null ? seeded(size, 17).map((v) => v + 0.5) : Int32Array.from({ length: size }, (_, k) => (k * 7) % classes) };
  return { ...made, target };
}
