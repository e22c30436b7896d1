"""Which files a URI means: a file, a folder or a glob, local or remote, in an order that no listing can change."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote

import pyarrow as pa
from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow import fs

from rosepo_ray import storage
from rosepo_ray.config.data import TextFormat
from rosepo_ray.errors import BadInput

Format = Literal["parquet", "csv", "tsv", "text", "jsonl", "recbole"]
Role = Literal["interactions", "items"]
UTF8 = "utf-8"

_FORMATS: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".dat": "text",
    ".data": "text",
    ".txt": "text",
    ".json": "jsonl",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".inter": "recbole",
    ".item": "recbole",
}
_KNOWN = "Parquet (.parquet), .csv, .tsv, .dat, .txt, .json, .jsonl (each also .gz) or RecBole .inter/.item"
_GZIP = b"\x1f\x8b"
_OTHER_CONTENT = {
    b"PAR1": "Parquet; give it the suffix .parquet",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"BZh": "packed with bzip2; unpack it",
    b"\xfd7zXZ": "packed with xz; unpack it",
    b"\x28\xb5\x2f\xfd": "packed with Zstandard; unpack it",
}
_OTHER_ROLE = {"interactions": ".item", "items": ".inter"}  # a RecBole folder holds both files


@dataclass(frozen=True)
class SourceFile:
    """One input file: `root` opens the file system, `path` is the path inside it, `size` in bytes.

    `encoding` is that of text: a name that Python knows. Parquet has none of its own. `folders` are the columns that
    folders below the URI name, such as `dt=2020-01-01`; anything else in a path means nothing.
    """

    root: str
    path: str
    size: int
    format: Format
    encoding: str = UTF8
    role: Role = "interactions"
    text: TextFormat = field(default_factory=TextFormat)
    folders: tuple[tuple[str, str | None], ...] = ()

    @property
    def format_option(self) -> str:
        """The section that says how the text is written."""
        return "--data.format" if self.role == "interactions" else "--data.items_format"

    def open_file(self) -> Any:
        """Random access, for Parquet."""
        return storage.filesystem(self.root)[0].open_input_file(self.path)

    def open_stream(self) -> Any:
        """Sequential access to UTF-8 text; gzip (whatever it is called) is decompressed and another encoding transcoded
        on the way. Raises BadInput for what is plainly no text."""
        system = storage.filesystem(self.root)[0]
        with system.open_input_stream(self.path, compression=None) as stream:
            start = stream.read(8)
        for mark, what in _OTHER_CONTENT.items():
            if start.startswith(mark):
                raise BadInput(f"{self.path} is by its content {what}")
        packed = "gzip" if start.startswith(_GZIP) else None
        stream = system.open_input_stream(self.path, compression=packed)
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


def _folders(path: str, base: str) -> tuple[tuple[str, str | None], ...]:
    """Columns that the folders of `path` below `base` name, as Hive and Spark write them."""
    below = path[len(base.rstrip("/")) + 1 :].split("/")[:-1]
    pairs = [part.split("=", 1) for part in below if "=" in part]
    return tuple((unquote(n), None if v == "__HIVE_DEFAULT_PARTITION__" else unquote(v)) for n, v in pairs)


def locate(uri: str, role: Role, encoding: str = UTF8, text: TextFormat | None = None) -> list[SourceFile]:
    """The input files behind `uri`, sorted by path; files of zero bytes are left out. `encoding` and `text` say how
    text is written.

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
        if ".txt" not in uri.lower():  # in a folder they are notes, unless they were asked for
            known = [entry for entry in known if not _without_gz(entry[0]).endswith(".txt")]
    text = text or TextFormat()
    base = storage.filesystem(root)[1]
    files = [
        SourceFile(root, path, size, kind, encoding, role, text, () if single else _folders(path, base))
        for path, size, kind in known
        if kind is not None and size > 0
    ]
    if not files:
        if any(kind is not None for _, _, kind in known):
            raise BadInput(f"'{uri}' ({option}) holds no rows: every file there is empty; give the file with the data")
        raise BadInput(f"'{uri}' ({option}) has no file of a known format; give {_KNOWN}")
    return files
