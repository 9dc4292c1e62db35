"""Bills of materials: what software an image holds, as a CycloneDX document that stands in the image itself.

A bill names every Debian package of the base and every wheel, by package URL, version and, for wheels, SHA-256. It
has no serial number and no time, so the same image has the same bill. It may name more than is there, since the
worker's image leaves out files of the base; it never names less.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email import message_from_string
from pathlib import Path
from typing import Final, Literal

from contracts.canonical import canonical
from contracts.errors import EscrowError

PATH: Final = "usr/share/model-escrow/sbom.json"
"""Where an image made here holds its bill, from the root."""

Kind = Literal["deb", "pypi", "generic"]


@dataclass(frozen=True, order=True)
class Component:
    """One package.

    Attributes:
        kind: type of its package URL.
        name: as its kind of package spells it.
        version: likewise.
        sha256: hexadecimal digest of the file it came in, if that is known.
        licence: as the package states it, if it does in a few words.
    """

    kind: Kind
    name: str
    version: str
    sha256: str = ""
    licence: str = ""

    @property
    def purl(self) -> str:
        """Its package URL."""
        return f"pkg:{self.kind}/{'debian/' if self.kind == 'deb' else ''}{self.name}@{self.version}"


def of_debian(status: str) -> Iterator[Component]:
    """The installed packages in the text of dpkg's status file."""
    for paragraph in status.split("\n\n"):
        fields = message_from_string(paragraph.strip())
        if fields["Package"] and str(fields["Status"]).endswith(" installed"):
            yield Component("deb", str(fields["Package"]), str(fields["Version"]))


def of_wheel(path: Path) -> Component:
    """The package in a wheel."""
    with zipfile.ZipFile(path) as wheel:
        inside = path.name.split("-")
        name = next(n for n in wheel.namelist() if n.count("/") == 1 and n.endswith(".dist-info/METADATA"))
        fields = message_from_string(wheel.read(name).decode())
    licence = str(fields["License-Expression"] or fields["License"] or "").strip()
    return Component(
        "pypi",
        str(fields["Name"] or inside[0]),
        str(fields["Version"] or inside[1]),
        hashlib.sha256(path.read_bytes()).hexdigest(),
        licence if len(licence.splitlines()) == 1 else "",  # some packages put the whole text there
    )


def bill(subject: str, components: Iterable[Component]) -> bytes:
    """The CycloneDX document of an image called `subject`."""
    return canonical(
        {
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": {"component": {"type": "container", "name": subject}},
            "components": [_entry(each) for each in sorted(set(components))],
        }
    )


def _entry(component: Component) -> dict[str, object]:
    entry: dict[str, object] = {
        "type": "library",
        "bom-ref": component.purl,
        "purl": component.purl,
        "name": component.name,
        "version": component.version,
    }
    if component.sha256:
        entry["hashes"] = [{"alg": "SHA-256", "content": component.sha256}]
    if component.licence:
        entry["licenses"] = [{"license": {"name": component.licence}}]
    return entry


def components(document: bytes) -> tuple[Component, ...]:
    """What a bill made here names, sorted.

    Raises:
        EscrowError: `image-refused` if it is not such a bill.
    """
    try:
        return tuple(sorted(_component(entry) for entry in json.loads(document)["components"]))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise EscrowError("image-refused", "The image's bill of materials cannot be read.") from error


def _component(entry: dict[str, object]) -> Component:
    kind = str(entry["purl"]).removeprefix("pkg:").partition("/")[0]
    if kind not in {"deb", "pypi", "generic"}:
        raise ValueError(kind)
    hashes, licences = entry.get("hashes", ()), entry.get("licenses", ())
    return Component(
        kind,  # type: ignore[arg-type]  # one of the three
        str(entry["name"]),
        str(entry["version"]),
        str(hashes[0]["content"]) if hashes else "",  # type: ignore[index]
        str(licences[0]["license"]["name"]) if licences else "",  # type: ignore[index]
    )
