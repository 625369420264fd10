/**
 * ResNet-20 for images of 32×32: a 3×3 convolution, then three stages of three residual blocks with 16, 32 and 64 channels, each block two
 * 3×3 convolutions with batch normalisation (of the batch, in training). Source: He, Zhang, Ren & Sun 2016, section 4.2.
 *
 * Where a stage begins, the shortcut is a 1×1 convolution of stride 2 with batch normalisation (the paper's option B): a layer to
 * precondition like the others. 272,474 trained numbers.
 */
import { model, type ModelBuilder, type Tensor } from "kfacc/dsl";

export const STAGES = [16, 32, 64] as const;
const BLOCKS = 3;
const CLASSES = 10;

/** Convolution and normalisation; a bias before the normalisation would be taken off again. */
function convBn(m: ModelBuilder, x: Tensor, filters: number, name: string, kernel = 3, stride = 1): Tensor {
  const y = m.conv2d(x, filters, kernel, { name, stride, pad: (kernel - 1) / 2, bias: false });
  return m.batchNorm(y, { name: `${name}.bn` });
}

function block(m: ModelBuilder, x: Tensor, filters: number, name: string): Tensor {
  const grows = x.shape[0] !== filters;
  const y = m.relu(convBn(m, x, filters, `${name}.conv1`, 3, grows ? 2 : 1));
  const shortcut = grows ? convBn(m, x, filters, `${name}.shortcut`, 1, 2) : x;
  return m.relu(m.add(convBn(m, y, filters, `${name}.conv2`), shortcut));
}

// biome-ignore lint/style/noDefaultExport: a model file exports its model as default
export default model("resnet20", (m) => {
  let h = m.relu(convBn(m, m.input("image", [3, 32, 32]), STAGES[0], "first"));
  for (const [s, filters] of STAGES.entries())
    for (let b = 0; b < BLOCKS; b++) h = block(m, h, filters, `stage${s + 1}.block${b + 1}`);
  return m.output("logits", m.dense(m.globalAvgPool(h), CLASSES, { name: "classes" }), { loss: "softmax-ce" });
});
