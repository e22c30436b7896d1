"""Which files a URI means: a file, a folder or a glob, local or remote, in an order that no listing can change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import pyarrow as pa
from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow import fs

from rosepo_ray import storage
from rosepo_ray.errors import BadInput

Format = Literal["parquet", "csv", "tsv", "jsonl", "recbole"]
Role = Literal["interactions", "items"]
UTF8 = "utf-8"

_FORMATS: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".inter": "recbole",
    ".item": "recbole",
}
_KNOWN = "Parquet (.parquet), .csv, .tsv, .jsonl (each text format also .gz) or RecBole .inter/.item"
_OTHER_ROLE = {"interactions": ".item", "items": ".inter"}  # a RecBole folder holds both files


@dataclass(frozen=True)
class SourceFile:
    """One input file: `root` opens the file system, `path` is the path inside it, `size` in bytes.

    `encoding` is that of text: a name that Python knows. Parquet has none of its own.
    """

    root: str
    path: str
    size: int
    format: Format
    encoding: str = UTF8

    def open_file(self) -> Any:
        """Random access, for Parquet."""
        return storage.filesystem(self.root)[0].open_input_file(self.path)

    def open_stream(self) -> Any:
        """Sequential access to UTF-8 text; .gz is decompressed and another encoding transcoded on the way."""
        packed = "gzip" if self.path.lower().endswith(".gz") else None
        stream = storage.filesystem(self.root)[0].open_input_stream(self.path, compression=packed)
        return stream if self.encoding == UTF8 else pa.transcoding_input_stream(stream, self.encoding, UTF8)


def format_of(path: str) -> Format | None:
    """The format by suffix, `.gz` set aside for text; None where it is unknown."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(path).suffixes]
    zipped = suffixes[-1:] == [".gz"]
    found = _FORMATS.get("".join((suffixes[:-1] if zipped else suffixes)[-1:]))
    return None if zipped and found == "parquet" else found


def _without_gz(path: str) -> str:
    return path.lower().removesuffix(".gz")


def _below(system: fs.FileSystem, folder: str) -> list[tuple[str, int]]:
    """Files (path, size) at any depth. Names that start with a dot or an underscore are left out: they are the
    bookkeeping of the tools that wrote the folder."""
    inside = system.get_file_info(fs.FileSelector(folder, recursive=True))
    files = [(i.path, int(i.size or 0)) for i in inside if i.type == fs.FileType.File]
    start = len(folder.rstrip("/")) + 1
    return [f for f in files if not any(p[0] in "._" for p in f[0][start:].split("/") if p)]


def _listed(uri: str) -> tuple[list[tuple[str, int]], str, bool]:
    """Files (path, size) that `uri` means, the URI that opens their file system, and whether `uri` is one file."""
    parts = uri.split("/")
    # In a URI a question mark starts the options of the file system.
    signs = "*[" if "://" in uri else "*?["
    wild = next((i for i, part in enumerate(parts) if any(sign in part for sign in signs)), None)
    if wild is not None and ("://" in uri or not storage.exists(uri)):  # a name may hold such a sign
        root = "/".join(parts[:wild]) or ("/" if uri.startswith("/") else ".")
        system, base = storage.filesystem(root)
        found = ArrowFSWrapper(system).glob("/".join([base.rstrip("/"), *parts[wild:]]), detail=True)
        files = {path: int(info["size"] or 0) for path, info in found.items() if info["type"] == "file"}
        for path, info in found.items():
            if info["type"] == "directory" and PurePosixPath(path).name[0] not in "._":
                files.update(_below(system, path))
        return list(files.items()), root, False
    system, path = storage.filesystem(uri)
    info = system.get_file_info(path)
    if info.type == fs.FileType.Directory:
        return _below(system, path), uri, False
    if info.type == fs.FileType.NotFound:
        return [], uri, True
    return [(path, int(info.size or 0))], uri, True


def locate(uri: str, role: Role, encoding: str = UTF8) -> list[SourceFile]:
    """The input files behind `uri`, sorted by path; files of zero bytes are left out. `encoding` is that of text.

    Raises BadInput where there is no file, no file of a known format, or nothing but empty files.
    """
    option = f"--data.{role}"
    try:
        found, root, single = _listed(uri)
    except OSError as error:
        raise BadInput(f"'{uri}' ({option}) cannot be read ({error}); check the path and the permissions") from error
    if not found:
        raise BadInput(f"there is no file at '{uri}'; give {option} an existing file, a folder or a glob")
    known = [(path, size, format_of(path)) for path, size in sorted(found)]
    if not single:
        known = [entry for entry in known if not _without_gz(entry[0]).endswith(_OTHER_ROLE[role])]
    files = [
        SourceFile(root, path, size, kind, encoding) for path, size, kind in known if kind is not None and size > 0
    ]
    if not files:
        if any(kind is not None for _, _, kind in known):
            raise BadInput(f"'{uri}' ({option}) holds no rows: every file there is empty; give the file with the data")
        raise BadInput(f"'{uri}' ({option}) has no file of a known format; give {_KNOWN}")
    return files
