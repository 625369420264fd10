import { spawnSync } from "node:child_process";
import { chmod, mkdir, readdir, readFile, stat, symlink, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { expect, test } from "vitest";
import { kindOf, makeFolder, readFileOr, readTextOr, writeAtomic } from "../../src/files.js";
import { refusal, withFolder } from "./support.js";

test("a file is replaced whole, keeps its mode, and nothing is left beside it", () =>
  withFolder(async (folder) => {
    const path = join(folder, "a.bin");
    await writeFile(path, "old and longer");
    await chmod(path, 0o640);
    await writeAtomic(path, Uint8Array.of(1, 2, 3));
    expect([[...(await readFileOr("missing-data", path))], (await stat(path)).mode & 0o777, await readdir(folder)]).toEqual([
      [1, 2, 3],
      0o640,
      ["a.bin"],
    ]);
  }));

test("a link stays a link, and the file it names is the one written", () =>
  withFolder(async (folder) => {
    await writeFile(join(folder, "real"), "old");
    await symlink("real", join(folder, "link"));
    await writeAtomic(join(folder, "link"), "new");
    expect([await readTextOr("missing-data", join(folder, "real")), (await readdir(folder)).sort()]).toEqual(["new", ["link", "real"]]);
    expect(await readFile(join(folder, "link"), "utf8")).toBe("new");
  }));

test("writers at the same time leave one whole file", () =>
  withFolder(async (folder) => {
    const path = join(folder, "a");
    await Promise.all(Array.from({ length: 8 }, (_, i) => writeAtomic(path, new Uint8Array(100_000).fill(i))));
    const bytes = await readFileOr("missing-data", path);
    expect([bytes.length, new Set(bytes).size, await readdir(folder)]).toEqual([100_000, 1, ["a"]]);
  }));

test("places that cannot be written are refused with the reason", () =>
  withFolder(async (folder) => {
    await writeFile(join(folder, "file"), "old");
    await mkdir(join(folder, "folder"));
    expect(await refusal(writeAtomic(join(folder, "no", "a"), "x"))).toMatch(
      /^cannot-write: cannot write: no such file or folder \| file ".*no\/a" \| check the path/,
    );
    expect(await refusal(writeAtomic(join(folder, "file", "a"), "x"))).toMatch(/^cannot-write: cannot write: a part of the path is a file/);
    expect(await refusal(writeAtomic(join(folder, "folder"), "x"))).toMatch(/^cannot-write: cannot write: it is a folder/);
    expect(await refusal(makeFolder(join(folder, "file")))).toMatch(/^cannot-write: cannot create the folder: a file has its name/);
    expect(await refusal(makeFolder(join(folder, "file", "sub")))).toMatch(
      /^cannot-write: cannot create the folder: a part of the path is a file/,
    );
    expect((await readdir(folder)).sort()).toEqual(["file", "folder"]);
  }));

test.skipIf(process.getuid?.() === 0)("a folder without write permission is refused, and the file in it is untouched", () =>
  withFolder(async (folder) => {
    await writeFile(join(folder, "a"), "old");
    await chmod(folder, 0o555);
    const message = await refusal(writeAtomic(join(folder, "a"), "new"));
    await chmod(folder, 0o755);
    expect([message.split(" | ")[0], await readFile(join(folder, "a"), "utf8")]).toEqual([
      "cannot-write: cannot write: permission denied",
      "old",
    ]);
  }),
);

test("when there is no room for the new file, the old one stays and nothing is left beside it", () =>
  withFolder(async (folder) => {
    await writeFile(join(folder, "a"), "old");
    // A limit on file sizes (8 blocks of 512 or 1024 bytes) stops the write half way, as a full disk does.
    const program = `
      import { writeAtomic } from ${JSON.stringify(resolve("src/files.ts"))};
      await writeAtomic(process.argv[2], new Uint8Array(100_000)).catch((e) => console.log(e.code + ": " + e.message + " | " + e.where + " | " + e.hint));
    `;
    await writeFile(join(folder, "program.mts"), program);
    const run = spawnSync(
      "sh",
      ["-c", 'ulimit -f 8; exec "$@"', "sh", process.execPath, "--import", "tsx", join(folder, "program.mts"), join(folder, "a")],
      { encoding: "utf8" },
    );
    expect(run.stdout, run.stderr).toMatch(/^cannot-write: cannot write: the file would exceed the size limit \| file ".*\/a" \| raise/);
    expect([await readFile(join(folder, "a"), "utf8"), (await readdir(folder)).sort()]).toEqual(["old", ["a", "program.mts"]]);
  }));

test("a missing file has the code the caller names and a hint of its own", async () => {
  expect(await refusal(readFileOr("missing-data", "/nowhere/x"))).toBe(
    'missing-data: cannot read: no such file or folder | file "/nowhere/x" | check the path; folders are not created on the way',
  );
  expect(await refusal(readTextOr("bad-checkpoint", "/nowhere/x", "train first"))).toBe(
    'bad-checkpoint: cannot read: no such file or folder | file "/nowhere/x" | train first',
  );
  expect([await kindOf("/nowhere/x"), await kindOf("."), await kindOf("package.json")]).toEqual([undefined, "folder", "file"]);
});

test("what is read is a plain array, whose slice() copies", async () => {
  const bytes = await readFileOr("missing-data", "package.json");
  expect(Object.getPrototypeOf(bytes)).toBe(Uint8Array.prototype);
});
