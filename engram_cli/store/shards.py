"""Tensors spread over safetensors files, as checkpoints are published: shards, and an index that says which tensor is in which.

    shards = open_shards("checkpoint/")
    spec = shards["layers.1.engram.embed.weight"]     its shard, type, shape and place; nothing of it is read

All headers are read, and nothing else: a checkpoint of hundreds of gigabytes opens in a fraction of a second. All of them, because
a tensor in two shards would be read from one by this program and from the other by the next. A shard that is not there is an error
only for whoever needs a tensor of it: who looks into a table need not have the experts.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engram_cli.errors import ArtifactError
from engram_cli.store.collector import collector_at_rest
from engram_cli.store.tensors import Header, Stored, unique_keys

INDEX = "model.safetensors.index.json"
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Shards(Mapping[str, Stored]):
    """The tensors of a directory by name.

    headers: of the shard of each tensor that is there; absent: the name of the shard of each that is not; unlisted: files in the
    directory that the index does not name.
    """

    directory: Path
    headers: Mapping[str, Header]
    absent: Mapping[str, str] = field(default_factory=dict)
    unlisted: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """Shards that the index names and that are not there."""
        return tuple(sorted(set(self.absent.values())))

    def __getitem__(self, name: str) -> Stored:
        """Raises ArtifactError where there is no such tensor, where its shard is not there, or where it cannot be what it says."""
        if name in self.headers:
            return Stored(self.headers[name].path, self.headers[name].spec(name))
        if name in self.absent:
            raise ArtifactError(
                f"{name} lies in {self.absent[name]} by the index of {self.directory}, but that shard is not there; fetch it"
            )
        hint = f" (not in the index: {', '.join(self.unlisted)})" if self.unlisted else ""
        raise ArtifactError(f"{self.directory} must have the tensor {name}, but no shard has it{hint}; fetch the checkpoint again")

    def __contains__(self, name: object) -> bool:
        return name in self.headers or name in self.absent

    def __iter__(self) -> Iterator[str]:
        yield from self.headers
        yield from self.absent

    def __len__(self) -> int:
        return len(self.headers) + len(self.absent)


@collector_at_rest()
def open_shards(directory: Path) -> Shards:
    """Read the index and every header in `directory`: an index and its shards, or one safetensors file without an index.

    Raises ArtifactError where there is neither, where index and shards contradict each other, or where a shard is damaged.
    """
    files = sorted(path.name for path in directory.glob(f"*{_SUFFIX}"))
    if not (directory / INDEX).exists():
        if len(files) != 1:
            found = f"{len(files)} of them" if files else "none"
            raise ArtifactError(f"a checkpoint has {INDEX}, or one safetensors file, but {directory} has {found}; fetch the index")
        header = Header.read(directory / files[0])
        return Shards(directory, dict.fromkeys(header.entries, header))
    places = _read_index(directory / INDEX)
    paths = {shard: directory / shard for shard in sorted(set(places.values()))}
    missing = {shard for shard, path in paths.items() if not path.exists()}
    headers: dict[str, Header] = {}
    placed: dict[str, str] = {}
    for header in (Header.read(path) for shard, path in paths.items() if shard not in missing):
        twice = headers.keys() & header.entries.keys()
        if twice:
            name = min(twice)
            raise ArtifactError(
                f"a tensor lies in one shard, but {name} is in {headers[name].path.name} and in {header.path.name} of {directory}: "
                "which one counts would depend on the reader; fetch the checkpoint again"
            )
        headers |= dict.fromkeys(header.entries, header)
        placed |= dict.fromkeys(header.entries, header.path.name)
    for name, shard in places.items() if placed != places else ():  # one by one a hundred thousand names take a while
        if shard not in missing and placed.get(name) != shard:
            where = f"in {placed[name]}" if name in placed else "in none"
            raise ArtifactError(
                f"{INDEX} of {directory} says that {name} is in {shard}, but it is {where}: index and shards do not belong "
                "together; fetch both again"
            )
    absent = {name: shard for name, shard in places.items() if shard in missing} if missing else {}
    return Shards(directory, headers, absent, tuple(sorted(set(files) - set(paths))))


def _read_index(path: Path) -> Mapping[str, str]:
    """Tensor -> name of its shard. Raises ArtifactError where the file says something else, or names a shard in another folder."""
    try:
        document: Any = json.loads(path.read_bytes(), object_pairs_hook=unique_keys)
        places: dict[str, str] = document["weight_map"]
        if set(map(type, places.values())) - {str}:
            raise TypeError("a shard that is not a text")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"{path} is not an index of shards ({error}); fetch it again") from None
    for shard in set(places.values()):
        if Path(shard).name != shard or "\0" in shard or not shard.endswith(_SUFFIX):
            raise ArtifactError(
                f"shards are safetensors files that lie beside their index, but {path} names {shard!r}; fetch it again"
            )
    return places
