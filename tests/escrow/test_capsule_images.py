"""Images of capsules: what an author's environment may ask for, what is built from it, and what is shown of it."""

import platform
import tarfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from uuid import uuid4

import docker
import pytest

from contracts.capsule import Capsule
from contracts.capsule import read as read_capsule
from contracts.errors import EscrowError
from escrow.runtime.images import archive, dockerfile
from escrow.runtime.images.additions import Target, beyond, distributions
from escrow.runtime.images.capsule import Built, build, check_image, tag
from escrow.runtime.images.comparison import differences
from escrow.runtime.images.dockerfile import Recipe
from escrow.runtime.images.engine import ImageInfo, base_tag, find
from escrow.runtime.images.pins import Pin, check_hashes
from tests.engine import engine, missing

__all__ = ["engine"]  # a fixture

HASH = "a" * 64


def capsule(text: str, *, family: str = "python", **beside: str) -> Capsule:
    """A capsule whose Dockerfile is `text`, and lists beside it (`requirements_txt` is requirements.txt)."""
    declaration = (
        f"capsule: 1\nfamily: {family}\ndata: [cards.csv]\n"
        "outputs: [{path: counts.csv, kind: table, size-kib: 8, vetting: none}]\n"
    )
    files = {
        "metadata/metadata.yml": b"metadata_version: 1\nname: counts\n",
        "environment/Dockerfile": text.encode(),
        "code/run": b"#!/usr/bin/env python3\n",
        "data/cards.csv": b"card\n1\n",
        "escrow.yml": declaration.encode(),
        **{f"environment/{name.replace('_', '.')}": content.encode() for name, content in beside.items()},
    }
    return read_capsule(files)


def recipe(text: str, *, family: str = "python", **beside: str) -> Recipe:
    return dockerfile.read(capsule(text, family=family, **beside))


def refusals(text: str, *, family: str = "python", **beside: str) -> tuple[str, ...]:
    with pytest.raises(EscrowError) as caught:
        recipe(text, family=family, **beside)
    assert caught.value.code == "image-refused"
    return caught.value.details


class TestReadingPython:
    def test_a_usual_dockerfile_is_understood(self) -> None:
        found = recipe(
            "# syntax=docker/dockerfile:1\n"
            "FROM python:3.11-slim-bookworm AS base\n"
            'LABEL org.model-escrow.kind=worker maintainer="someone # else"\n'
            "ENV PYTHONUNBUFFERED=1 \\\n    LANG=C.UTF-8\n"
            "COPY requirements.txt /tmp/\n"
            "RUN pip install --no-cache-dir -q -r /tmp/requirements.txt && \\\n"
            "    # why this one\n"
            "    python3 -m pip install 'Tiny.Thing[b,a] == 2.0'\n",
            requirements_txt=f"six==1.17.0 \\\n    --hash=sha256:{HASH}\n    # via someone\n\nidna==3.10  # names\n",
        )
        assert found.interpreter == "3.11"
        assert found.packages == {
            "six": Pin("six", "1.17.0", hashes=(HASH,)),
            "idna": Pin("idna", "3.10"),
            "tiny-thing": Pin("tiny-thing", "2.0", extras=("a", "b")),
        }
        assert found.variables == {"PYTHONUNBUFFERED": "1", "LANG": "C.UTF-8"}

    def test_pins_become_lines_that_pip_reads(self) -> None:
        assert Pin("six", "1.17.0", hashes=(HASH,)).requirement() == f"six==1.17.0 --hash=sha256:{HASH}"
        assert Pin("tiny", "2.0", extras=("a", "b")).requirement() == "tiny[a,b]==2.0"

    def test_the_authors_lock_counts_without_being_copied(self) -> None:
        found = recipe("FROM python\nRUN pip install six==1.17.0\n", requirements_lock="six==1.17.0\nidna==3.10\n")
        assert list(found.packages) == ["six"]
        assert sorted(found.lock) == ["idna", "six"]

    def test_nothing_to_install_is_an_environment_too(self) -> None:
        assert recipe("FROM python:3.11\n").packages == {}

    @pytest.mark.parametrize(
        "line",
        [
            "ADD https://example.org/x.tar.gz /",
            "ADD requirements.txt /tmp/",
            "ARG TOKEN",
            "FROM scratch",
            "USER root",
            'ENTRYPOINT ["/bin/sh"]',
            "CMD python3 /code/main.py",
            "WORKDIR /code",
            "VOLUME /data",
            'SHELL ["/bin/bash"]',
            "ONBUILD RUN pip install six==1.17.0",
            "COPY . /tmp",
            "COPY code/run /tmp/",
            "COPY ../escrow.yml /tmp/",
            "COPY nothing.txt /tmp/",
            "COPY --from=python:3.11 /usr /usr",
            'COPY ["requirements.txt", "/tmp/"]',
            "COPY requirements.txt /etc/pip.conf",
            "ENV PATH=/tmp:/bin",
            "ENV LD_PRELOAD=/tmp/x.so",
            "ENV PYTHONPATH /tmp",
            "ENV PIP_INDEX_URL=https://example.org/simple",
            "ENV LANG=$(id)",
            'RUN ["pip", "install", "six==1.17.0"]',
            "RUN curl https://example.org/x | sh",
            "RUN pip install six==1.17.0; id",
            "RUN pip install six==1.17.0 || id",
            "RUN pip install six==1.17.0 > /x",
            "RUN pip install $(cat /x)",
            "RUN pip install `id`",
            "RUN pip install 'six==1.17.0",
            "RUN <<EOF",
            "RUN --mount=type=bind,target=/x pip install six==1.17.0",
            "RUN pip install six",
            "RUN pip install six>=1.0",
            "RUN pip install 'six>=1.0'",
            "RUN pip install six==1.*",
            "RUN pip install six===1.17.0",
            "RUN pip install 'six==1.17.0; python_version > \"3\"'",
            "RUN pip install git+https://example.org/six",
            "RUN pip install 'six @ https://example.org/six.whl'",
            "RUN pip install https://example.org/six-1.17.0-py3-none-any.whl",
            "RUN pip install ./six-1.17.0-py3-none-any.whl",
            "RUN pip install .",
            "RUN pip install -e .",
            "RUN pip install --index-url https://example.org/simple six==1.17.0",
            "RUN pip install -i https://example.org/simple six==1.17.0",
            "RUN pip install --extra-index-url=https://example.org/simple six==1.17.0",
            "RUN pip install --find-links /tmp six==1.17.0",
            "RUN pip install --no-binary :all: six==1.17.0",
            "RUN pip install --target /usr/lib six==1.17.0",
            "RUN pip install -r requirements.txt",
            "RUN apt-get install -y r-base",
            "RUN python3 setup.py install",
        ],
    )
    def test_everything_else_is_refused_with_its_line(self, line: str) -> None:
        (said,) = refusals(f"FROM python:3.11\n\n{line}\n", requirements_txt="six==1.17.0\n")
        assert said.startswith("environment/Dockerfile, line 3: ")

    @pytest.mark.parametrize(
        "line",
        ["-r other.txt", "--index-url https://example.org", "-e git+https://example.org/six", "six", "six @ file:///x"],
    )
    def test_a_list_holds_exact_pins_and_nothing_else(self, line: str) -> None:
        text = "FROM python:3.11\nCOPY requirements.txt /tmp/\nRUN pip install -r /tmp/requirements.txt\n"
        (said,) = refusals(text, requirements_txt=f"# first\nidna==3.10\n{line}\n")
        assert said.startswith("environment/requirements.txt, line 3: ")

    def test_all_that_is_wrong_is_said_at_once(self) -> None:
        assert len(refusals("FROM python:3.11\nUSER me\nCMD x\nRUN make\n")) == 3

    @pytest.mark.parametrize(
        "text",
        [
            "RUN pip install " + "a" * 900_000,
            "\\\n" * 400_000,
            "RUN x\n" * 100_000,
            "COPY l.txt /\n" + "RUN pip install -r l.txt\n" * 9_000,
        ],
        ids=["a long word", "continuations", "refusals", "lists"],
    )
    def test_an_environment_that_is_made_to_be_slow_is_refused_quickly(self, text: str) -> None:
        begun = time.process_time()
        assert len(refusals(f"FROM python:3.11\n{text}", l_txt="six==1.17.0\n" * 70_000 + "six\n")) <= 50
        assert time.process_time() - begun < 10

    def test_two_versions_of_one_package_are_refused(self) -> None:
        assert refusals("FROM python\nRUN pip install six==1.17.0 && pip install Six==1.16.0\n")
        assert refusals("FROM python\nRUN pip install six==1.17.0\n", requirements_lock="six==1.16.0\n")

    @pytest.mark.parametrize("text", ["", "# nothing\n", "RUN pip install six==1.17.0\n"])
    def test_an_environment_begins_with_from(self, text: str) -> None:
        assert any("no FROM" in said for said in refusals(text))

    @pytest.mark.parametrize("image", ["r-base:4.2.2", "ubuntu:22.04", "$HOST/python", "--platform=linux/arm64 python"])
    def test_the_base_is_of_the_declared_family(self, image: str) -> None:
        assert refusals(f"FROM {image}\n")


class TestReadingR:
    def test_packages_are_debians(self) -> None:
        found = recipe(
            "FROM rocker/r-ver:4.2.2\n"
            "RUN apt-get update \\\n && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \\\n"
            "    r-base-core r-cran-jsonlite=1.8.4+dfsg-1 r-bioc-limma \\\n && rm -rf /var/lib/apt/lists/*\n"
            "RUN install2.r --error -n 4 data.table\n"
            'RUN Rscript -e \'install.packages(c("MASS", "survival"))\' && Rscript -e "install.packages(\'R6\')"\n',
            family="r",
            packages_txt="jsonlite 1.8.4+dfsg-1\nr-cran-r6 == 2.5.1\nggplot2 3.4.1\n",
        )
        assert found.interpreter == "4.2.2"
        assert sorted(found.packages) == [
            *("r-base-core", "r-bioc-limma", "r-cran-data.table", "r-cran-jsonlite", "r-cran-mass", "r-cran-r6"),
            "r-cran-survival",
        ]
        assert found.packages["r-cran-jsonlite"].version == "1.8.4+dfsg-1"
        assert found.lock["r-cran-r6"].version == "2.5.1"
        assert "r-cran-ggplot2" in found.lock

    @pytest.mark.parametrize(
        "line",
        [
            "RUN apt-get install -y curl",
            "RUN apt-get install -y ./r-cran-x.deb",
            "RUN apt-get install -y r-cran-x=$(id)x' '",
            "RUN apt-get install -t sid r-cran-jsonlite",
            "RUN apt-get install -o APT::Get::AllowUnauthenticated=1 r-cran-jsonlite",
            "RUN add-apt-repository ppa:x/y",
            "RUN install2.r --repos https://example.org jsonlite",
            "RUN install2.r jsonlite https://example.org/x.tar.gz",
            "RUN Rscript -e 'system(\"id\")'",
            "RUN Rscript -e 'install.packages(system(\"id\"))'",
            'RUN Rscript -e \'install.packages("x", repos="https://example.org")\'',
            "RUN Rscript -e 'install.packages(names)'",
            "RUN Rscript -e 'remotes::install_github(\"x/y\")'",
            "RUN rm -rf /usr",
            "RUN pip install six==1.17.0",
        ],
    )
    def test_everything_else_is_refused(self, line: str) -> None:
        (said,) = refusals(f"FROM r-base:4.2.2\n{line}\n", family="r")
        assert said.startswith("environment/Dockerfile, line 2: ")


class TestComparing:
    def test_a_difference_says_what_the_author_had_and_what_the_image_has(self) -> None:
        asked = recipe(
            "FROM python:3.9-slim\nRUN pip install six==1.17\n", requirements_lock="Idna==3.9\nappnope==0.1\n"
        )
        found = differences(asked, "3.11.2", {"six": "1.17.0", "idna": "3.10", "certifi": "2026.1"})
        assert [(each.kind, each.package, each.author, each.image) for each in found] == [
            ("other version", "python", "3.9", "3.11.2"),
            ("missing", "appnope", "0.1", None),
            ("additional", "certifi", None, "2026.1"),
            ("other version", "idna", "3.9", "3.10"),
        ]

    def test_nothing_is_shown_if_all_is_the_same(self) -> None:
        assert not differences(recipe("FROM python:3.11\nRUN pip install six==1.17.0\n"), "3.11.2", {"six": "1.17.0"})

    def test_cran_and_debian_write_one_version_in_two_ways(self) -> None:
        asked = recipe(
            "FROM r-base:4.2.2\nRUN install2.r MASS r6\n",
            family="r",
            packages_txt="jsonlite 1.8.4\nsurvival 3.5-3\nggplot2 3.4.0\n",
        )
        debian = {
            "r-cran-jsonlite": "1.8.4+dfsg-1",
            "r-cran-survival": "3.5-3-1",
            "r-cran-ggplot2": "3.4.1+dfsg-1",
            "r-cran-mass": "7.3-58.2-1",
        }
        assert [(each.kind, each.package) for each in differences(asked, "4.2.2.20221110-2", debian)] == [
            ("other version", "r-cran-ggplot2"),
            ("missing", "r-cran-r6"),
        ]


class TestTarget:
    def test_wheels_are_fetched_for_the_base(self) -> None:
        options = Target("3.11.2", 17, "x86_64").options()
        assert options[:4] == ["--implementation", "cp", "--python-version", "3.11"]
        assert {"--platform=manylinux_2_17_x86_64", "--platform=manylinux2014_x86_64"} <= set(options)
        assert "--platform=manylinux_2_18_x86_64" not in options

    def test_another_python_than_pips_own_is_refused(self) -> None:
        Target(platform.python_version(), 17, "x86_64").check()
        with pytest.raises(EscrowError, match="pip here runs in") as caught:
            Target("3.5.1", 17, "x86_64").check()
        assert caught.value.code == "image-refused"

    def test_hashes_are_on_all_packages_or_on_none(self) -> None:
        hashed = Pin("six", "1.17.0", hashes=(HASH,))
        check_hashes([hashed])
        with pytest.raises(EscrowError) as caught:
            check_hashes([hashed, Pin("idna", "3.10")])
        assert (caught.value.code, caught.value.details) == ("image-refused", ("idna has none",))


def layer(directory: Path, *entries: tuple[str, str]) -> archive.Layer:
    """A layer of files (path, content) and hard links (path, `-> ` and the path it leads to)."""
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path, content in entries:
            entry = tarfile.TarInfo(path)
            if content.startswith("-> "):
                entry.type, entry.linkname = tarfile.LNKTYPE, content[3:]
            else:
                entry.size = len(content)
            tar.addfile(entry, BytesIO(content.encode()))
    packed.seek(0)
    directory.mkdir()
    return archive.layers(packed, directory, lambda _: 0)[0]


class TestLayers:
    def test_only_what_the_base_does_not_have_stands_above_it(self, tmp_path: Path) -> None:
        base = layer(tmp_path / "base", ("usr/same", "1"), ("usr/changed", "1"), ("usr/old", "1"), ("usr/first", "x"))
        whole = layer(
            tmp_path / "whole",
            *(
                ("usr/same", "1"),
                ("usr/changed", "2"),
                ("usr/new", "1"),
                ("usr/first", "x"),
                ("usr/link", "-> usr/first"),
            ),
        )
        assert beyond([whole], [base]) == {"usr/changed", "usr/new", "usr/link", "usr/first"}

    def test_packages_are_read_from_their_own_metadata(self, tmp_path: Path) -> None:
        metadata = "Metadata-Version: 2.1\nName: Tiny.Thing\nVersion: 2.0\n\nText\n"
        made = layer(tmp_path / "made", ("usr/lib/tiny_thing-2.0.dist-info/METADATA", metadata), ("usr/x/METADATA", ""))
        assert distributions(made.path) == {"tiny-thing": "2.0"}


PINNED = "FROM python:3.11\nCOPY requirements.txt /tmp/\nRUN pip install -r /tmp/requirements.txt\nENV TZ=UTC\n"


def silent(_: str) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def base(engine: docker.DockerClient) -> ImageInfo:
    try:
        return find(engine, base_tag("python"))
    except EscrowError as error:
        missing(error.message)
        raise


@pytest.fixture(scope="module")
def pinned() -> Capsule:
    """A capsule of this run of the tests alone: its image is nobody else's."""
    return capsule(
        PINNED, requirements_txt=f"# {uuid4()}\nsix==1.17.0\n", requirements_lock="six==1.17.0\nidna==3.10\n"
    )


@pytest.fixture(scope="module")
def built(engine: docker.DockerClient, base: ImageInfo, pinned: Capsule) -> Iterator[Built]:
    made = build(engine, pinned, tell=silent)
    yield made
    engine.images.remove(made.image, force=True)


def said(engine: docker.DockerClient, image: str, *command: str) -> str:
    """What a command prints in a container of an image, without network."""
    own = {"/tmp": ""}  # noqa: S108 - in the container
    container = engine.containers.create(
        image, list(command), network_mode="none", read_only=True, tmpfs=own, user="65534:65534"
    )
    try:
        container.start()
        container.wait()
        return container.logs().decode().strip()
    finally:
        container.remove(force=True)


@pytest.mark.engine
class TestBuilding:
    def test_the_packages_are_there_and_pip_is_not(self, engine: docker.DockerClient, built: Built) -> None:
        program = (
            "import importlib.util as u, os, six;"
            "print(six.__version__, os.path.exists(six.__cached__), u.find_spec('pip'), os.environ['TZ'])"
        )
        assert said(engine, built.image, "python3", "-c", program) == "1.17.0 True None UTC"
        assert "six" in {each.name for each in built.packages}

    def test_what_differs_from_the_authors_lock_is_told(self, built: Built) -> None:
        assert [(each.kind, each.package) for each in built.differences] == [("missing", "idna")]

    def test_the_image_stands_on_the_base_and_says_so(
        self, engine: docker.DockerClient, base: ImageInfo, built: Built, pinned: Capsule
    ) -> None:
        check_image(engine, built.image, pinned)
        labels = find(engine, tag(pinned)).labels
        assert labels["org.model-escrow.base"] == base.id
        assert labels["org.model-escrow.environment"] == pinned.environment

    def test_the_same_environment_gives_the_same_image(
        self, engine: docker.DockerClient, built: Built, pinned: Capsule
    ) -> None:
        assert build(engine, pinned, tell=silent).image == built.image

    @pytest.mark.parametrize(
        "line",
        ["six==0.0.1", f"six==1.17.0 --hash=sha256:{HASH}", "this-is-not-a-package-of-anybody==1.0"],
        ids=["no such version", "another file", "no such package"],
    )
    def test_packages_that_cannot_be_had_are_refused(
        self, engine: docker.DockerClient, base: ImageInfo, line: str
    ) -> None:
        with pytest.raises(EscrowError) as caught:
            build(engine, capsule(PINNED, requirements_txt=f"{line}\n"), tell=silent)
        assert caught.value.code == "image-refused"
        assert caught.value.details

    def test_a_base_is_vetted_and_of_the_family(
        self, engine: docker.DockerClient, built: Built, base: ImageInfo, pinned: Capsule
    ) -> None:
        for reference, wanted in ((built.image, pinned), (base.id, capsule("FROM r-base\n", family="r"))):
            with pytest.raises(EscrowError) as caught:
                build(engine, wanted, base=reference, tell=silent)
            assert caught.value.code == "image-refused"


@pytest.mark.engine
class TestChecking:
    @staticmethod
    def code(engine: docker.DockerClient, image: str, of: Capsule) -> str:
        with pytest.raises(EscrowError) as caught:
            check_image(engine, image, of)
        return caught.value.code

    def test_an_image_that_is_not_there_is_missing(self, engine: docker.DockerClient, pinned: Capsule) -> None:
        assert self.code(engine, f"sha256:{HASH}", pinned) == "image-missing"

    def test_another_environments_image_is_refused(self, engine: docker.DockerClient, built: Built) -> None:
        other = capsule(PINNED, requirements_txt="six==1.16.0\n")
        assert self.code(engine, built.image, other) == "image-refused"

    def test_a_base_is_no_capsules_image(self, engine: docker.DockerClient, base: ImageInfo, pinned: Capsule) -> None:
        assert self.code(engine, base.id, pinned) == "image-refused"

    @pytest.mark.parametrize("claims", ["the base", "no base"])
    def test_labels_alone_do_not_make_an_image_stand_on_a_base(
        self, engine: docker.DockerClient, base: ImageInfo, pinned: Capsule, tmp_path: Path, claims: str
    ) -> None:
        other = layer(tmp_path / "other", ("usr/bin/python3", "somebody's"))
        labels = {
            "org.model-escrow.kind": "capsule",
            "org.model-escrow.family": "python",
            "org.model-escrow.environment": pinned.environment,
            "org.model-escrow.base": base.id if claims == "the base" else f"sha256:{HASH}",
        }
        image = archive.load(engine, [other], {"Labels": labels}, "model-escrow/capsule:forged")
        try:
            assert self.code(engine, image, pinned) == "image-refused"
        finally:
            engine.images.remove(image, force=True)


@pytest.mark.engine
def test_r_packages_are_debians(engine: docker.DockerClient) -> None:
    try:
        find(engine, base_tag("r"))
    except EscrowError:
        pytest.skip("the engine has no base of family r (`escrow image base --family r`)")
    wanted = capsule(
        f"# {uuid4()}\nFROM r-base:4.2.2\nRUN install2.r jsonlite\n", family="r", packages_txt="jsonlite 1.8.3\n"
    )
    made = build(engine, wanted, tell=silent)
    try:
        check_image(engine, made.image, wanted)
        assert said(engine, made.image, "Rscript", "-e", "cat(jsonlite::toJSON(1:2))") == "[1,2]"
        assert "r-cran-jsonlite" in {each.package for each in made.differences}
    finally:
        engine.images.remove(made.image, force=True)
