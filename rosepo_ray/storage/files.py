"""Files behind a path or a URI (local, s3://, gs://): the few operations that stages need.

Nothing here relies on rename or append, which object stores do not have.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyarrow import fs

from rosepo_ray.errors import BadInput
from rosepo_ray.storage.disk_space import guarded

_TEMPORARY = ".tmp-"


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """The Arrow file system of `uri` and the path inside it. Raises BadInput for a scheme Arrow does not know."""
    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
    try:
        return fs.FileSystem.from_uri(uri)
    except (ValueError, OSError) as error:
        raise BadInput(f"'{uri}' cannot be opened ({error}); give a local path or an s3:// or gs:// URI") from error


def is_local(uri: str) -> bool:
    return isinstance(filesystem(uri)[0], fs.LocalFileSystem)


def join(uri: str, *names: str) -> str:
    return "/".join([uri.rstrip("/"), *names])


def exists(uri: str) -> bool:
    system, path = filesystem(uri)
    return bool(system.get_file_info(path).type != fs.FileType.NotFound)


def list_files(uri: str) -> list[str]:
    """Every file below `uri`, as sorted paths relative to it; empty where the folder does not exist.

    Names that start with a dot are leftovers of killed writes and are passed over.
    """
    system, path = filesystem(uri)
    found = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    files = [i for i in found if i.type == fs.FileType.File and not i.base_name.startswith(".")]
    return sorted(i.path[len(path.rstrip("/")) + 1 :] for i in files)


def read_bytes(uri: str) -> bytes:
    system, path = filesystem(uri)
    with system.open_input_stream(path) as stream:
        return bytes(stream.read())


def write_bytes(uri: str, content: bytes) -> None:
    """Write one whole file; on a local disk through a temporary name, so that no reader sees half of it.

    Raises NoSpace where the disk is full; the temporary file is gone then and what was there before stays.
    """
    with _writing(*filesystem(uri)) as stream:
        stream.write(content)


@contextmanager
def _writing(system: fs.FileSystem, path: str) -> Iterator[Any]:
    if not isinstance(system, fs.LocalFileSystem):
        with system.open_output_stream(path) as stream:
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
    write_bytes(uri, (json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False) + "\n").encode())


def sha256(uri: str) -> str:
    system, path = filesystem(uri)
    digest = hashlib.sha256()
    with system.open_input_stream(path) as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def remove_leftovers(uri: str) -> None:
    """Remove the temporary files that killed writes left below a local folder; elsewhere a write leaves none."""
    system, path = filesystem(uri)
    if isinstance(system, fs.LocalFileSystem):
        for file in Path(path).rglob(f"{_TEMPORARY}*"):
            file.unlink()


def remove_folder(uri: str) -> None:
    system, path = filesystem(uri)
    if system.get_file_info(path).type == fs.FileType.Directory:
        system.delete_dir(path)


def remove_file(uri: str) -> None:
    system, path = filesystem(uri)
    if system.get_file_info(path).type == fs.FileType.File:
        system.delete_file(path)


def upload_folder(local: Path, uri: str) -> None:
    """Copy every file below the local folder to `uri`."""
    system, path = filesystem(uri)
    for source in sorted(p for p in local.rglob("*") if p.is_file()):
        target = f"{path.rstrip('/')}/{source.relative_to(local).as_posix()}"
        with source.open("rb") as reader, _writing(system, target) as writer:
            shutil.copyfileobj(reader, writer)


@contextmanager
def local_folder(uri: str) -> Iterator[Path]:
    """A local folder with the files of `uri`: the folder itself, or a temporary copy of a remote one."""
    system, path = filesystem(uri)
    if isinstance(system, fs.LocalFileSystem):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="rosepo-") as temporary:
        for name in list_files(uri):
            target = Path(temporary, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(read_bytes(join(uri, name)))
        yield Path(temporary)
