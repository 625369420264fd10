/** Runs one fixture through the public pipeline on a device and compares every quantity that it lists. */
import { join } from "node:path";
import { CompileError } from "../../ir/error.js";
import { openModel } from "../../src/model.js";
import { traces, withGenerated } from "./big.js";
import { curvatureFamilies } from "./curvature.js";
import { factorFamilies } from "./factors.js";
import type { Fixture } from "./fixture.js";
import { batchStatistics, forwardAndGradients, registration } from "./forward.js";
import type { Bench } from "./program.js";
import { type Row, Scorecard, statement } from "./report.js";
import { trajectories } from "./trajectory.js";
import { untied } from "./untie.js";

/** Recurrent ops are no part of this version: what counts is that they are refused by name. */
const REFUSED = ["GRU", "LSTM", "RNN"];

export async function runFixture(device: GPUDevice, fixture: Fixture): Promise<Row[]> {
  const refused = REFUSED.find((op) => fixture.ops.includes(op));
  if (refused) return [await refusal(fixture, refused)];
  return fixture.graphOnly ? withGenerated(fixture, (folder) => families(device, fixture, folder)) : families(device, fixture, fixture.folder);
}

async function refusal(fixture: Fixture, op: string): Promise<Row> {
  try {
    await openModel(join(fixture.folder, "model.onnx"));
  } catch (e) {
    const named = e instanceof CompileError && e.code === "unsupported-op" && e.message.includes(`"${op}"`);
    return statement(fixture.name, "import", named, named ? `refused as it must be: ${op}` : String(e));
  }
  return statement(fixture.name, "import", false, `${op} is not refused, and nothing of it is compared`);
}

async function families(device: GPUDevice, fixture: Fixture, folder: string): Promise<Row[]> {
  const opened = await openModel(join(folder, "model.onnx"));
  // the fixtures' outputs and losses are those of the training graph
  const model = (batch: number) => {
    const { evaluation: _, ...made } = opened.forward(batch);
    return made;
  };
  const bench: Bench = { device, fixture, model, untied: untied(model, fixture.layers.map((l) => l.key)), card: new Scorecard(fixture) };
  const registered = registration(fixture, bench.untied);
  const parts = fixture.graphOnly
    ? [forwardAndGradients, traces]
    : [forwardAndGradients, (b: Bench) => batchStatistics(b, opened), factorFamilies, curvatureFamilies, trajectories];
  const failures: Row[] = [];
  for (const part of parts) {
    try {
      await part(bench);
    } catch (e) {
      // the other parts still say what they can
      failures.push(statement(fixture.name, part.name || "batchStatistics", false, e instanceof Error ? `${e.message}` : String(e)));
      if (process.argv.includes("--trace")) console.error(e);
    }
  }
  return [registered, ...bench.card.rows(), ...failures];
}
