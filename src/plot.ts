/**
 * Line plots as self-contained SVG: no script, no font file, a light background of its own, so that it reads on light and
 * dark pages. The same numbers always give the same bytes.
 */

export interface Series {
  readonly name: string;
  readonly x: readonly number[];
  readonly y: readonly number[];
}

export interface LinePlot {
  readonly title: string;
  readonly xLabel: string;
  readonly yLabel: string;
  readonly logX?: boolean;
  readonly logY?: boolean;
  readonly series: readonly Series[];
}

const WIDTH = 760;
const HEIGHT = 420;
const MARGIN = { left: 72, top: 44, bottom: 52, right: 20 };
/** Okabe and Ito's colours, told apart by colour-blind eyes and on white; yellow is left out for want of contrast. */
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000"];
/** Once round the colours, lines are dashed. */
const DASHES = ["", "6 3", "2 3"];
const CHAR = 6.6; // average width of a letter at 12 px, for the legend's room

interface Axis {
  readonly low: number;
  readonly high: number;
  readonly log: boolean;
  readonly ticks: readonly number[];
}

const escape = (text: string): string => text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c] ?? "&quot;");
const px = (value: number): string => String(Math.round(value * 10) / 10);
const usable = (value: number, log: boolean): boolean => Number.isFinite(value) && (!log || value > 0);

/** A multiple of 1, 2 or 5 times a power of ten that cuts `span` into at most `most` parts. */
function niceStep(span: number, most: number): number {
  const power = 10 ** Math.floor(Math.log10(span / most));
  return (([1, 2, 5, 10] as const).find((m) => m * power * most >= span * (1 - 1e-9)) ?? 10) * power;
}

function linearAxis(low: number, high: number): Axis {
  if (low === high) return linearAxis(low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2);
  const step = niceStep(high - low, 6);
  const [first, last] = [Math.floor(low / step + 1e-9), Math.ceil(high / step - 1e-9)];
  // Each tick from its own integer: adding steps up would gather rounding errors into the labels.
  const ticks = Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
  return { low: first * step, high: last * step, log: false, ticks };
}

function logAxis(low: number, high: number): Axis {
  const [first, last] = [Math.floor(Math.log10(low) + 1e-9), Math.ceil(Math.log10(high) - 1e-9)];
  const decades = Math.max(1, last - first);
  const every = Math.ceil(decades / 7);
  const within = decades <= 2 ? [1, 2, 5] : [1];
  const all = Array.from({ length: decades + 1 }, (_, i) => within.map((m) => Number(`${m}e${first + i}`))).flat();
  // Few decades: the axis ends at the ticks around the data instead of at whole decades.
  const from = decades <= 2 ? Math.max(...all.filter((t) => t <= low * (1 + 1e-9))) : Number(`1e${first}`);
  const to = decades <= 2 ? Math.min(...all.filter((t) => t >= high * (1 - 1e-9) && t > from)) : Number(`1e${first + decades}`);
  const ticks = all.filter((t, i) => t >= from && t <= to && (decades <= 2 || i % every === 0));
  return { low: from, high: to, log: true, ticks };
}

function axisOf(values: readonly number[], log: boolean): Axis {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (!usable(value, log)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (low > high) [low, high] = log ? [1, 10] : [0, 1];
  return log ? logAxis(low, high) : linearAxis(low, high);
}

/** 0 at the low end, 1 at the high end. */
const along = ({ low, high, log }: Axis, value: number): number =>
  log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);

function spellTick(value: number): string {
  const size = Math.abs(value);
  return size !== 0 && (size >= 1e5 || size < 1e-3) ? value.toExponential().replace("e+", "e") : String(Number(value.toPrecision(6)));
}

/** Points of one pixel column become its first, lowest, highest and last: the line looks the same and stays short. */
function thin(points: readonly (readonly [number, number])[]): readonly (readonly [number, number])[] {
  const kept: (readonly [number, number])[] = [];
  for (let i = 0; i < points.length; ) {
    const column = Math.floor((points[i] as readonly [number, number])[0]);
    let j = i;
    let [low, high] = [i, i];
    for (; j < points.length && Math.floor((points[j] as readonly [number, number])[0]) === column; j++) {
      const y = (points[j] as readonly [number, number])[1];
      if (y < (points[low] as readonly [number, number])[1]) low = j;
      if (y > (points[high] as readonly [number, number])[1]) high = j;
    }
    const chosen = [...new Set([i, low, high, j - 1])].sort((a, b) => a - b);
    kept.push(...chosen.map((k) => points[k] as readonly [number, number]));
    i = j;
  }
  return kept;
}

/** The parts of a series between points that cannot be drawn (not finite; not positive on a logarithmic axis). */
function pieces(
  { x, y }: Series,
  xs: Axis,
  ys: Axis,
  place: (x: number, y: number) => readonly [number, number],
): (readonly [number, number])[][] {
  const out: (readonly [number, number])[][] = [[]];
  for (let i = 0; i < Math.min(x.length, y.length); i++) {
    const [a, b] = [x[i] as number, y[i] as number];
    if (usable(a, xs.log) && usable(b, ys.log)) out.at(-1)?.push(place(a, b));
    else if (out.at(-1)?.length) out.push([]);
  }
  return out.filter((piece) => piece.length > 0);
}

/** The plot as an SVG document. */
export function linePlot({ title, xLabel, yLabel, logX = false, logY = false, series }: LinePlot): string {
  const names = series.map(({ name }) => (name.length > 28 ? `${name.slice(0, 27)}…` : name));
  const legend = series.length > 0 ? 34 + CHAR * Math.max(...names.map((name) => name.length)) : 0;
  const [left, right, top, bottom] = [MARGIN.left, WIDTH - MARGIN.right - legend, MARGIN.top, HEIGHT - MARGIN.bottom];
  // A point counts for the axes only if it can be drawn.
  const drawn = series.flatMap(({ x, y }) =>
    x.slice(0, y.length).flatMap((a, i) => (usable(a, logX) && usable(y[i] as number, logY) ? [[a, y[i] as number] as const] : [])),
  );
  const xs = axisOf(
    drawn.map(([a]) => a),
    logX,
  );
  const ys = axisOf(
    drawn.map(([, b]) => b),
    logY,
  );
  const place = (x: number, y: number): readonly [number, number] => [
    left + along(xs, x) * (right - left),
    bottom - along(ys, y) * (bottom - top),
  ];

  const parts: string[] = [];
  const text = (x: number, y: number, content: string, extra = ""): void => {
    parts.push(`<text x="${px(x)}" y="${px(y)}"${extra}>${escape(content)}</text>`);
  };
  const middle = ' text-anchor="middle"';
  parts.push(`<rect width="${WIDTH}" height="${HEIGHT}" rx="6" fill="#ffffff"/>`);
  text((left + right) / 2, 26, title, `${middle} font-size="15" font-weight="600"`);
  for (const tick of xs.ticks) {
    const x = px(place(tick, ys.low)[0]);
    parts.push(`<path d="M${x} ${top}V${bottom}" stroke="#e4e4e4"/>`);
    text(Number(x), bottom + 18, spellTick(tick), middle);
  }
  for (const tick of ys.ticks) {
    const y = px(place(xs.low, tick)[1]);
    parts.push(`<path d="M${left} ${y}H${px(right)}" stroke="#e4e4e4"/>`);
    text(left - 8, Number(y) + 4, spellTick(tick), ' text-anchor="end"');
  }
  parts.push(`<path d="M${left} ${top}V${bottom}H${px(right)}" fill="none" stroke="#555555"/>`);
  text((left + right) / 2, HEIGHT - 14, xLabel, middle);
  text(18, (top + bottom) / 2, yLabel, `${middle} transform="rotate(-90 18 ${px((top + bottom) / 2)})"`);
  if (drawn.length === 0) text((left + right) / 2, (top + bottom) / 2, "no data", middle);

  series.forEach((one, i) => {
    const dash = DASHES[Math.floor(i / COLOURS.length) % DASHES.length];
    const stroke = `fill="none" stroke="${COLOURS[i % COLOURS.length]}" stroke-width="1.8" stroke-linejoin="round"${dash ? ` stroke-dasharray="${dash}"` : ""}`;
    for (const piece of pieces(one, xs, ys, place)) {
      const points = thin(piece);
      const [x, y] = points[0] as readonly [number, number];
      if (points.length === 1) parts.push(`<circle cx="${px(x)}" cy="${px(y)}" r="2.5" fill="${COLOURS[i % COLOURS.length]}"/>`);
      else parts.push(`<path d="M${points.map(([a, b]) => `${px(a)} ${px(b)}`).join("L")}" ${stroke}/>`);
    }
    const y = top + 10 + 20 * i;
    parts.push(`<path d="M${px(right + 12)} ${y}h18" ${stroke}/>`);
    text(right + 36, y + 4, names[i] as string);
  });
  const font = 'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="12" fill="#222222"';
  const open = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" height="${HEIGHT}" role="img" ${font}>`;
  return `${open}\n<title>${escape(title)}</title>\n${parts.join("\n")}\n</svg>\n`;
}
