import { expect, test } from "vitest";
import { type LinePlot, linePlot } from "../src/plot.js";

const base: LinePlot = { title: "t", xLabel: "step", yLabel: "loss", series: [{ name: "a", x: [0, 10], y: [1, 3] }] };
const plot = (change: Partial<LinePlot>): string => linePlot({ ...base, ...change });
const one = (x: number[], y: number[]): Partial<LinePlot> => ({ series: [{ name: "a", x, y }] });
/** The texts at the axes, x before y. */
const labels = (svg: string): string[] => [...svg.matchAll(/<text [^>]*>([^<]*)<\/text>/g)].map((m) => m[1] as string);
/** The lines of series: paths in a series' colour, apart from the legend's. */
const lines = (svg: string): string[] =>
  [...svg.matchAll(/<path d="(M[^"h]*)" fill="none" stroke="#(?!555555)/g)].map((m) => m[1] as string);

test("the plot of two points, whole", () => {
  expect(plot({}).replace(/<svg[^>]*>/, "<svg>")).toMatchInlineSnapshot(`
    "<svg>
    <title>t</title>
    <rect width="760" height="420" rx="6" fill="#ffffff"/>
    <text x="385.7" y="26" text-anchor="middle" font-size="15" font-weight="600">t</text>
    <path d="M72 44V368" stroke="#e4e4e4"/>
    <text x="72" y="386" text-anchor="middle">0</text>
    <path d="M197.5 44V368" stroke="#e4e4e4"/>
    <text x="197.5" y="386" text-anchor="middle">2</text>
    <path d="M323 44V368" stroke="#e4e4e4"/>
    <text x="323" y="386" text-anchor="middle">4</text>
    <path d="M448.4 44V368" stroke="#e4e4e4"/>
    <text x="448.4" y="386" text-anchor="middle">6</text>
    <path d="M573.9 44V368" stroke="#e4e4e4"/>
    <text x="573.9" y="386" text-anchor="middle">8</text>
    <path d="M699.4 44V368" stroke="#e4e4e4"/>
    <text x="699.4" y="386" text-anchor="middle">10</text>
    <path d="M72 368H699.4" stroke="#e4e4e4"/>
    <text x="64" y="372" text-anchor="end">1</text>
    <path d="M72 287H699.4" stroke="#e4e4e4"/>
    <text x="64" y="291" text-anchor="end">1.5</text>
    <path d="M72 206H699.4" stroke="#e4e4e4"/>
    <text x="64" y="210" text-anchor="end">2</text>
    <path d="M72 125H699.4" stroke="#e4e4e4"/>
    <text x="64" y="129" text-anchor="end">2.5</text>
    <path d="M72 44H699.4" stroke="#e4e4e4"/>
    <text x="64" y="48" text-anchor="end">3</text>
    <path d="M72 44V368H699.4" fill="none" stroke="#555555"/>
    <text x="385.7" y="406" text-anchor="middle">step</text>
    <text x="18" y="206" text-anchor="middle" transform="rotate(-90 18 206)">loss</text>
    <path d="M72 368L699.4 44" fill="none" stroke="#0072b2" stroke-width="1.8" stroke-linejoin="round"/>
    <path d="M711.4 54h18" fill="none" stroke="#0072b2" stroke-width="1.8" stroke-linejoin="round"/>
    <text x="735.4" y="58">a</text>
    </svg>
    "
  `);
});

test("is one element without script or anything fetched, on a background of its own", () => {
  const svg = plot({});
  expect(svg).toMatch(/^<svg xmlns="http:\/\/www.w3.org\/2000\/svg" viewBox="0 0 760 420"/);
  expect(svg).not.toMatch(/<script|href|url\(|@import|<style/);
  expect(svg).toContain('fill="#ffffff"/>');
});

test("names cannot break out of the markup", () => {
  const svg = plot({ title: `</title><script>"&`, series: [{ name: "<b>", x: [0], y: [0] }] });
  expect(svg).not.toMatch(/<script|<b>/);
  expect(svg).toContain("&lt;/title&gt;&lt;script&gt;&quot;&amp;");
});

test("ticks are round numbers that enclose the data", () => {
  expect(labels(plot(one([0, 937], [0.0123, 0.0871]))).slice(1, -3)).toEqual([
    "0",
    "200",
    "400",
    "600",
    "800",
    "1000",
    "0",
    "0.02",
    "0.04",
    "0.06",
    "0.08",
    "0.1",
  ]);
  expect(labels(plot(one([-3, 2], [-1e6, 3e6]))).slice(1, -3)).toEqual(["-3", "-2", "-1", "0", "1", "2", "-1e6", "0", "1e6", "2e6", "3e6"]);
});

test("a logarithmic axis has decades, and between a few of them 2 and 5", () => {
  expect(labels(plot({ logY: true, ...one([0, 1], [2e-5, 3]) })).slice(7, -3)).toEqual(["1e-5", "1e-4", "0.001", "0.01", "0.1", "1", "10"]);
  expect(labels(plot({ logX: true, ...one([16, 256], [0, 1]) })).slice(1, 6)).toEqual(["10", "20", "50", "100", "200"]);
  expect(labels(plot({ logY: true, ...one([0, 1], [1e-30, 1e30]) })).length).toBeLessThan(20);
});

test("values that cannot be drawn are gaps, and do not stretch the axes", () => {
  const svg = plot({ logY: true, ...one([0, 1, 2, 3, 4, 5, 1e9], [1, 2, Number.NaN, 0, 5, 6, -1]) });
  expect(lines(svg)).toHaveLength(2);
  expect(svg).not.toMatch(/NaN|Infinity/);
  expect(labels(svg)).not.toContain("1e9");
});

test("one point is a dot, equal values have an axis, and no data are said to be none", () => {
  expect(plot(one([3], [7]))).toContain("<circle");
  for (const value of [0, 5, -2, 1e-9])
    for (const logY of [false, true])
      expect(plot({ logY, ...one([1, 2], [value, value]) }), `${value}`).not.toMatch(/NaN|Infinity|undefined/);
  expect(labels(plot({ series: [] }))).toContain("no data");
  expect(labels(plot(one([1], [Number.NaN])))).toContain("no data");
});

test("a long series keeps its spikes and becomes no longer than the picture is wide", () => {
  const x = Array.from({ length: 100_000 }, (_, i) => i);
  const y = x.map((i) => (i === 54_321 ? 100 : Math.sin(i)));
  const svg = plot(one(x, y));
  const points = (lines(svg)[0] as string)
    .slice(1)
    .split("L")
    .map((p) => p.split(" ").map(Number));
  expect(points.length).toBeLessThan(4 * 760);
  const top = Math.min(...points.map((p) => p[1] as number));
  expect(top).toBe(44); // 100 is the axis' upper end
});

test("more series than colours stay apart", () => {
  const series = Array.from({ length: 14 }, (_, i) => ({ name: `run ${i}`, x: [0, 1], y: [i, i] }));
  const strokes = [...plot({ series }).matchAll(/h18" (fill="none" stroke="[^/]*)\/>/g)].map((m) => m[1]);
  expect([strokes.length, new Set(strokes).size]).toEqual([14, 14]);
});
