/** The syntax tree of `.kir` text: what `grammar.ts` reads, with positions, before names and types mean anything. */
import type { Attr } from "./graph.js";

export interface At {
  readonly line: number;
  readonly column: number;
}
export interface Name extends At {
  readonly text: string;
}
export interface TextType extends At {
  readonly dtype: string;
  readonly shape: readonly number[];
}
export interface TextParam {
  readonly name: Name;
  readonly type: TextType;
  readonly source: { readonly kind: Name; readonly numbers: readonly number[] | undefined };
  readonly frozen: boolean;
}
export interface TextInput {
  readonly name: Name;
  readonly type: TextType;
  readonly examples: number | undefined;
}
export interface TextNode {
  readonly results: readonly Name[];
  readonly op: Name;
  readonly inputs: readonly Name[];
  readonly attrs: readonly { readonly name: Name; readonly value: Attr }[];
  readonly regions: readonly TextGraph[];
  /** Written result types; empty if none were. */
  readonly types: readonly TextType[];
  /** Patterns only: the value may have users outside the match. */
  readonly shared: boolean;
  readonly origin: string | undefined;
}
export interface TextGraph {
  readonly name: Name;
  readonly params: readonly TextParam[];
  readonly inputs: readonly TextInput[];
  readonly nodes: readonly TextNode[];
  readonly results: readonly { readonly name: Name; readonly value: Name }[];
}
export interface TextPattern {
  readonly name: Name | undefined;
  readonly holes: readonly { readonly name: Name; readonly kind: readonly Name[] }[];
  readonly nodes: readonly TextNode[];
  readonly returns: readonly Name[];
}
