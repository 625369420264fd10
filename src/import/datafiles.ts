/** The external data files of a model that is being written: copies of the old ones with some tensors replaced. */
import { CompileError } from "../../ir/error.js";
import { externalPlace, visitTensors } from "./schema.js";
import { concat } from "./wire.js";

/** How external data is found and what its copies are called. */
export interface ExternalPlan {
  /** Name of the new data file, relative to the new model (a second one gets ".1", and so on). */
  readonly dataName: string;
  /** The whole of an old data file. */
  readonly read: (location: string) => Uint8Array;
}

interface DataFile {
  readonly name: string;
  bytes: Uint8Array;
}

export class DataFiles {
  readonly #files = new Map<string, DataFile>();
  /** "location offset" → how many tensors begin there. */
  readonly #uses = new Map<string, number>();

  /** Opens every data file that the model refers to. @throws missing-data if there are any and no plan. */
  constructor(model: Uint8Array, plan: ExternalPlan | undefined) {
    visitTensors(model, (f) => {
      const place = externalPlace(model, f);
      if (!place) return;
      const key = `${place.location} ${place.offset}`;
      this.#uses.set(key, (this.#uses.get(key) ?? 0) + 1);
      if (this.#files.has(place.location)) return;
      if (!plan) throw new CompileError("missing-data", "the model has external data and nothing to read it with", `external data "${place.location}"`);
      const name = this.#files.size === 0 ? plan.dataName : `${plan.dataName}.${this.#files.size}`;
      this.#files.set(place.location, { name, bytes: new Uint8Array(plan.read(place.location)) });
    });
  }

  /** Puts a tensor's new bytes in; the entries of its external_data that change. undefined: nothing to put, only the new name. */
  put(location: string, offset: number, made: Uint8Array | undefined): ReadonlyMap<string, string> {
    const file = this.#files.get(location) as DataFile;
    const change = new Map([["location", file.name]]);
    if (!made) return change;
    if ((this.#uses.get(`${location} ${offset}`) ?? 0) > 1) {
      // another tensor reads the same bytes: this one moves to the end
      change.set("offset", `${file.bytes.length}`).set("length", `${made.length}`);
      file.bytes = concat([file.bytes, made]);
    } else if (offset + made.length > file.bytes.length) {
      throw new CompileError("bad-model", "the data file is too short", `external data "${location}"`);
    } else file.bytes.set(made, offset);
    return change;
  }

  /** New files by name. */
  result(): ReadonlyMap<string, Uint8Array> {
    return new Map([...this.#files.values()].map((f) => [f.name, f.bytes]));
  }
}
