"""Files behind a path or a URI: the few operations that stages need, by fsspec.

Arrow's own clients serve s3:// and gs:// (no further package is needed, and options such as `?endpoint_override=…` are
theirs); any other scheme is fsspec's, options as arguments of its file system, and needs the package that serves it
(adlfs for abfs://). Nothing here relies on rename or append, which object stores do not have.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import fsspec
from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow import fs

from rosepo_ray.errors import BadInput
from rosepo_ray.storage.disk_space import guarded

_ARROW = ("file", "s3", "gs", "gcs")
_TEMPORARY = ".tmp-"


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of `uri` as pyarrow and Ray want it, and the path inside it. In a local path no sign means
    anything. Raises BadInput for a scheme that nothing installed serves."""
    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
    address, _, options = uri.partition("?")
    try:
        if address.partition("://")[0] in _ARROW:
            return fs.FileSystem.from_uri(uri)
        system, path = fsspec.url_to_fs(address, **dict(parse_qsl(options)))
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise BadInput(f"'{uri}' cannot be opened ({error}); give a local path or an s3:// or gs:// URI") from error
    return fs.PyFileSystem(fs.FSSpecHandler(system)), path


def _opened(uri: str) -> tuple[Any, str]:
    """The same as fsspec's file system. Its own for local files is passed over: it follows no links to folders."""
    system, path = filesystem(uri)
    if isinstance(system, fs.PyFileSystem):
        return system.handler.fs, path
    return ArrowFSWrapper(system, skip_instance_cache=True), path


def is_local(uri: str) -> bool:
    return isinstance(filesystem(uri)[0], fs.LocalFileSystem)


def join(uri: str, *names: str) -> str:
    """`names` below `uri`, in front of a URI's options."""
    address, mark, options = uri.partition("?") if "://" in uri else (uri, "", "")
    return "/".join([address.rstrip("/"), *names]) + mark + options


def name(uri: str) -> str:
    """The last part of a path or URI, without options."""
    return (uri.partition("?")[0] if "://" in uri else uri).rstrip("/").rpartition("/")[2]


def parent(uri: str) -> str:
    """The folder that holds `uri`, a URI's options kept."""
    address, mark, options = uri.partition("?") if "://" in uri else (uri, "", "")
    return address.rstrip("/").rpartition("/")[0] + mark + options


def exists(uri: str) -> bool:
    system, path = _opened(uri)
    try:
        system.info(path)  # fsspec's own `exists` takes any failure for absence
    except FileNotFoundError:
        return False
    return True


def list_files(uri: str) -> list[str]:
    """Every file below `uri`, as sorted paths relative to it; empty where the folder does not exist.

    Names that start with a dot are leftovers of killed writes and are passed over.
    """
    system, path = _opened(uri)
    try:
        found = system.find(path, on_error="raise")
    except FileNotFoundError:
        return []
    below = [file for file in found if file != path and not name(file).startswith(".")]
    return sorted(file[len(path.rstrip("/")) + 1 :] for file in below)


def sizes(uri: str) -> dict[str, int]:
    """Bytes of every file below `uri`, by its path relative to it; dot files too."""
    system, path = _opened(uri)
    try:
        found = system.find(path, detail=True)
    except FileNotFoundError:
        return {}
    return {file[len(path.rstrip("/")) + 1 :]: int(info["size"] or 0) for file, info in found.items() if file != path}


def read_bytes(uri: str) -> bytes:
    system, path = _opened(uri)
    return bytes(system.cat_file(path))


def write_bytes(uri: str, content: bytes) -> None:
    """Write one whole file; on a local disk through a temporary name, so that no reader sees half of it.

    Raises NoSpace where the disk is full; the temporary file is gone then and what was there before stays.
    """
    with _writing(uri) as stream:
        stream.write(content)


@contextmanager
def _writing(uri: str) -> Iterator[Any]:
    system, path = _opened(uri)
    if not is_local(uri):
        with system.open(path, "wb") as stream:
            yield stream
        return
    folder = Path(path).parent
    with guarded(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=_TEMPORARY, delete=False) as stream:
            try:
                yield stream
                stream.flush()  # a full disk may show only now
                Path(stream.name).chmod(0o644)
                Path(stream.name).replace(path)
            except BaseException:
                Path(stream.name).unlink(missing_ok=True)
                raise


def read_json(uri: str) -> Any:
    return json.loads(read_bytes(uri))


def write_json(uri: str, value: Any) -> None:
    write_bytes(uri, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def sha256(uri: str) -> str:
    system, path = _opened(uri)
    with system.open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remove_leftovers(uri: str) -> None:
    """Remove the temporary files that killed writes left below a local folder; elsewhere a write leaves none."""
    if is_local(uri):
        for file in Path(filesystem(uri)[1]).rglob(f"{_TEMPORARY}*"):
            file.unlink()


def remove_folder(uri: str) -> None:
    system, path = _opened(uri)
    with suppress(FileNotFoundError):
        system.rm(path, recursive=True)


def remove_file(uri: str) -> None:
    system, path = _opened(uri)
    with suppress(FileNotFoundError):
        system.rm_file(path)


def upload_folder(local: Path, uri: str) -> None:
    """Copy every file below the local folder to `uri`."""
    for source in sorted(p for p in local.rglob("*") if p.is_file()):
        with source.open("rb") as reader, _writing(join(uri, source.relative_to(local).as_posix())) as writer:
            shutil.copyfileobj(reader, writer)


@contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """The file or folder at `uri` on the local disk: itself, or a temporary copy of a remote one."""
    system, path = _opened(uri)
    if is_local(uri):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="rosepo-") as temporary:
        copy = Path(temporary, name(uri))
        system.get(path, str(copy), recursive=True)
        yield copy
