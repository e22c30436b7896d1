"""Files behind a path or a URI, and what a run keeps in them: tables, markers, room on the disk."""

from rosepo_ray.storage.files import (
    exists,
    filesystem,
    is_local,
    join,
    list_files,
    local_copy,
    name,
    read_bytes,
    read_json,
    remove_file,
    remove_folder,
    remove_leftovers,
    sha256,
    upload_folder,
    write_bytes,
    write_json,
)

__all__ = [
    "exists",
    "filesystem",
    "is_local",
    "join",
    "list_files",
    "local_copy",
    "name",
    "read_bytes",
    "read_json",
    "remove_file",
    "remove_folder",
    "remove_leftovers",
    "sha256",
    "upload_folder",
    "write_bytes",
    "write_json",
]
