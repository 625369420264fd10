/** `detach` only means something to `grad`; after it, it is the identity. */
import type { Pass } from "../pass.js";
import { rewrite } from "./rewrite.js";

export const undetach: Pass = {
  name: "undetach",
  doc: "No detach is left. Run it after the gradients: before, it would let them through.",
  run: (graph) => rewrite(graph, { detach: [(node) => node.inputs[0]] }),
};
