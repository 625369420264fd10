/** Files of a generated module in Node, whose `fetch` does not read them. */
import { readFile } from "node:fs/promises";

export async function readFileUrl(url: URL): Promise<Uint8Array> {
  const { buffer, byteOffset, byteLength } = await readFile(url);
  return new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);
}
