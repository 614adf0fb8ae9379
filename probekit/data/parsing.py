"""Files of labelled text as columns: finding them, and reading CSV, TSV and JSON lines (plain or .zst)."""

from __future__ import annotations

import csv
import difflib
import glob
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Columns = dict[str, list[Any]]

_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def find_files(path: str | Path | Sequence[str | Path]) -> list[Path]:
    paths = [path] if isinstance(path, str | Path) else list(path)
    found: list[Path] = []
    for one in paths:
        if Path(one).is_file():
            found.append(Path(one))
            continue
        matches = sorted(Path(m) for m in glob.glob(str(one), recursive=True) if Path(m).is_file())  # noqa: PTH207
        if not matches:
            folder = Path(one).parent
            siblings = [p.name for p in folder.iterdir() if p.is_file()] if folder.is_dir() else []
            near = difflib.get_close_matches(Path(one).name, siblings, n=3)
            pattern = any(c in str(one) for c in "*?[")
            if Path(one).is_dir():
                raise IsADirectoryError(
                    f"{str(one)!r} is a folder: give a file in it, or a pattern such as {str(Path(one) / '*.csv')!r}"
                )
            raise FileNotFoundError(
                (f"the pattern {str(one)!r} matches no file" if pattern else f"there is no file {str(one)!r}")
                + (f"; near it: {', '.join(near)}" if near else "")
                + ("" if folder.is_dir() else f" (nor a folder {str(folder)!r})")
            )
        found += matches
    if not found:
        raise FileNotFoundError("read_csv was given an empty list of files")
    return found


def parse(file: Path, data: bytes, columns: Sequence[str] | None) -> tuple[Columns, list[int]]:
    """Columns of strings (JSON lines: of any value), and the line each row starts on."""
    suffixes = [s.lower() for s in file.suffixes]
    if suffixes and suffixes[-1] == ".zst":
        import zstandard

        try:
            data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read()
        except zstandard.ZstdError as error:
            raise ValueError(f"{file.name} is not a Zstandard file, or is damaged: {error}") from error
        suffixes.pop()
    kind = suffixes[-1] if suffixes else ""
    if kind not in (*_DELIMITERS, ".jsonl"):
        raise ValueError(f"{file.name}: only .csv, .tsv and .jsonl (each also with .zst) can be read")
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{file.name} line {line} is not UTF-8 (byte 0x{data[error.start]:02x}); save the file as UTF-8"
        ) from error
    if "\0" in content:
        raise ValueError(f"{file.name} holds NUL characters: it is not a text file (or UTF-16; save it as UTF-8)")
    if kind == ".jsonl":
        table, lines = _parse_jsonl(file, content)
    else:
        table, lines = _parse_delimited(file, content, _DELIMITERS[kind], columns)
    if not lines:
        raise ValueError(f"{file.name} has no rows")
    return table, lines


def _parse_delimited(
    file: Path, content: str, delimiter: str, columns: Sequence[str] | None
) -> tuple[Columns, list[int]]:
    csv.field_size_limit(1 << 30)
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    names = list(columns) if columns is not None else None
    rows, lines, start = [], [], 1
    try:
        for row in reader:
            line, start = start, reader.line_num + 1
            if not any(cell.strip() for cell in row) and len(row) < 2:
                continue
            if names is None:
                names = [cell.strip() for cell in row]
                other = next((d for d in ";\t," if d in names[0]), "") if len(names) == 1 else ""
                if other:
                    save = "save it as .tsv" if other == "\t" else "save it with commas, as .csv"
                    raise ValueError(
                        f"{file.name}: the header has one column, {names[0]!r}; the fields seem to be separated by {other!r}: {save}"
                    )
                continue
            if len(row) != len(names):
                raise ValueError(
                    f"{file.name} line {line} has {_counted(len(row), 'field')}, but there "
                    f"{'is' if len(names) == 1 else 'are'} {_counted(len(names), 'column')} ({', '.join(names)}); quote fields that hold {delimiter!r} or a quotation mark"
                )
            rows.append(row)
            lines.append(line)
    except csv.Error as error:
        raise ValueError(f"{file.name}: malformed in or after line {start}: {error}") from error
    names = names or []
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ValueError(f"{file.name} has more than one column called {', '.join(map(repr, twice))}")
    return {key: [row[i] for row in rows] for i, key in enumerate(names)}, lines


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _parse_jsonl(file: Path, content: str) -> tuple[Columns, list[int]]:
    records: list[dict[str, Any]] = []
    lines = []
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file.name} line {number} is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise ValueError(f"{file.name} line {number} holds a {type(record).__name__}, not an object")
        records.append(record)
        lines.append(number)
    keys = dict.fromkeys(key for record in records for key in record)
    return {key: [record.get(key) for record in records] for key in keys}, lines
