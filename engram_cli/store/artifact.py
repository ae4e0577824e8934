"""Artifacts: directories that exist whole or not at all, opened by memory map.

Writing goes to a sibling directory `.NAME.partial`, is flushed to disk, gets its manifest last, and is renamed. A file that is
complete is digested and flushed while others are still written, so that little is left to wait for at the end. Opening reads the
manifest and maps files on demand; nothing is copied into memory. Small files are compared with their digests when they are first
used, large ones only by `engram verify`.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from engram_cli import __version__
from engram_cli.errors import ArtifactError
from engram_cli.store import manifest as manifests
from engram_cli.store.manifest import FileRecord, Manifest, RunningDigest
from engram_cli.store.stream import ColumnWriter
from engram_cli.store.tensors import TensorSpec, map_tensor, read_tensor_specs

SMALL = 1 << 24  # bytes; digested in a few milliseconds, so that damage is found where it is met and not only by `engram verify`
KINDS = {"ngrams": "engram extract", "table": "engram build", "report": "engram collisions, bench or inspect, with --out"}


@dataclass(frozen=True)
class Artifact:
    """A finished artifact on disk."""

    path: Path
    manifest: Manifest

    @cached_property
    def digest(self) -> str:
        return self.manifest.digest

    def file(self, name: str) -> Path:
        """Path of one of the artifact's files.

        Raises ArtifactError where it is missing or has not the size the manifest gives, and for a file that is quickly read (up to
        SMALL bytes) also where its digest is another.
        """
        record = self.manifest.files.get(name)
        path = self.path / name
        if record is None:
            raise ArtifactError(f"the {self.manifest.kind} artifact {self.path} has no file {name}; make it again")
        size = path.stat().st_size if path.is_file() else None
        if size != record.bytes:
            found = "is missing" if size is None else f"has {size} bytes"
            raise ArtifactError(f"{path} must have {record.bytes} bytes but {found}: the artifact is damaged; make it again")
        if size <= SMALL and name not in self._sound:
            if manifests.file_digest(path) != record.xxh3_128:
                raise ArtifactError(f"{path} is not as it was written: a byte of it has changed; make the artifact again")
            self._sound.add(name)
        return path

    @cached_property
    def _sound(self) -> set[str]:
        """Files whose digests were found to be right."""
        return set()

    def table(self, name: str, schema: pa.Schema | None = None) -> pa.Table:
        """Arrow file `name`, memory-mapped.

        Raises ArtifactError where it is missing, cut short, not Arrow, or lacks columns of `schema`.
        """
        path = self.file(name)
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            table.validate(full=True)  # offsets of texts and the like: numbers are not read
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ArtifactError(f"{path} cannot be read as Arrow ({error}); make the artifact again") from None
        if schema is not None and not table.schema.equals(schema):
            raise ArtifactError(f"{path} must have the columns {_columns(schema)}, but has {_columns(table.schema)}; make it again")
        return table

    def tensors(self, name: str) -> dict[str, TensorSpec]:
        return read_tensor_specs(self.file(name))

    def tensor(self, name: str, tensor: str, mode: Any = "r") -> Any:
        """Tensor `tensor` of safetensors file `name` as a numpy memory map (bf16 as uint16)."""
        specs = self.tensors(name)
        if tensor not in specs:
            raise ArtifactError(f"{self.path / name} has no tensor {tensor}, only {', '.join(specs) or 'none'}; make it again")
        return map_tensor(self.path / name, specs[tensor], mode)


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema) or "none"


def open_artifact(path: str | Path, kind: str | None = None) -> Artifact:
    """Open the artifact at `path`; `kind` ("ngrams", "table", "report") is what the caller can work with.

    Raises ArtifactError where there is no finished artifact, or where it is of another kind.
    """
    directory = Path(path)
    manifest = manifests.read_manifest(directory)
    if kind is not None and manifest.kind != kind:
        made_by = KINDS.get(kind, "another command")
        raise ArtifactError(
            f"this needs an artifact of kind {kind}, but {directory} is of kind {manifest.kind}; make one with {made_by}"
        )
    return Artifact(directory, manifest)


class Draft:
    """An artifact being written: `path` is its directory until it is finished. What lies in `scratch` is only for the work: it is
    there until the last moment, and no part of the artifact."""

    def __init__(self, path: Path) -> None:
        self.path, self.scratch = path, scratch_path(path)
        self.recipe = ""
        self.inputs: dict[str, str] = {}
        self.facts: dict[str, Any] = {}
        self._pool = ThreadPoolExecutor(2)  # one waits for the disk while the other digests
        self._sealed: dict[str, tuple[Future[FileRecord], Future[None]]] = {}
        self._flushes: list[Future[None]] = []

    def table(self, name: str, table: pa.Table) -> None:
        """Write `table` as the uncompressed Arrow file `name`."""
        with self.columns(name, table.schema) as writer:
            writer.write_table(table)

    @contextmanager
    def columns(self, name: str, schema: pa.Schema) -> Iterator[pa.ipc.RecordBatchFileWriter]:
        """Write the uncompressed Arrow file `name` batch by batch."""
        with pa.OSFile(str(self.path / name), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            yield writer
        self.seal(name)

    @contextmanager
    def numbers(self, name: str, schema: pa.Schema) -> Iterator[ColumnWriter]:
        """Write columns of numbers as the Arrow file `name`, stretch by stretch, one record batch in the end."""
        with ColumnWriter(self.path / name, schema) as writer:
            yield writer
        self.seal(name)

    def seal(self, name: str, digest: RunningDigest | None = None) -> None:
        """Digest and flush the file `name`, which is complete, while others are written; of what `digest` has seen nothing is read
        again. The rest is sealed at the end."""
        path = self.path / name
        self._sealed[name] = self._pool.submit(_record, path, digest), self._pool.submit(_flush, path)

    def flush(self, name: str) -> None:
        """Bring what is written of the file `name` to the disk while more is, unless the last such call is still at it."""
        if not self._flushes or self._flushes[-1].done():
            self._flushes.append(self._pool.submit(_flush, self.path / name))

    def records(self) -> dict[str, FileRecord]:
        """Every file with its size and digest, by name, each on the disk by now. Raises OSError where one could not be written."""
        written = (p for p in self.path.rglob("*") if p.is_file() and p.name != manifests.FILE_NAME)
        names = sorted(p.relative_to(self.path).as_posix() for p in written if self.scratch not in p.parents)
        for name in names:
            if name not in self._sealed:
                self.seal(name)
        for flush in self._flushes:
            flush.result()  # an error of the disk is told once: here or there
        records = {}
        for name in names:
            record, flushed = self._sealed[name]
            flushed.result()
            records[name] = record.result()
            assert records[name].bytes == (self.path / name).stat().st_size, f"{name} was written to after it was sealed"
        return records

    def abandon(self) -> None:
        """Begin nothing more, and wait for what was begun."""
        self._pool.shutdown(cancel_futures=True)


def _record(path: Path, digest: RunningDigest | None) -> FileRecord:
    return FileRecord(path.stat().st_size, digest.finish() if digest else manifests.file_digest(path))


def write_whole(path: Path, text: str) -> None:
    """Write `text` to a file, whole or not at all. Raises OSError."""
    draft = path.with_name(f".{path.name}.partial")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def partial_path(out: Path) -> Path:
    """The sibling directory in which the artifact `out` is written before it is renamed."""
    return out.parent / f".{out.name}.partial"


def scratch_path(partial: Path) -> Path:
    """Where in a partial directory lies what is only for the work."""
    return partial / "scratch"


def check_out(out: Path, force: bool) -> None:
    """Refuse, before any work is done, an `out` that exists (unless `force`, and then only artifacts are replaced)."""
    if not os.path.lexists(out):
        return
    if not force:
        raise ArtifactError(f"--out must not exist, but {out} does; choose another, or give --force to replace it")
    if not any((out / name).is_file() for name in (manifests.FILE_NAME, manifests.DIGESTS)):
        raise ArtifactError(f"--force replaces artifacts only, but {out} is not one; choose another --out, or remove it yourself")


def check_unfinished(out: Path, unfinished: bool, resume: bool, force: bool) -> None:
    """Refuse to throw away in silence what an unfinished run of `out` left, if there is one."""
    if unfinished and not (resume or force):
        raise ArtifactError(
            f"{partial_path(out)} holds an unfinished run of {out.name}; go on with --resume, or start anew with --force"
        )


@contextmanager
def write_artifact(out: str | Path, kind: str, *, force: bool = False, keep_partial: bool = False) -> Iterator[Draft]:
    """Write an artifact at `out`, whole or not at all.

    Yields the Draft to fill. At the end every file is digested and flushed, the manifest is written, and the directory is renamed.
    Raises ArtifactError as `write_directory` does.
    """
    with write_directory(out, force=force, keep_partial=keep_partial) as draft:
        yield draft
        _finish(draft, kind)


@contextmanager
def write_directory(out: str | Path, *, force: bool = False, keep_partial: bool = False) -> Iterator[Draft]:
    """Write a directory at `out`, whole or not at all; who fills the Draft sees to it that its files are on the disk (`records`).

    On any exception (Ctrl-C too) `out` is as it was and the partial directory is removed, unless `keep_partial`, for
    commands that can resume from what lies there.
    Raises ArtifactError where `out` exists and `force` is not given, or where the directory cannot be written.
    """
    final = Path(out).absolute()
    check_out(final, force)
    draft = Draft(partial_path(final))
    try:
        if not keep_partial:
            shutil.rmtree(draft.path, ignore_errors=True)
        draft.path.mkdir(parents=True, exist_ok=keep_partial)
    except OSError as error:
        raise ArtifactError(f"--out must be writable, but {draft.path} cannot be made ({error.strerror}); choose another") from None
    try:
        yield draft
        shutil.rmtree(draft.scratch, ignore_errors=True)
        _replace(draft.path, final)
    except OSError as error:
        raise ArtifactError(
            f"{final} could not be written ({error.strerror or error}); nothing was changed: make room, or choose another --out"
        ) from error
    finally:
        draft.abandon()
        if not keep_partial:
            shutil.rmtree(draft.path, ignore_errors=True)


def _finish(draft: Draft, kind: str) -> None:
    files = draft.records()
    manifest = Manifest(kind=kind, tool=__version__, recipe=draft.recipe, inputs=draft.inputs, facts=draft.facts, files=files)
    (draft.path / manifests.FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
    _flush(draft.path / manifests.FILE_NAME)
    _flush(draft.path)


def _replace(new: Path, final: Path) -> None:
    """Rename `new` to `final`; what lay there is put aside first and removed last, so that a kill loses neither."""
    old = final.parent / f".{final.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.rename(final, old)
    os.rename(new, final)
    _flush(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def verify_files(
    artifact: Artifact, read: Callable[[int], object] | None = None
) -> Iterator[tuple[str, FileRecord | None, FileRecord | None]]:
    """Yield (name, what the manifest says, what is on disk) for every file of the artifact: the second is None for a file that the
    manifest does not name, the third for one that is missing. `read` is told the bytes of each block read.
    """
    records = artifact.manifest.files
    on_disk = {p.relative_to(artifact.path).as_posix() for p in artifact.path.rglob("*") if p.is_file()}
    for name in [*records, *sorted(on_disk - set(records) - {manifests.FILE_NAME, manifests.DIGESTS})]:
        path = artifact.path / name
        found = FileRecord(path.stat().st_size, manifests.file_digest(path, read)) if name in on_disk else None
        yield name, records.get(name), found
