/** The grammar of `.kir` text: characters → a syntax tree with positions. What the tree means is in `parse.ts` and `pattern.ts`. */
import { createToken, EmbeddedActionsParser, EOF, type IParserErrorMessageProvider, type IToken, Lexer, type TokenType } from "chevrotain";
import { CompileError } from "./error.js";
import type { Attr } from "./graph.js";
import type { KEYWORDS } from "./print.js";
import type { At, Name, TextGraph, TextInput, TextNode, TextParam, TextPattern, TextType } from "./tree.js";

const NUMBER = /-?(?:\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|inf(?![\w])|nan(?![\w]))/;

const Space = createToken({ name: "Space", pattern: /\s+/, line_breaks: true, group: Lexer.SKIPPED });
const Comment = createToken({ name: "Comment", pattern: /#[^\n]*/, group: Lexer.SKIPPED });
const ValueName = createToken({ name: "ValueName", label: "a value like %x", pattern: /%(?:[A-Za-z0-9_./-]+|"(?:[^"\\\n\r]|\\.)*")/ });
const Text = createToken({ name: "Text", label: "a string", pattern: /"(?:[^"\\\n\r]|\\.)*"/ });
const Num = createToken({ name: "Num", label: "a number", pattern: NUMBER });
const Word = createToken({ name: "Word", label: "a name", pattern: /[A-Za-z_]\w*/ });
const keyword = (word: (typeof KEYWORDS)[number]): TokenType =>
  createToken({ name: `Keyword_${word}`, label: `"${word}"`, pattern: word, longer_alt: Word });
const sign = (name: string, text: string): TokenType => createToken({ name, label: `"${text}"`, pattern: text });

const [KGraph, KPattern, KParam, KInput, KReturn, KFrozen, KExamples, KShared, KTrue, KFalse] = (
  ["graph", "pattern", "param", "input", "return", "frozen", "examples", "shared", "true", "false"] as const
).map(keyword) as [TokenType, TokenType, TokenType, TokenType, TokenType, TokenType, TokenType, TokenType, TokenType, TokenType];
const KEYWORD_TOKENS = [KGraph, KPattern, KParam, KInput, KReturn, KFrozen, KExamples, KShared, KTrue, KFalse];
const [Open, Close] = [sign("Open", "("), sign("Close", ")")];
const [BraceOpen, BraceClose] = [sign("BraceOpen", "{"), sign("BraceClose", "}")];
const [BracketOpen, BracketClose] = [sign("BracketOpen", "["), sign("BracketClose", "]")];
const [Comma, Colon, Equals, AtSign] = [sign("Comma", ","), sign("Colon", ":"), sign("Equals", "="), sign("AtSign", "@")];

const TOKENS = [
  Space, Comment, ValueName, Text, Num, ...KEYWORD_TOKENS, Word,
  Open, Close, BraceOpen, BraceClose, BracketOpen, BracketClose, Comma, Colon, Equals, AtSign,
];
const lexer = new Lexer(TOKENS);

const label = (token: TokenType): string => token.LABEL ?? token.name;
const found = (token: IToken | undefined): string => (!token || token.tokenType === EOF ? "the end of the text" : `"${token.image}"`);
const anyOf = (tokens: readonly TokenType[]): string => [...new Set(tokens.map(label))].join(" or ");
/** What else could stand where these are missing. */
const ENDS = new Map<TokenType, string>([
  [Close, '"," or ")"'], [BracketClose, '"," or "]"'], [BraceClose, '"," or "}"'], [KReturn, 'a node, a param, an input or "return"'],
]);
const messages: IParserErrorMessageProvider = {
  buildMismatchTokenMessage: ({ expected, actual }) => `expected ${ENDS.get(expected) ?? label(expected)}, found ${found(actual)}`,
  buildNotAllInputParsedMessage: ({ firstRedundant }) => `expected the end of the text, found ${found(firstRedundant)}`,
  buildNoViableAltMessage: ({ expectedPathsPerAlt, actual }) =>
    `expected ${anyOf(expectedPathsPerAlt.flat().flatMap((path) => path.slice(0, 1)))}, found ${found(actual[0])}`,
  buildEarlyExitMessage: ({ expectedIterationPaths, actual }) =>
    `expected ${anyOf(expectedIterationPaths.flatMap((path) => path.slice(0, 1)))}, found ${found(actual[0])}`,
};

const at = (token: IToken): At => ({ line: token.startLine ?? 1, column: token.startColumn ?? 1 });
const toNumber = (image: string): number =>
  image === "nan" || image === "-nan" ? Number.NaN : Number(image.replace("inf", "Infinity"));

class Grammar extends EmbeddedActionsParser {
  constructor() {
    super(TOKENS, { errorMessageProvider: messages, maxLookahead: 2 });
    this.performSelfAnalysis();
  }

  /** A string's value; a bad escape is a syntax error at the string. */
  #unquote(token: IToken, image: string): Name {
    try {
      return { ...at(token), text: JSON.parse(image) as string };
    } catch {
      throw syntaxError(`bad escape in ${image}`, at(token));
    }
  }

  readonly value = this.RULE("value", (): Name => {
    const token = this.CONSUME(ValueName);
    const image = token.image.slice(1);
    return this.ACTION(() => (image.startsWith('"') ? this.#unquote(token, image) : { ...at(token), text: image }));
  });

  readonly text = this.RULE("text", (): Name => {
    const token = this.CONSUME(Text);
    return this.ACTION(() => this.#unquote(token, token.image));
  });

  readonly word = this.RULE("word", (): Name =>
    this.OR([
      { ALT: () => { const token = this.CONSUME(Word); return { ...at(token), text: token.image }; } },
      { ALT: () => this.SUBRULE(this.text) },
    ]));

  readonly number = this.RULE("number", (): number => toNumber(this.CONSUME(Num).image));

  readonly numbers = this.RULE("numbers", (): number[] => {
    const list: number[] = [];
    this.MANY_SEP({ SEP: Comma, DEF: () => list.push(this.SUBRULE(this.number)) });
    return list;
  });

  readonly type = this.RULE("type", (): TextType => {
    const token = this.CONSUME(Word);
    this.CONSUME(BracketOpen);
    const shape = this.SUBRULE(this.numbers);
    this.CONSUME(BracketClose);
    return { ...at(token), dtype: token.image, shape };
  });

  readonly attr = this.RULE("attr", (): Attr =>
    this.OR<Attr>([
      { ALT: () => this.SUBRULE(this.number) },
      { ALT: () => { const { text } = this.SUBRULE(this.text) ?? { text: "" }; return text; } },
      { ALT: () => { this.CONSUME(KTrue); return true; } },
      { ALT: () => { this.CONSUME(KFalse); return false; } },
      { ALT: () => { this.CONSUME(BracketOpen); const list = this.SUBRULE(this.numbers); this.CONSUME(BracketClose); return list; } },
    ]));

  readonly attrs = this.RULE("attrs", (): { name: Name; value: Attr }[] => {
    const list: { name: Name; value: Attr }[] = [];
    this.CONSUME(BraceOpen);
    this.MANY_SEP({ SEP: Comma, DEF: () => {
      const name = this.SUBRULE(this.word);
      this.CONSUME(Equals);
      list.push({ name, value: this.SUBRULE(this.attr) });
    } });
    this.CONSUME(BraceClose);
    return list;
  });

  readonly values = this.RULE("values", (): Name[] => {
    const list: Name[] = [];
    this.MANY_SEP({ SEP: Comma, DEF: () => list.push(this.SUBRULE(this.value)) });
    return list;
  });

  readonly node = this.RULE("node", (): TextNode => {
    const results: Name[] = [];
    const regions: TextGraph[] = [];
    const types: TextType[] = [];
    this.AT_LEAST_ONE_SEP({ SEP: Comma, DEF: () => results.push(this.SUBRULE(this.value)) });
    this.CONSUME(Equals);
    const op = this.CONSUME(Word);
    this.CONSUME(Open);
    const inputs = this.SUBRULE(this.values);
    this.CONSUME(Close);
    const attrs = this.OPTION(() => this.SUBRULE(this.attrs)) ?? [];
    this.MANY(() => regions.push(this.SUBRULE(this.graph)));
    this.OPTION1(() => {
      this.CONSUME(Colon);
      this.AT_LEAST_ONE_SEP1({ SEP: Comma, DEF: () => types.push(this.SUBRULE(this.type)) });
    });
    const shared = this.OPTION2(() => this.CONSUME(KShared)) !== undefined;
    const origin = this.OPTION3(() => { this.CONSUME(AtSign); return this.SUBRULE(this.text); })?.text;
    return { results, op: { ...at(op), text: op.image }, inputs, attrs, regions, types, shared, origin };
  });

  readonly paramLine = this.RULE("paramLine", (): TextParam => {
    this.CONSUME(KParam);
    const name = this.SUBRULE(this.value);
    this.CONSUME(Colon);
    const type = this.SUBRULE(this.type);
    this.CONSUME(Equals);
    const kind = this.CONSUME(Word);
    const numbers = this.OPTION(() => {
      this.CONSUME(Open);
      const list = this.SUBRULE(this.numbers);
      this.CONSUME(Close);
      return list;
    });
    const frozen = this.OPTION1(() => this.CONSUME(KFrozen)) !== undefined;
    return { name, type, source: { kind: { ...at(kind), text: kind.image }, numbers }, frozen };
  });

  readonly inputLine = this.RULE("inputLine", (): TextInput => {
    this.CONSUME(KInput);
    const name = this.SUBRULE(this.value);
    this.CONSUME(Colon);
    const type = this.SUBRULE(this.type);
    const examples = this.OPTION(() => { this.CONSUME(KExamples); return this.SUBRULE(this.number); });
    return { name, type, examples };
  });

  readonly graph: (idx?: number) => TextGraph = this.RULE("graph", (): TextGraph => {
    const params: TextParam[] = [];
    const inputs: TextInput[] = [];
    const nodes: TextNode[] = [];
    const results: { name: Name; value: Name }[] = [];
    this.CONSUME(KGraph);
    const name = this.SUBRULE(this.word);
    this.CONSUME(BraceOpen);
    this.MANY(() => this.OR([
      { ALT: () => params.push(this.SUBRULE(this.paramLine)) },
      { ALT: () => inputs.push(this.SUBRULE(this.inputLine)) },
      { ALT: () => nodes.push(this.SUBRULE(this.node)) },
    ]));
    this.CONSUME(KReturn);
    this.MANY_SEP({ SEP: Comma, DEF: () => {
      const as = this.SUBRULE1(this.word);
      this.CONSUME(Equals);
      results.push({ name: as, value: this.SUBRULE(this.value) });
    } });
    this.CONSUME(BraceClose);
    return { name, params, inputs, nodes, results };
  });

  readonly pattern = this.RULE("pattern", (): TextPattern => {
    const holes: { name: Name; kind: Name[] }[] = [];
    const nodes: TextNode[] = [];
    const name = this.OPTION(() => { this.CONSUME(KPattern); return this.SUBRULE(this.word); });
    this.CONSUME(Open);
    this.MANY_SEP({ SEP: Comma, DEF: () => {
      const token = this.CONSUME(Word);
      const kind: Name[] = [];
      this.CONSUME(Colon);
      this.AT_LEAST_ONE(() => {
        const part = this.OR([{ ALT: () => this.CONSUME1(Word) }, { ALT: () => this.CONSUME(KParam) }]);
        kind.push({ ...at(part), text: part.image });
      });
      holes.push({ name: { ...at(token), text: token.image }, kind });
    } });
    this.CONSUME(Close);
    this.CONSUME(BraceOpen);
    this.MANY(() => nodes.push(this.SUBRULE(this.node)));
    this.CONSUME(KReturn);
    const returns = this.SUBRULE(this.values);
    this.CONSUME(BraceClose);
    return { name, holes, nodes, returns };
  });

  readonly graphFile = this.RULE("graphFile", (): TextGraph => this.SUBRULE(this.graph));

  readonly patternFile = this.RULE("patternFile", (): TextPattern[] => {
    const list: TextPattern[] = [];
    this.MANY(() => list.push(this.SUBRULE(this.pattern)));
    return list;
  });
}

let grammar: Grammar | undefined;

/** CompileError "syntax" at a place; `file` names the text for the user. */
export const syntaxError = (message: string, place: At, file?: string): CompileError =>
  new CompileError("syntax", message, spellAt(place, file));

export const spellAt = (place: At, file?: string): string =>
  `${file === undefined ? "" : `${file}, `}line ${place.line}, column ${place.column}`;

function read<T>(text: string, file: string | undefined, rule: (grammar: Grammar) => T): T {
  const { tokens, errors } = lexer.tokenize(text);
  const bad = errors[0];
  if (bad) {
    const place = { line: bad.line ?? 1, column: bad.column ?? 1 };
    throw syntaxError(`unexpected character ${JSON.stringify(text.slice(bad.offset, bad.offset + 1))}`, place, file);
  }
  grammar ??= new Grammar();
  grammar.input = tokens;
  let tree: T;
  try {
    tree = rule(grammar);
  } catch (e) {
    if (e instanceof CompileError && file !== undefined) throw new CompileError(e.code, e.message, `${file}, ${e.where}`);
    throw e;
  }
  const wrong = grammar.errors[0];
  if (wrong) {
    const lines = text.split("\n");
    const end = { line: lines.length, column: (lines.at(-1)?.length ?? 0) + 1 };
    throw syntaxError(wrong.message, wrong.token.tokenType === EOF ? end : at(wrong.token), file);
  }
  return tree;
}

/** The syntax tree of one graph. @throws CompileError "syntax" with line, column and what was expected. */
export const readGraph = (text: string, file?: string): TextGraph => read(text, file, (g) => g.graphFile());

/** The syntax trees of any number of patterns. @throws CompileError "syntax". */
export const readPatterns = (text: string, file?: string): TextPattern[] => read(text, file, (g) => g.patternFile());
