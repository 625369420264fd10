import { describe, expect, it } from "vitest";
import { CompileError } from "../../ir/error.js";
import type { Graph } from "../../ir/graph.js";
import { parse } from "../../ir/parse.js";
import { type Match, match, type Pattern, parsePatterns, pattern } from "../../ir/pattern.js";

const head = "param %w: f32[3, 5] = file param %v: f32[5, 5] = file param %b: f32[5] = file input %x: f32[4, 3] examples 0 input %g: f32[4, 5]";
const graph = (lines: string): Graph => parse(`graph g { ${head} ${lines} }`);
const spell = (m: Match): string => `${Object.entries(m.bind).map(([hole, v]) => `${hole}=${v.name}`).join(" ")} → ${m.root.name}`;
const found = (lines: string, wanted: Pattern): string[] => match(graph(lines), wanted).map(spell);

const dense = pattern`(x: value, w: param view, b: param) {
  %y = contract(%x, %w)  %c = broadcast(%b)  %z = add(%y, %c)  return %z }`;
const layer = `%y = contract(%x, %w) {spec = "ni,io->no"} %c = broadcast(%b) {shape = [4, 5], axes = [1]} %z = add(%y, %c)`;

describe("patterns", () => {
  it("a layer is found at its last node, with its holes filled", () => {
    const g = graph(`${layer} %r = relu(%z) return r = %r`);
    const [only, ...others] = match(g, dense);
    expect(others).toEqual([]);
    expect(spell(only as Match)).toBe("x=x w=w b=b → z");
    expect(only?.nodes).toEqual(g.nodes.slice(0, 3));
    expect(Object.keys(only?.inner ?? {}).sort()).toEqual(["c", "y", "z"]);
  });

  it("a value with a second user cannot hide inside a layer", () => {
    expect(found(`${layer} %s = neg(%y) return z = %z, s = %s`, dense)).toEqual([]);
    expect(found(`${layer} return z = %z, y = %y`, dense)).toEqual([]);
    expect(found(`${layer} %s = neg(%z) return z = %z, s = %s`, dense)).toEqual(["x=x w=w b=b → z"]);
  });

  it("a value that is marked shared may be seen from outside", () => {
    const wanted = pattern`(x: value, w: param, b: param) {
      %y = contract(%x, %w) shared  %c = broadcast(%b)  %z = add(%y, %c)  return %z }`;
    expect(found(`${layer} %s = neg(%y) return z = %z, s = %s`, wanted)).toEqual(["x=x w=w b=b → z"]);
    expect(found(`${layer} %s = neg(%c) return z = %z, s = %s`, wanted)).toEqual([]);
  });

  it("two uses inside the pattern are no second user", () => {
    const square = pattern`(x: value) { %a = neg(%x)  %y = mul(%a, %a)  return %y }`;
    expect(found("%a = neg(%x) %y = mul(%a, %a) return y = %y", square)).toEqual(["x=x → y"]);
    expect(found("%a = neg(%x) %o = neg(%a) %y = mul(%a, %o) return y = %y", square)).toEqual([]);
  });

  it("sums match in both orders, differences do not, and contractions do with their spec turned round", () => {
    const turned = layer.replace("add(%y, %c)", "add(%c, %y)");
    expect(found(`${turned} return z = %z`, dense)).toEqual(["x=x w=w b=b → z"]);
    const minus = pattern`(x: value, b: param) { %c = broadcast(%b)  %z = sub(%x, %c)  return %z }`;
    const sub = (order: string) => `%c = broadcast(%b) {shape = [4, 5], axes = [1]} %z = sub(${order}) return z = %z`;
    expect(found(sub("%g, %c"), minus).length).toBe(1);
    expect(found(sub("%c, %g"), minus).length).toBe(0);
    const rows = pattern`(x: value, w: param) { %y = contract(%x, %w) {spec = "ni,io->no"}  return %y }`;
    expect(found('%y = contract(%w, %x) {spec = "ab,ca->cb"} return y = %y', rows)).toEqual(["x=x w=w → y"]);
    expect(found('%y = contract(%w, %x) {spec = "ab,ca->bc"} return y = %y', rows)).toEqual([]);
  });

  it("a wrong first guess is taken back: the other order of an inner sum is tried too", () => {
    const wanted = pattern`(x: value, b: param) { %s = add(%x, %b)  %n = neg(%b)  %y = mul(%s, %n)  return %y }`;
    expect(found("%s = add(%v, %v) %n = neg(%v) %y = mul(%n, %s) return y = %y", wanted)).toEqual(["x=v b=v → y"]);
    const two = parse("graph g { param %p: f32[2] = file param %q: f32[2] = file %s = add(%p, %q) %n = neg(%p) %y = mul(%s, %n) return y = %y }");
    expect(match(two, wanted).map(spell)).toEqual(["x=q b=p → y"]);
  });

  it("two lines are two nodes, even if they read the same", () => {
    const wanted = pattern`(x: value) { %a = neg(%x)  %b = neg(%x)  %y = mul(%a, %b)  return %y }`;
    expect(found("%a = neg(%x) %o = neg(%x) %y = mul(%a, %o) return y = %y", wanted)).toEqual(["x=x → y"]);
    expect(found("%a = neg(%x) %y = mul(%a, %a) return y = %y", wanted)).toEqual([]);
  });

  it("attributes that are given must be equal; others may be anything", () => {
    const rows = pattern`(x: value) { %y = reduce_sum(%x) {axes = [0]}  return %y }`;
    const any = pattern`(x: value) { %y = reduce_sum(%x)  return %y }`;
    const sum = (axes: string) => `%y = reduce_sum(%x) {axes = [${axes}]} return y = %y`;
    expect([found(sum("0"), rows).length, found(sum("1"), rows).length, found(sum("0, 1"), rows).length]).toEqual([1, 0, 0]);
    expect(found(sum("0, 1"), any).length).toBe(1);
  });

  it("a param hole takes parameters only, a view hole also turned ones, a const hole numbers", () => {
    const neg = (kind: string) => parsePatterns(`(a: ${kind}) { %y = neg(%a) return %y }`)[0] as Pattern;
    const lines = {
      param: "%y = neg(%w) return y = %y", input: "%y = neg(%x) return y = %y",
      view: "%r = reshape(%w) {shape = [15]} %s = slice(%r) {start = [0], size = [3], stride = [2]} %y = neg(%s) return y = %y",
      other: "%r = relu(%w) %y = neg(%r) return y = %y",
      number: '%r = constant() {value = 2, dtype = "f32"} %s = broadcast(%r) {shape = [3], axes = []} %y = neg(%s) return y = %y',
    };
    const kinds = ["value", "param", "param view", "const"];
    const table = Object.entries(lines).map(([name, text]) => [name, kinds.filter((kind) => found(text, neg(kind)).some((m) => m.endsWith("→ y")))]);
    expect(Object.fromEntries(table)).toEqual({
      param: ["value", "param", "param view"], input: ["value"], view: ["value", "param view"], other: ["value"], number: ["value", "const"],
    });
    const viewed = match(graph(lines.view), neg("param view"))[0];
    expect(viewed?.bind["a"]?.name).toBe("w");
    expect(viewed?.views["a"]?.map((n) => n.op)).toEqual(["slice", "reshape"]);
  });

  it("a hole that is used twice is one value", () => {
    const wanted = pattern`(x: value, w: param) { %a = contract(%x, %w)  %b = contract(%a, %w)  return %b }`;
    const chain = (second: string) => `%a = contract(%g, %v) {spec = "ni,io->no"} %k = contract(%a, ${second}) {spec = "ni,io->no"} return k = %k`;
    expect(found(chain("%v"), wanted)).toEqual(["x=g w=v → k"]);
    expect(found(`%q = neg(%v) ${chain("%q")}`, wanted)).toEqual([]);
  });

  it("a node of two results matches by the result that is used", () => {
    const wanted = pattern`(m: value, d: value) { %i, %clean = inverse(%m, %d)  %n = neg(%clean)  return %n }`;
    const lines = (used: string) => `%s = slice(%v) {start = [0, 0], size = [1, 1], stride = [1, 1]} %m = reshape(%s) {shape = [1, 1, 1]} %d = slice(%b) {start = [0], size = [1], stride = [1]}
      %inv, %ok = inverse(%m, %d) %n = neg(%${used}) return n = %n`;
    expect(found(lines("ok"), wanted)).toEqual(["m=m d=d → n"]);
    expect(found(lines("inv"), wanted)).toEqual([]);
  });

  it("a file of patterns has names, and mistakes in it have a place", () => {
    const file = "pattern dense(x: value, w: param) { %y = contract(%x, %w) return %y }\n# and\npattern act(x: value) { %y = relu(%x) return %y }";
    expect(parsePatterns(file).map((p) => p.name)).toEqual(["dense", "act"]);
    const refusal = (text: string): string => {
      try {
        parsePatterns(text, "mine.kir");
      } catch (e) {
        if (e instanceof CompileError) return `${e.message} | ${e.where}`;
      }
      return "accepted";
    };
    expect(refusal("(x: weight) { %y = neg(%x) return %y }")).toBe('expected value, param, param view, const, found "weight" | mine.kir, line 1, column 5');
    expect(refusal("(x: value) { %y = neg(%z) return %y }")).toBe("%z is not defined before its use | mine.kir, line 1, column 23");
    expect(refusal("(x: value) { %y = neg(%x) return %x }")).toBe("a pattern returns the value of one of its lines | mine.kir, line 1, column 34");
    expect(refusal("(x: value, b: value) { %y = neg(%x) return %y }")).toBe("%b is never used | mine.kir, line 1, column 12");
    expect(refusal("(x: value) { %y = neg(%x) {axis = 1} return %y }")).toBe('neg has no attribute "axis" | mine.kir, line 1, column 28');
    expect(refusal("(x: value) { %y = conv(%x) return %y }")).toBe('there is no operation "conv" | mine.kir, line 1, column 19');
    expect(refusal("(x value) { }")).toBe('expected ":", found "value" | mine.kir, line 1, column 4');
  });
});
