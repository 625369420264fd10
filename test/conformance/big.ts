/** Fixtures that are a graph only: their weights are generated into a copy; traces of factors instead of the factors. */
import { execFileSync } from "node:child_process";
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import type { HostArray } from "../../runtime/program.js";
import type { Fixture } from "./fixture.js";
import { batchOf, type Bench, build, readState, withTrainer } from "./program.js";

/** Runs `use` with the folder of a copy that has its weights; the fixture itself is never written. */
export async function withGenerated<T>(fixture: Fixture, use: (folder: string) => Promise<T>): Promise<T> {
  const place = mkdtempSync(join(tmpdir(), "kfacc-conformance-"));
  try {
    const folder = join(place, basename(fixture.folder));
    cpSync(fixture.folder, folder, { recursive: true, mode: 0 });
    execFileSync("chmod", ["-R", "u+w", place]);
    execFileSync(process.execPath, [join(dirname(fixture.folder), "gen_weights.mjs"), folder]);
    return await use(folder);
  } finally {
    rmSync(place, { recursive: true, force: true });
  }
}

/** Traces need diagonals only, so factors are kept as such. */
export async function traces({ device, fixture, model, card }: Bench): Promise<void> {
  const c = build(fixture, model, { maxFactor: 1, fisher: { kind: "empirical", samples: 1 } });
  await withTrainer(device, c, async (t) => {
    t.gradients(batchOf(fixture));
    for (const { name, sides, groups, ...dims } of c.artifact.layers)
      for (const side of ["A", "G"] as const) {
        const [sums] = await readState(t, [`stat/${name}/${side}`]) as [HostArray];
        const d = side === "A" ? dims.dA : dims.dG;
        let trace = 0;
        for (let k = 0; k < groups * d; k++) trace += sums[sides[side] === "diagonal" ? k : Math.floor(k / d) * d * d + (k % d) * (d + 1)] as number;
        card.compare(`trace.${side === "A" ? "A" : "G.emp"}/${name}`, [trace / fixture.batch]);
      }
  });
}
