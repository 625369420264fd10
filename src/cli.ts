#!/usr/bin/env node
/** The command line's door: everything behind it is in `cli/`. */
import { main } from "./cli/main.js";

// `kfacc layers m.onnx | head` closes the pipe early: that is no error
process.stdout.on("error", (e: NodeJS.ErrnoException) => { if (e.code === "EPIPE") process.exit(0); });

process.exitCode = await main(process.argv.slice(2));
