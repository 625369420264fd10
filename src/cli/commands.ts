/** The commands: what each is for, and which flags it takes. */
import { FLAGS } from "../options.js";
import { type CommandSpec, inGroups } from "./args.js";

const GENERAL = ["json", "debug"] as const;
const MODEL = inGroups("model");
const REGISTER = ["register", "layer", "max-factor", "fallback", "strict"] as const;
const PROGRAM = [...MODEL, ...inGroups("compile", "optimiser", "statistics")];
const TRAINED = FLAGS.filter((f) => f.group === "data" && f.name !== "weights").map((f) => f.name);

export const COMMANDS: readonly CommandSpec[] = [
  { name: "layers", usage: "layers <model>", doc: "Which parameters belong to which layer, and why some belong to none.",
    flags: [...MODEL, "loss", "loss-weight", "optimizer", ...REGISTER, ...GENERAL], examples: ["kfacc layers lenet.onnx", "kfacc layers lenet.onnx --json --strict"] },
  { name: "print", usage: "print <model>", doc: "The model in kfacc's own language.",
    flags: [...MODEL, "loss", "loss-weight", "optimizer", "batch", "fisher", "fisher-samples", ...REGISTER, "after", "entry", "out", ...GENERAL], examples: ["kfacc print lenet.onnx --after canonicalize", "kfacc print lenet.onnx -o lenet.kir"] },
  { name: "compile", usage: "compile <model>", doc: "Writes a training program: plan, kernels, weights and a typed ES module.",
    flags: [...PROGRAM, "out", "standalone", "tune", ...GENERAL], examples: ["kfacc compile lenet.onnx --loss softmax-ce -o lenet", "kfacc compile net.ts -o net --batch 64,256 --standalone"] },
  { name: "train", usage: "train <model>", doc: "Trains a model on a data set and writes it back.",
    flags: [...PROGRAM, ...TRAINED, ...inGroups("training"), "out", "history", "plot", ...GENERAL],
    examples: ["kfacc train lenet.onnx --loss softmax-ce --data mnist/ --out trained.onnx", "kfacc train lenet.onnx --data mnist/ --resume lenet.checkpoint.safetensors"] },
  { name: "evaluate", usage: "evaluate <model|folder>", doc: "Loss and accuracy over a data set.",
    flags: [...MODEL, "loss", "loss-weight", "batch", "data", "target", "example-weight", "scale", "split", "weights", ...GENERAL], examples: ["kfacc evaluate trained.onnx --loss softmax-ce --data mnist/"] },
  { name: "predict", usage: "predict <model|folder>", doc: "The model's outputs for a data set.",
    flags: [...MODEL, "batch", "data", "target", "example-weight", "scale", "split", "weights", "out", ...GENERAL], examples: ["kfacc predict trained.onnx --data mnist/ -o predictions.npz"] },
  { name: "verify", usage: "verify <model>", doc: "Checks every layer against exact float64 quantities; exit 1 if one fails.",
    flags: [...PROGRAM.filter((f) => f !== "optimizer"), "data", "target", "scale", "split", "seed", ...GENERAL], examples: ["kfacc verify lenet.onnx", "kfacc verify net.ts --fisher exact --batch 2 --json"] },
  { name: "fisher", usage: "fisher <model|folder>", doc: "Factors of every layer over a data set, and what F looks like.",
    flags: [...MODEL, "loss", "loss-weight", "batch", "fisher", "fisher-samples", "sharing", ...REGISTER.filter((f) => f !== "strict" && f !== "fallback"), "damping", "data", "target", "example-weight", "scale", "split", "weights", "seed", "out", ...GENERAL],
    examples: ["kfacc fisher trained.onnx --loss softmax-ce --data mnist/ -o factors.safetensors", "kfacc fisher net.onnx --data train.npz --fisher exact --json"] },
  { name: "profile", usage: "profile <folder|model>", doc: "Time, FLOP/s, GB/s and share of every kernel of a training step, on random data.",
    flags: [...PROGRAM, "seed", "entry", ...inGroups("measuring"), "trace", "out", ...GENERAL], examples: ["kfacc profile lenet", "kfacc profile lenet --entry evaluate --json", "kfacc profile lenet --trace lenet.trace.json"] },
  { name: "devices", usage: "devices", doc: "The ways to a WebGPU device on this machine.", flags: [...GENERAL], examples: [] },
  { name: "help", usage: "help [topic]", doc: "This list, a command's flags, the errors (kfacc help errors), or the ONNX ops that are read (kfacc help ops).", flags: [...GENERAL], examples: [] },
];
