"""Files inside a sandbox, seen through its own tree with the rights of its root user."""

from __future__ import annotations

import errno
import os

from . import errors
from .control import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._records import FileStat
    from .sandbox import Sandbox

    StrPath = str | os.PathLike[str]

_DEFAULT_MAXIMUM = 256 << 20


class Files:
    """`Sandbox.files`. A relative path starts at the sandbox's working directory."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def read(self, path: StrPath, *, offset: int = 0, max_bytes: int | None = _DEFAULT_MAXIMUM) -> bytes:
        """The file's bytes from `offset` on; `FileTooLarge` where there are more than `max_bytes` (None: no limit)."""
        inside = self._inside(path)
        data = bytearray()
        while True:
            chunk, end = messages.read_file_data(
                self._call(inside, messages.file_read(inside, offset + len(data), messages.FILE_CHUNK))
            )
            data += chunk
            if max_bytes is not None and len(data) > max_bytes:
                raise errors.FileTooLarge(
                    errno.EFBIG, f"more than {max_bytes} bytes; give offset= or a larger max_bytes=", inside
                )
            if end or not chunk:
                return bytes(data)

    def read_text(self, path: StrPath, *, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The file as text."""
        return self.read(path).decode(encoding, errors)

    def write(
        self, path: StrPath, data: bytes | str, *, append: bool = False, mode: int = 0o644, encoding: str = "utf-8"
    ) -> int:
        """Writes the file, which is made (with `mode`) where it is missing and emptied first unless `append`."""
        inside = self._inside(path)
        raw = memoryview(data.encode(encoding) if isinstance(data, str) else data).cast("B")
        offset = 0
        if append:
            try:
                offset = self.stat(path).size
            except FileNotFoundError:
                append = False
        done = 0
        while True:
            chunk = bytes(raw[done : done + messages.FILE_CHUNK])
            truncate = done == 0 and not append
            self._call(inside, messages.file_write(inside, offset + done, chunk, truncate=truncate, mode=mode))
            done += len(chunk)
            if done >= len(raw):
                return done

    def list(self, path: StrPath = ".") -> list[FileStat]:
        """The directory's entries, by name."""
        inside = self._inside(path)
        entries = messages.read_file_entries(self._call(inside, messages.file_list(inside)))
        return sorted((entry for entry in entries if entry.name not in (".", "..")), key=lambda entry: entry.name)

    def stat(self, path: StrPath, *, follow_symlinks: bool = True) -> FileStat:
        """Kind, size, owner and times."""
        inside = self._inside(path)
        return messages.read_file_stat(self._call(inside, messages.file_stat(inside, follow=follow_symlinks)))

    def exists(self, path: StrPath) -> bool:
        """Whether the path leads to something."""
        try:
            self.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except errors.FileError as error:
            if error.errno == errno.ELOOP:
                return False
            raise
        return True

    def remove(self, path: StrPath, *, recursive: bool = False, missing_ok: bool = False) -> None:
        """Removes a file or an empty directory, or with `recursive` a whole tree."""
        inside = self._inside(path)
        try:
            self._call(inside, messages.file_remove(inside, recursive=recursive))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def mkdir(self, path: StrPath, *, parents: bool = False, exist_ok: bool = False, mode: int = 0o755) -> None:
        """Makes a directory, with `parents` also those above it."""
        inside = self._inside(path)
        try:
            self._call(inside, messages.file_make_directory(inside, parents=parents, mode=mode))
        except FileExistsError:
            if not exist_ok or not self.stat(path).is_dir:
                raise

    def rename(self, source: StrPath, target: StrPath) -> None:
        """Renames, replacing what is at `target`, as rename(2) does."""
        old, new = self._inside(source), self._inside(target)
        self._call(old, messages.file_rename(old, new))

    def _inside(self, path: StrPath) -> str:
        text = os.fsdecode(path)
        if not text or "\0" in text:
            raise errors.UsageError(f"{text!r} is not a path", option="path")
        return os.path.join(self._sandbox._options.cwd, text)

    def _call(self, path: str, params: Any) -> Any:
        self._sandbox._need("files")
        try:
            return self._sandbox._call("file", params)
        except errors.FileError as error:
            error.filename = path
            raise
