/** What `kfacc layers` prints for small exported models. A change here is a change that users see: read it before taking it over. */
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { layerTable } from "../../src/cli/table.js";
import { orphanInfo, prepare } from "../../src/compile.js";
import { layerInfo } from "../../src/kfac/layer.js";
import { openModel } from "../../src/model.js";
import { options } from "../support/models.js";

const here = (path: string): string => join(import.meta.dirname, "..", path);

describe("the layers of", () => {
  it.each(["convzoo", "embed_pool", "tied_ae", "transformer_ln17"])("%s", async (name) => {
    const model = await openModel(here(`fixtures/models/${name}.onnx`));
    const { registration, graph } = prepare(model.forward(model.fileBatch ?? 2), options({ loss: "half-sse" }));
    const text = layerTable(registration.layers.map(layerInfo), orphanInfo(registration, "kfac"), graph.params.map((p) => p.value));
    await expect(`${text}\n`).toMatchFileSnapshot(here(`golden/layers-${name}.txt`));
  });
});
