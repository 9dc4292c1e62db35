"""Bases: Debian with an interpreter and little else, made here from Debian's own signed packages.

A base is what an image of the same family starts from: the worker's, and capsules'. Documentation, translations and
the package manager are left out; the list of packages stays, as a bill of materials and as dpkg's status file. What
Debian publishes changes with its security updates, so a base made later may differ; made twice from the same packages
it is the same to the byte.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, run
from tarfile import open as open_tar
from tempfile import TemporaryDirectory
from typing import Final, Literal

import docker

from contracts.errors import EscrowError
from escrow.runtime.images import archive, sbom
from escrow.runtime.images.engine import FAMILY, KIND, ImageInfo, base_tag, engine_errors, find

Family = Literal["python", "r"]
SUITE: Final = "bookworm"

PACKAGES: Final[Mapping[Family, tuple[str, ...]]] = {"python": ("python3",), "r": ("r-base-core",)}
"""What is installed besides the packages that Debian calls essential."""

_LEFT_OUT: Final = (
    *("dev", "proc", "sys", "run", "boot", "media", "mnt", "srv", "home", "etc/hostname", "etc/hosts"),
    *("etc/resolv.conf", "etc/machine-id", "etc/apt", "usr/lib/apt", "usr/share/doc", "usr/share/man"),
    *("usr/share/info", "usr/share/locale", "usr/share/lintian", "usr/share/bug", "usr/share/keyrings", "var/cache"),
    *("var/log", "var/lib/apt", "var/lib/dpkg/info", "var/lib/dpkg/triggers", "var/lib/dpkg/available"),
    *("usr/bin/apt", "usr/bin/apt-get", "usr/bin/apt-cache", "usr/bin/apt-cdrom", "usr/bin/apt-config"),
    *("usr/bin/apt-key", "usr/bin/apt-mark"),
)
"""Paths from the root that a base does not have, with all that lies below them."""

_COMPILE: Final = (
    'test ! -x "$1/usr/bin/python3" || PYTHONHASHSEED=0 chroot "$1" python3 -m compileall -q -f '
    "--invalidation-mode unchecked-hash /usr/lib/python3.11 /usr/lib/python3 > /dev/null || true"
)
"""Compiles the standard library again, since a compiled file is otherwise tied to its source's time."""


def make_base(client: docker.DockerClient, family: Family, tell: Callable[[str], None]) -> ImageInfo:
    """Make a base and tag it `model-escrow/base:FAMILY`.

    Args:
        client: the engine.
        family: what it is for.
        tell: gets a few words on each step.

    Raises:
        EscrowError: `extra-missing` without mmdebstrap, `image-refused` if Debian's packages cannot be had,
            `engine-missing` if the engine does not take the image.
    """
    with TemporaryDirectory(prefix="escrow-base-") as scratch:
        root = Path(scratch, "root.tar")
        tell(f"fetching and installing Debian's {', '.join(PACKAGES[family])}")
        bootstrap(root, PACKAGES[family])
        tell("handing it to the engine")
        tag = base_tag(family)
        added = {sbom.PATH: sbom.bill(tag, sbom.of_debian(status(root)))}
        with root.open("rb") as source:
            made = archive.layers(source, Path(scratch), place, added=added)
        settings = {"Labels": {KIND: "base", FAMILY: family}, "Env": [f"PATH={_PATH}", "LANG=C.UTF-8"]}
        with engine_errors("The engine did not take the base."):
            return find(client, archive.load(client, made, settings, tag))


_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def place(name: str) -> int | None:
    """The layer that a file of the base goes into, None for one that is left out; for `archive.layers`."""
    left_out = any(name == each or name.startswith(f"{each}/") for each in _LEFT_OUT)
    return None if left_out or ".dpkg-" in name or "/libapt-" in name else 0


def bootstrap(target: Path, packages: tuple[str, ...]) -> None:
    """Unpack Debian's packages, and what they need, into a new root file system at `target`."""
    if shutil.which("mmdebstrap") is None:
        raise EscrowError(
            "extra-missing",
            "A base is made with mmdebstrap, which is not installed.",
            "On Debian: apt-get install mmdebstrap. Elsewhere name a stock image: `escrow image build --base REF`.",
        )
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}"]
    hook = [f"--customize-hook={_COMPILE}"]
    environment = {"SOURCE_DATE_EPOCH": str(archive.EPOCH), "PATH": _PATH}
    done = run(
        [*command, *hook, SUITE, str(target)],
        env=environment,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        errors = [line for line in done.stdout.splitlines() if line.startswith(("E:", "W:"))]
        raise EscrowError("image-refused", "Debian's packages could not be fetched and installed.", details=errors)


def status(root: Path) -> str:
    """The text of dpkg's status file in the tar of a root."""
    with open_tar(root) as tar:
        file = tar.extractfile("./var/lib/dpkg/status")
        if file is None:
            raise EscrowError("image-refused", "The base does not say which packages it is made of.")
        with file:
            return file.read().decode()
