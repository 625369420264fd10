/**
 * Numbers in comma-separated text: one example per line, one or more target columns. RFC 4180 quotes; `,`, `;` or tab.
 *
 * Three kinds of first line: data, column names, and scikit-learn's `examples,features,class names…`.
 */
import { CompileError } from "../../ir/error.js";
import { Cells, isNumber, NEWLINE } from "./cells.js";
import type { RawArray } from "./idx.js";

export interface CsvOptions {
  /** Target columns by name, or by index (from 0; negative: from the end). Several, comma-separated. Default: the last ones. */
  readonly target?: string | undefined;
  /** How many of the last columns are targets if `target` names none. */
  readonly targets: (columns: number) => number;
  /** Whether target cells may be text. */
  readonly text: boolean;
  /** Further groups of columns that are no inputs: targets of other outputs, weights. `flag` is what named them. */
  readonly more?: readonly { readonly target: string; readonly text: boolean; readonly flag: string }[];
}

/** Columns that are no inputs. */
export interface CsvGroup {
  /** [examples, columns] float64; for text: the index into `texts`. */
  readonly targets: RawArray;
  /** The distinct text labels in code-unit order, if they are text. */
  readonly texts?: readonly string[];
}

export interface CsvTable extends CsvGroup {
  /** [examples, features] float32 */
  readonly features: RawArray;
  /** As `more` of the options asks. */
  readonly more: readonly CsvGroup[];
  /** Names of the classes 0, 1, … where the first line gives them. */
  readonly classNames?: readonly string[];
  readonly columns: readonly string[];
  /** The line of each example, from 1. */
  readonly lines: Uint32Array;
  /** For each feature: its column. */
  readonly featureColumns: readonly number[];
}

/**
 * The table in a file.
 *
 * @throws CompileError "bad-data" with line and column for a cell that is no number, an uneven line or an unclosed quote;
 *   "bad-option" if the target column is not there.
 */
export function parseCsv(file: Uint8Array, where: string, options: CsvOptions): CsvTable {
  const bytes = file[0] === 0xef && file[1] === 0xbb && file[2] === 0xbf ? file.subarray(3) : file; // without a byte order mark
  const delimiter = findDelimiter(bytes);
  const head = new Cells(bytes, delimiter, where);
  if (!head.more()) throw new CompileError("bad-data", "the file is empty", where, "it needs at least one line of numbers");
  const first = head.row();
  const second = head.more() ? head.row() : undefined;
  const sklearn = second !== undefined && isPreamble(first, second);
  const named = !sklearn && isHeader(first, second);
  const columns = named ? first : (sklearn ? second : first).map((_, i) => String(i));
  const groups = pickGroups(columns, options, where);
  const groupOf = columns.map((_, i) => groups.find((g) => g.columns.includes(i)));
  const featureColumns = columns.flatMap((_, i) => (groupOf[i] ? [] : [i]));

  // Every cell takes at least its delimiter, so no file can make us allocate more than a few times its own length.
  const capacity = Math.min(
    bytes.reduce((n, c) => n + Number(c === NEWLINE), 1),
    Math.ceil((bytes.length + 1) / columns.length),
  );
  const features = new Float32Array(capacity * featureColumns.length);
  const numbers = new Map(groups.map((g) => [g, new Float64Array(capacity * g.columns.length)]));
  const lines = new Uint32Array(capacity);
  const place = columns.map((_, i) => (groupOf[i]?.columns ?? featureColumns).indexOf(i));
  const cells = new Cells(bytes, delimiter, where);
  if (cells.more() && (named || sklearn)) cells.row();
  let count = 0;
  for (; cells.more(); count++) {
    lines[count] = cells.line;
    for (let column = 0; column === 0 || !cells.rowDone; column++) {
      if (column >= columns.length) throw cells.bad(`more than ${columns.length} columns`);
      cells.next();
      const group = groupOf[column];
      let value = cells.value();
      if (value === undefined && cells.text() === "") throw notANumber(cells, columns[column] as string);
      if (group?.text && (value === undefined) !== group.texts.size > 0 && count > 0)
        throw cells.bad(
          `label "${cells.text()}" is ${value === undefined ? "text" : "a number"}, those before are not`,
          "labels are all numbers or all text",
        );
      if (value === undefined && group?.text) value = intern(group.texts, cells.text());
      if (value === undefined) throw notANumber(cells, columns[column] as string);
      if (!Number.isFinite(Math.fround(value)))
        throw cells.bad(`column "${columns[column]}": ${cells.text().slice(0, 60)} is too large for float32`, "rescale the column");
      if (group) (numbers.get(group) as Float64Array)[count * group.columns.length + (place[column] as number)] = value;
      else features[count * featureColumns.length + (place[column] as number)] = value;
      if (cells.rowDone && column + 1 < columns.length) throw cells.bad(`${column + 1} columns, ${columns.length} expected`);
    }
  }
  const made = groups.map((g): CsvGroup => {
    const [{ texts }, data] = [g, (numbers.get(g) as Float64Array).subarray(0, count * g.columns.length)];
    if (texts.size > 0) sortTexts(texts, data);
    return { targets: { shape: [count, g.columns.length], data, where }, ...(texts.size > 0 && { texts: [...texts.keys()].sort() }) };
  });
  return {
    ...(made[0] as CsvGroup), more: made.slice(1),
    features: { shape: [count, featureColumns.length], data: features.subarray(0, count * featureColumns.length), where },
    ...(sklearn && { classNames: first.slice(2) }),
    columns,
    lines: lines.subarray(0, count),
    featureColumns,
  };
}

const notANumber = (cells: Cells, column: string): CompileError => {
  const text = cells.text();
  const spaced = /^\S+\s+\S/.test(text) ? "separate columns by commas" : undefined;
  return cells.bad(
    `column "${column.slice(0, 60)}": ${text === "" ? "a cell is empty" : `"${text.slice(0, 60)}" is not a number`}`,
    spaced ?? "fill or remove missing values; encode categories as numbers",
  );
};

const intern = (texts: Map<string, number>, text: string): number => {
  const known = texts.get(text);
  if (known !== undefined) return known;
  texts.set(text, texts.size);
  return texts.size - 1;
};

/** Renumbers labels from the order of their appearance to their sorted order: a shuffled file gets the same numbers. */
function sortTexts(texts: ReadonlyMap<string, number>, labels: Float64Array): void {
  const rank = new Map([...texts.keys()].sort().map((text, i) => [texts.get(text), i]));
  labels.forEach((label, i) => (labels[i] = rank.get(label) as number));
}

function findDelimiter(bytes: Uint8Array): number {
  const end = bytes.indexOf(NEWLINE);
  const line = new TextDecoder().decode(bytes.subarray(0, end < 0 ? bytes.length : end)).replace(/"[^"]*"/g, "");
  return (line.includes(",") ? "," : line.includes(";") ? ";" : line.includes("\t") ? "\t" : ",").charCodeAt(0);
}

/** `examples,features,name,…`: two counts and then text, above as many numbers as there are features and one more. */
const isPreamble = (first: readonly string[], second: readonly string[]): boolean =>
  first.length >= 3 &&
  /^\d+$/.test(first[0] as string) &&
  Number(first[1]) === second.length - 1 &&
  first.slice(2).every((cell) => !isNumber(cell)) &&
  second.every(isNumber);

/** Text that could name a column. A missing value in the first line of data must not make it a header. */
const isName = (cell: string): boolean => !isNumber(cell) && !/^(|na|n\/a|nan|null|none|\?|-|[+-]?inf(inity)?)$/i.test(cell);

/** Column names: some name stands above a number, or no cell is a number at all. */
const isHeader = (first: readonly string[], second: readonly string[] | undefined): boolean =>
  first.some((cell, i) => isName(cell) && (isNumber(second?.[i] ?? "") || first.every((other) => !isNumber(other))));

interface Group {
  readonly columns: readonly number[];
  readonly text: boolean;
  /** Text labels in the order of their appearance. */
  readonly texts: Map<string, number>;
}

/** The columns of the targets, then those of every further group. */
function pickGroups(columns: readonly string[], { target, targets, text, more = [] }: CsvOptions, where: string): Group[] {
  const find = (name: string, flag: string): number => {
    const byName = columns.indexOf(name);
    const index = Number(name);
    const at = byName >= 0 ? byName : name !== "" && Number.isInteger(index) ? (index < 0 ? index + columns.length : index) : -1;
    if (at >= 0 && at < columns.length) return at;
    const list = columns.slice(0, 20).join(", ") + (columns.length > 20 ? ", …" : "");
    throw new CompileError("bad-option", `no column "${name}"`, `${flag}, ${where}`, `columns: ${list}`);
  };
  const named = (list: string, flag: string): number[] =>
    columns.includes(list) ? [find(list, flag)] : [...new Set(list.split(",").map((name) => find(name.trim(), flag)))];
  const others = more.map((m) => ({ columns: named(m.target, m.flag), text: m.text, texts: new Map<string, number>(), flag: m.flag }));
  const taken = others.flatMap((g) => g.columns);
  const free = columns.flatMap((_, i) => (taken.includes(i) ? [] : [i]));
  const own = target === undefined ? free.slice(Math.max(0, free.length - targets(free.length))) : named(target, "--target");
  const all = [...own, ...taken];
  const twice = all.find((c, i) => all.indexOf(c) !== i);
  if (twice !== undefined) throw new CompileError("bad-option", `column "${columns[twice]}" is named for two things`, `--target, ${where}`, "a column is one output's target, or the weights");
  return [{ columns: own, text, texts: new Map<string, number>() }, ...others];
}
