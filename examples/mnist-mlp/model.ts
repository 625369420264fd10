/** 784 – 256 – 128 – 10 with relu, for the MNIST digits. */
import { model } from "kfacc/dsl";

// biome-ignore lint/style/noDefaultExport: a model file exports its model as default
export default model("mnist-mlp", (m) => {
  const image = m.input("image", [28, 28]);
  let h = m.flatten(image);
  for (const units of [256, 128]) h = m.relu(m.dense(h, units));
  return m.output("logits", m.dense(h, 10), { loss: "softmax-ce" });
});
