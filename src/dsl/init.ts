/**
 * First values of parameters. A function of (seed, name, element) through a counter-based generator: neither the order of the
 * parameters nor the rest of the model plays a part, so a layer that is added leaves the others as they were.
 *
 *   he(seed)      normal, standard deviation √(2 / fanIn)             torch.nn.init.kaiming_normal_(nonlinearity="relu")
 *   glorot(seed)  uniform in ±√(6 / (fanIn + fanOut))                 torch.nn.init.xavier_uniform_, Keras glorot_uniform
 *   zeros, ones, values(…)                                            as they say
 *
 * Weights are stored as [out, in, taps…]: fanIn = in · taps, fanOut = out · taps. Of a vector both are its length.
 * Sources: He, Zhang, Ren, Sun 2015, eq. 10; Glorot & Bengio 2010, eq. 16.
 */
import { CompileError } from "../../ir/error.js";
import type { Source } from "../../ir/graph.js";
import { size } from "../../ir/type.js";
import { philox } from "../../runtime/batches.js";

/** Third word of the generator's counter: other uses of a seed (runtime/batches.ts: STREAM) have other ones. */
const INIT_STREAM = 2;

/** Rows and columns of a weight as the initialisers count them. */
export function fans(shape: readonly number[]): { readonly fanIn: number; readonly fanOut: number } {
  if (shape.length < 2) return { fanIn: size(shape), fanOut: size(shape) };
  const taps = size(shape.slice(2));
  return { fanIn: (shape[1] as number) * taps, fanOut: (shape[0] as number) * taps };
}

/**
 * The first values of the parameter `name`, row-major.
 *
 * @throws CompileError "missing-data" for source `file`: those are stored beside the graph.
 */
export function initialValues(name: string, shape: readonly number[], source: Source): Float32Array {
  const count = size(shape);
  switch (source.kind) {
    case "zeros": return new Float32Array(count);
    case "ones": return new Float32Array(count).fill(1);
    case "values":
      if (source.values.length !== count) throw new CompileError("shape-mismatch", `${source.values.length} values for [${shape.join(", ")}]`, `parameter "${name}"`);
      return Float32Array.from(source.values);
    case "he": {
      const deviation = Math.sqrt(2 / Math.max(1, fans(shape).fanIn));
      return drawn(name, count, source.seed, (u, v) => {
        // Box–Muller: two uniform numbers are two normal ones
        const radius = deviation * Math.sqrt(-2 * Math.log(u));
        return [radius * Math.cos(2 * Math.PI * v), radius * Math.sin(2 * Math.PI * v)];
      });
    }
    case "glorot": {
      const { fanIn, fanOut } = fans(shape);
      const bound = Math.sqrt(6 / Math.max(1, fanIn + fanOut));
      return drawn(name, count, source.seed, (u, v) => [(2 * u - 1) * bound, (2 * v - 1) * bound]);
    }
    case "file": throw new CompileError("missing-data", "its first values are stored beside the graph, and are not there", `parameter "${name}"`);
    default: return source satisfies never;
  }
}

/** `count` numbers, two from every two uniform ones in (0, 1). */
function drawn(name: string, count: number, seed: number, pair: (u: number, v: number) => readonly [number, number]): Float32Array {
  const out = new Float32Array(count);
  const key = [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0] as const;
  const own = hash(name);
  for (let at = 0; at < count; at += 4) {
    const [a, b, c, d] = philox([at / 4, own, INIT_STREAM, 0], key).map((word) => (word + 0.5) / 2 ** 32) as [number, number, number, number];
    const four = [...pair(a, b), ...pair(c, d)];
    for (let k = 0; k < 4 && at + k < count; k++) out[at + k] = four[k] as number;
  }
  return out;
}

/** FNV-1a over UTF-16 code units, 32 bits. */
function hash(text: string): number {
  let h = 0x811c9dc5;
  for (let k = 0; k < text.length; k++) h = Math.imul(h ^ text.charCodeAt(k), 0x01000193) >>> 0;
  return h;
}
