"""Tables as people save them, and tables that contradict themselves."""
import csv
import io
from collections.abc import Callable
from pathlib import Path

from fuzzing.corpora import examples
from fuzzing.mutations import files_below, one_of

Rows = list[list[str]]
LAYOUTS = ("ct_rate", "radgenome", "bimcv", "folder", "dicom")
CELLS = ["", " ", "NA", "None", "nan", "0", "1", "2", "-1", "0001", "1E5", "true", "[0.7, 0.7]", "../x", "/etc/passwd", "a\\b"]
CELLS += ["a\x00b", "Müller", "é" * 300, "a b", "a_b", "x/../a", '"', "'", "a,b", "a;b", "a\nb", "=1+1", "train", "test", "\u202e"]


def parsed(path: Path) -> Rows:
    "The cells of a good table."
    return list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))


def written(rows: Rows, delimiter: str = ",", end: str = "\n", quoting: int = csv.QUOTE_MINIMAL) -> str:
    "Rows as CSV."
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows(rows)
    return text.getvalue()


# --- what changes nothing -----------------------------------------------------------------------------------

def shuffled(rows: Rows, rng) -> Rows:
    "Columns in another order; the volume's name, which may stand anywhere, too."
    order = rng.permutation(len(rows[0]))
    return [[row[i] for i in order] for row in rows]


def padded(rows: Rows, rng) -> Rows:
    "Blanks around cells, but for those with line breaks."
    return [[f" {cell} " if "\n" not in cell else cell for cell in row] for row in rows]


def with_empty_rows(rows: Rows, rng) -> Rows:
    "Rows without a word in them, somewhere and at the end."
    at = int(rng.integers(1, len(rows) + 1))
    empty = [""] * len(rows[0])
    return [*rows[:at], empty, *rows[at:], empty]


def with_more_commas(rows: Rows, rng) -> Rows:
    "Empty cells at the end, of the header too or not."
    first = int(rng.integers(2))
    more = [""] * int(rng.integers(1, 4))
    return rows[:first] + [row + more for row in rows[first:]]


HARMLESS: list[Callable] = [shuffled, padded, with_empty_rows, with_more_commas]


def as_saved(rows: Rows, rng) -> bytes:
    "The same table in other bytes: delimiter, line ends, quotes, encoding."
    for _ in range(rng.integers(0, 3)): rows = one_of(HARMLESS, rng)(rows, rng)
    delimiter = one_of([",", ",", "\t", ";"], rng)
    if delimiter == ";" and any("," in cell for cell in rows[0]): delimiter = ","
    quoting = one_of([csv.QUOTE_MINIMAL, csv.QUOTE_ALL], rng)
    text = written(rows, delimiter, one_of(["\n", "\r\n", "\r"], rng), quoting)
    return text.encode(one_of(["utf-8", "utf-8-sig", "utf-16"], rng))


def what_is_read(root: Path) -> tuple[list, list]:
    "Cases and questions of a corpus, in an order of their own."
    from hsenet.corpora.layouts import read_corpus, read_corpus_questions
    cases = read_corpus(root).sort_values("case").to_dict("records")
    questions, _ = read_corpus_questions(root)
    return cases, questions.astype(str).values.tolist()


def saved(work: Path, rng):
    "A table saved in another way: the cases and questions must be the same."
    root = examples(work)[one_of(LAYOUTS, rng)]
    path = one_of(files_below(root, ".csv"), rng)
    good = path.read_bytes()
    expected = what_is_read(root)
    try:
        path.write_bytes(as_saved(parsed(path), rng))
        found = what_is_read(root)
    finally:
        path.write_bytes(good)
    if found != expected: raise AssertionError(f"{path.name}: the same table is read as another")


# --- what contradicts itself --------------------------------------------------------------------------------

def odd_rows(rows: Rows, rng) -> Rows:
    "One change to the header, a column, a row or a cell."
    header, *body = [list(row) for row in rows]
    row = one_of(body, rng)
    column = int(rng.integers(max(1, min(len(header), len(row)))))
    if not row: return rows
    match rng.integers(11):
        case 0: return [[*r[:column], *r[column + 1 :]] for r in (header, *body)]
        case 1: header[column] = one_of(header, rng)
        case 2: header[column] = one_of([header[column].upper(), header[column] + "2", ""], rng)
        case 3: body.append(list(row))
        case 4: body.append([row[0].removesuffix(".gz").removesuffix(".nii"), *row[1:]])
        case 5: row[column] = one_of(CELLS, rng)
        case 6: row.pop(column)
        case 7: row.insert(column, one_of(CELLS, rng))
        case 8: row[column], row[0] = row[0], row[column]
        case 9: body = [[*r[:column], one_of(CELLS, rng), *r[column + 1 :]] for r in body]
        case 10: body = []
    return [header, *body]


def odd_bytes(rows: Rows, rng) -> bytes:
    "A table in quotes or bytes that may not fit."
    match rng.integers(6):
        case 0: return "\n".join(",".join(row) for row in rows).encode()  # nothing in quotes
        case 1: return written(rows).replace('"', "", 1).encode()
        case 2: return written(rows).replace(",", ';', int(rng.integers(1, 9))).encode()
        case 3: return written([[*rows[0][:-1], "Müller"], *rows[1:]]).encode("latin-1", "replace")
        case 4: return written(rows).encode("utf-16")[2:]  # without its mark
        case _: return written(rows).encode()


def contradicts(work: Path, rng):
    "A table with missing, repeated, renamed columns, odd cells, quotes and encodings."
    from hsenet.cache.preprocess import check_cases
    from hsenet.corpora.check import check_corpus
    from hsenet.corpora.layouts import read_corpus, read_corpus_questions
    root = examples(work)[one_of(LAYOUTS, rng)]
    path = one_of(files_below(root, ".csv"), rng)
    good = path.read_bytes()
    rows = parsed(path)
    for _ in range(rng.integers(1, 4)):
        if len(rows) > 1 and rows[0]: rows = odd_rows(rows, rng)
    try:
        path.write_bytes(odd_bytes(rows, rng))
        str(check_corpus(root, sample=0))
        cases = read_corpus(root)
        check_cases(cases)
        read_corpus_questions(root)
    finally:
        path.write_bytes(good)
    for place in cases.path:
        if not Path(place).resolve().is_relative_to(root.resolve()):
            raise AssertionError(f"reads outside of the corpus: {place}")


KINDS = {"saved": saved, "contradicts": contradicts}
