/** The automatic rule for weights that are used at several positions: averaged first only where nothing but their sum reaches the loss. */
import { describe, expect, it } from "vitest";
import { net, table, tableOf } from "./support.js";

const sharings = (build: Parameters<typeof net>[0], more: Parameters<typeof tableOf>[1] = {}): string[] =>
  tableOf(net(build), more).filter((line) => !line.startsWith("head")).map((line) => (line.includes(" reduce") ? "reduce" : "expand"));

describe("a dense layer over a sequence", () => {
  it("is reduced where its outputs are averaged, summed, or scaled, turned and reshaped on the way", () => {
    expect(sharings((m) => m.dense(m.mean(m.dense(m.input("x", [5, 4]), 6), 0), 3, { name: "head" }))).toEqual(["reduce"]);
    expect(sharings((m) => m.tanh(m.sum(m.dense(m.input("x", [5, 4]), 6, { bias: false }), 0)))).toEqual(["reduce"]);
    expect(sharings((m) => m.mean(m.reshape(m.neg(m.mul(m.transpose(m.dense(m.input("x", [4, 3, 4]), 6), [2, 1, 0]), 0.5)), [6, 12]), 1))).toEqual(["reduce"]);
  });

  it("is expanded where something bends or mixes in between", () => {
    expect(sharings((m) => m.mean(m.relu(m.dense(m.input("x", [5, 4]), 6)), 0))).toEqual(["expand"]);
    expect(sharings((m) => m.mean(m.dense(m.dense(m.input("x", [5, 4]), 6), 6), 0))).toEqual(["expand", "reduce"]);
    expect(sharings((m) => m.max(m.dense(m.input("x", [5, 4]), 6), 0))).toEqual(["expand"]);
  });

  it("is expanded where positions have weights of their own, or only some are summed", () => {
    expect(sharings((m) => m.sum(m.mul(m.dense(m.input("x", [5, 4]), 6), m.param("s", [5, 1], { trainable: false })), 0))).toEqual(["expand"]);
    expect(sharings((m) => m.sum(m.dense(m.input("x", [2, 5, 4]), 6), 0))).toEqual(["expand"]);
    expect(sharings((m) => m.sum(m.dense(m.input("x", [5, 4]), 6), 1))).toEqual(["expand"]);
    expect(sharings((m) => m.sum(m.reshape(m.dense(m.input("x", [6, 4]), 5), [2, 3, 5]), 1))).toEqual(["expand"]);
  });

  it("is expanded where every position has its own loss, or a second output shows them", () => {
    expect(sharings((m) => m.dense(m.input("x", [5, 4]), 6))).toEqual(["expand"]);
    expect(sharings((m) => {
      const y = m.dense(m.input("x", [5, 4]), 6);
      return m.add(m.mean(y, 0, true), y);
    })).toEqual(["expand"]);
  });

  it("with a residual around it, is reduced only if what is summed is all there is", () => {
    expect(sharings((m) => {
      const x = m.input("x", [5, 4]);
      return m.mean(m.add(m.dense(x, 4), x), 0);
    })).toEqual(["reduce"]);
    expect(sharings((m) => {
      const x = m.tanh(m.input("x", [5, 4]));
      return m.mean(m.add(m.dense(x, 4), m.mul(x, x)), 0);
    })).toEqual(["reduce"]);
    expect(sharings((m) => {
      const x = m.tanh(m.input("x", [5, 4]));
      return m.mean(m.relu(m.add(m.dense(x, 4), x)), 0);
    })).toEqual(["expand"]);
    // the layer below the residual reaches the sum in two ways, one of them through the other layer
    expect(sharings((m) => {
      const low = m.dense(m.input("x", [5, 4]), 4);
      return m.mean(m.add(m.dense(m.tanh(low), 4), low), 0);
    })).toEqual(["expand", "reduce"]);
  });
});

describe("a convolution", () => {
  it("before a global average is reduced; with a nonlinearity, or pooled in windows, expanded", () => {
    expect(sharings((m) => m.globalAvgPool(m.conv2d(m.input("x", [2, 5, 5]), 6, 3)))).toEqual(["reduce"]);
    expect(sharings((m) => m.globalAvgPool(m.relu(m.conv2d(m.input("x", [2, 5, 5]), 6, 3))))).toEqual(["expand"]);
    expect(sharings((m) => m.dense(m.flatten(m.avgPool(m.conv2d(m.input("x", [2, 6, 6]), 6, 3), 2)), 3, { name: "head" }))).toEqual(["expand"]);
    expect(sharings((m) => m.globalMaxPool(m.conv2d(m.input("x", [2, 5, 5]), 6, 3)))).toEqual(["expand"]);
  });
});

describe("a weight at several sites", () => {
  it("is reduced only if each of them is summed", () => {
    const twice = (bend: boolean) => sharings((m) => {
      const w = m.param("w", [4, 4]);
      const y = m.matmul(m.input("x", [5, 4]), w);
      const z = m.matmul(m.tanh(m.input("u", [5, 4])), w);
      return m.add(m.mean(y, 0), m.mean(bend ? m.tanh(z) : z, 0));
    });
    expect(twice(false)).toEqual(["reduce"]);
    expect(twice(true)).toEqual(["expand"]);
  });
});

describe("--sharing", () => {
  const pooled: Parameters<typeof net>[0] = (m) => m.mean(m.dense(m.relu(m.dense(m.input("x", [5, 4]), 6, { name: "a" })), 6, { name: "b" }), 0);
  it("overrules the rule for all layers, for one by its name, and hands back with auto", () => {
    expect(sharings(pooled)).toEqual(["expand", "reduce"]);
    expect(sharings(pooled, { sharing: { "*": "expand" } })).toEqual(["expand", "expand"]);
    expect(sharings(pooled, { sharing: { "*": "reduce" } })).toEqual(["reduce", "reduce"]);
    expect(sharings(pooled, { sharing: { "a.weight": "reduce", "*": "expand" } })).toEqual(["reduce", "expand"]);
    expect(sharings(pooled, { sharing: { "b.weight": "auto", "*": "expand" } })).toEqual(["expand", "reduce"]);
  });

  it("names a part of a weight, or all of its parts by the parameter's name", () => {
    const PARTS = `param %W: f32[8, 4] = file input %x: f32[2, 3, 4] examples 0
      %a = slice(%W) {start = [0, 0], size = [4, 4], stride = [1, 1]} %b = slice(%W) {start = [4, 0], size = [4, 4], stride = [1, 1]}
      %y = contract(%x, %a) {spec = "nti,oi->nto"} %z = contract(%x, %b) {spec = "nti,oi->nto"} %h = tanh(%y) %k = tanh(%z) return y = %h, z = %k`;
    expect(table(PARTS, { sharing: { "W[0:4]": "reduce" } })).toEqual(["W[0:4] dense 4→4 T3 reduce", "W[4:8] dense 4→4 T3"]);
    expect(table(PARTS, { sharing: { W: "reduce", "W[4:8]": "auto" } })).toEqual(["W[0:4] dense 4→4 T3 reduce", "W[4:8] dense 4→4 T3"]);
  });

  it("makes no difference where there is one position", () => {
    expect(sharings((m) => m.dense(m.input("x", [4]), 3), { sharing: { "*": "reduce" } })).toEqual(["expand"]);
  });
});
