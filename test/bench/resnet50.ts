/**
 * ResNet-50 for images of 224×224: what `kfacc compile` is timed on. Four stages of 3, 4, 6 and 3 bottlenecks of a 1×1, a 3×3 and a 1×1
 * convolution, each with batch normalisation by running statistics, as files for fine-tuning have it; the 3×3 one has the stride. Source: He, Zhang, Ren & Sun 2016, table 1.
 */
import { model, type ModelBuilder, type Tensor } from "kfacc/dsl";

const STAGES = [[3, 64], [4, 128], [6, 256], [3, 512]] as const;
const EXPANSION = 4;

function convBn(m: ModelBuilder, x: Tensor, filters: number, name: string, kernel: number, stride = 1): Tensor {
  const y = m.conv2d(x, filters, kernel, { name, stride, pad: (kernel - 1) / 2, bias: false });
  return m.batchNorm(y, { name: `${name}.bn`, frozen: true });
}

function bottleneck(m: ModelBuilder, x: Tensor, filters: number, stride: number, name: string): Tensor {
  const wide = filters * EXPANSION;
  const a = m.relu(convBn(m, x, filters, `${name}.conv1`, 1));
  const b = m.relu(convBn(m, a, filters, `${name}.conv2`, 3, stride));
  const shortcut = x.shape[0] === wide ? x : convBn(m, x, wide, `${name}.shortcut`, 1, stride);
  return m.relu(m.add(convBn(m, b, wide, `${name}.conv3`, 1), shortcut));
}

// biome-ignore lint/style/noDefaultExport: a model file exports its model as default
export default model("resnet50", (m) => {
  let h = m.relu(convBn(m, m.input("image", [3, 224, 224]), 64, "first", 7, 2));
  h = m.maxPool(h, 3, { stride: 2, pad: 1 });
  STAGES.forEach(([blocks, filters], s) => {
    for (let k = 0; k < blocks; k++) h = bottleneck(m, h, filters, s > 0 && k === 0 ? 2 : 1, `stage${s + 1}.block${k + 1}`);
  });
  return m.output("logits", m.dense(m.globalAvgPool(h), 1000, { name: "classes" }), { loss: "softmax-ce" });
});
