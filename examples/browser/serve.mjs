/**
 * Serves a folder written by `kfacc compile --standalone` together with a page that trains it:
 *
 *   node examples/browser/serve.mjs build/ [PORT]
 *
 * A browser gives a page WebGPU over https or from localhost; from a file:// path it does not.
 */
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";

const TYPES = { ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".json": "application/json", ".wgsl": "text/plain; charset=utf-8" };

const [folder, port = "8000"] = process.argv.slice(2);
if (!folder) {
  console.error("usage: node serve.mjs FOLDER [PORT]   (FOLDER from: kfacc compile MODEL --loss LOSS --standalone -o FOLDER)");
  process.exit(2);
}
const roots = { page: fileURLToPath(new URL(".", import.meta.url)), module: resolve(folder) };

/** The file behind a request: /module/… is the compiled folder, the rest this one; undefined outside of both. */
const fileOf = (pathname) => {
  const [root, path] = pathname.startsWith("/module/") ? [roots.module, pathname.slice(8)] : [roots.page, pathname.slice(1) || "index.html"];
  const file = resolve(root, path);
  return file.startsWith(resolve(root) + sep) ? file : undefined;
};

const server = createServer(async (request, response) => {
  try {
    const file = fileOf(decodeURIComponent(new URL(request.url, "http://localhost").pathname));
    const body = file && (await readFile(file));
    if (!body) throw new Error("outside");
    // no-store: the folder may be compiled again while the page is open
    response.writeHead(200, { "content-type": TYPES[extname(file)] ?? "application/octet-stream", "cache-control": "no-store" }).end(body);
  } catch {
    response.writeHead(404, { "content-type": "text/plain" }).end("not found\n");
  }
});
server.on("error", (e) => {
  console.error(`cannot listen on port ${port}: ${e.message}`);
  process.exit(1);
});
// only this machine can reach it
server.listen(Number(port), "127.0.0.1", () => {
  console.log(`http://localhost:${server.address().port}/ trains ${folder}; Ctrl-C ends`);
});
