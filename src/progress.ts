/** Progress of a long run: a bar on a terminal, a plain line now and then in a log. */
import { SingleBar } from "cli-progress";

export interface ProgressOptions {
  /** Examples the whole run will visit. */
  readonly total: number;
  /** Examples already done, when resuming. Default 0. */
  readonly done?: number;
  /** What is being done, e.g. "training". */
  readonly label: string;
  /** Default: standard error, so that standard output stays clean. */
  readonly stream?: NodeJS.WriteStream;
  /** Milliseconds between plain lines. Default 10 000. */
  readonly every?: number;
  /** A clock in milliseconds, for tests. */
  readonly now?: () => number;
}

export interface Progress {
  /** `done` counts examples since the start of the whole run. */
  update(done: number, loss?: number): void;
  /** A line of its own, above the bar. */
  note(text: string): void;
  /** Ends the bar, or prints a last line. To be called on every way out, Ctrl-C included: it gives the cursor back. */
  stop(): void;
}

/** Seconds as 8s, 2m05s, 1h02m. */
export function spellSeconds(seconds: number): string {
  if (!Number.isFinite(seconds)) return "?";
  const whole = Math.max(0, Math.round(seconds));
  const pad = (n: number): string => String(n).padStart(2, "0");
  if (whole < 60) return `${whole}s`;
  return whole < 3600
    ? `${Math.floor(whole / 60)}m${pad(whole % 60)}s`
    : `${Math.floor(whole / 3600)}h${pad(Math.floor((whole % 3600) / 60))}m`;
}

const spellRate = (rate: number): string => (rate >= 100 ? String(Math.round(rate)) : rate.toPrecision(2));

/** Milliseconds the speed is averaged over: long enough to be steady, short enough to forget the start-up. */
const WINDOW = 15_000;

export function startProgress(options: ProgressOptions): Progress {
  const { total, label, stream = process.stderr, every = 10_000, now = Date.now } = options;
  const start = now();
  let done = options.done ?? 0;
  let loss: number | undefined;
  const samples: { at: number; done: number }[] = [{ at: start, done }];

  /** Examples per second over the window, and the parts of a line. */
  const figures = (): { percentage: string; rate: string; loss: string; left: string } => {
    const oldest = samples[0] as { at: number; done: number };
    const rate = ((done - oldest.done) / Math.max(1, now() - oldest.at)) * 1000;
    return {
      percentage: String(total > 0 ? Math.min(100, Math.floor((100 * done) / total)) : 100),
      rate: spellRate(rate),
      loss: loss === undefined ? "–" : loss.toPrecision(4),
      left: rate > 0 ? spellSeconds((total - done) / rate) : "?",
    };
  };
  const line = (): string => {
    const f = figures();
    return `${label}: ${f.percentage}%, ${done}/${total} examples, ${f.rate} examples/s, loss ${f.loss}, ${f.left} left\n`;
  };

  const bar = stream.isTTY
    ? new SingleBar({
        stream,
        format: "{label} [{bar}] {shown}% · {rate} examples/s · loss {loss} · {left} left",
        barsize: 24,
        hideCursor: true,
        gracefulExit: false, // Ctrl-C is the command line's: it keeps a checkpoint
      })
    : undefined;
  const payload = (): object => {
    const { percentage, ...rest } = figures();
    return { ...rest, label, shown: percentage };
  };
  bar?.start(total, done, payload());
  let printed = start;
  let stopped = false;

  return {
    update(current, latest) {
      if (stopped) return;
      done = current;
      loss = latest ?? loss;
      const at = now();
      samples.push({ at, done });
      while (samples.length > 2 && at - (samples[1] as { at: number }).at >= WINDOW) samples.shift();
      if (bar) bar.update(done, payload());
      else if (at - printed >= every) {
        printed = at;
        stream.write(line());
      }
    },
    note(text) {
      if (bar && !stopped) stream.write("\r\x1b[K"); // the bar is drawn again below the line
      stream.write(`${text}\n`);
      if (bar && !stopped) bar.render();
    },
    stop() {
      if (stopped) return;
      stopped = true;
      if (bar) {
        bar.update(done, payload());
        bar.stop();
      } else stream.write(line());
    },
  };
}
