"""The law of capsules: what may lie in one, what its digest covers, and what its code gets to see."""

from typing import Any

import pytest
from capsules import DECLARATION, FILES
from hypothesis import example, given
from hypothesis import strategies as some

from contracts import archive
from contracts.canonical import canonical, digest
from contracts.capsule import DATA_BYTES_AT_MOST, FILES_AT_MOST, TEXT_BYTES_AT_MOST, read, unpack
from contracts.errors import EscrowError


def broken(changed: dict[str, bytes | None]) -> list[str]:
    """What is wrong with the capsule once these files were replaced or removed."""
    files = {path: content for path, content in {**FILES, **changed}.items() if content is not None}
    with pytest.raises(EscrowError) as caught:
        read(files)
    assert caught.value.code == "capsule-invalid"
    return list(caught.value.details)


# what a capsule is


def test_a_capsule_survives_its_archive() -> None:
    capsule = read(FILES)
    again = unpack(capsule.packed())
    assert (again.files, again.declaration, again.digest) == (capsule.files, capsule.declaration, capsule.digest)


def test_the_digest_is_computed_as_the_law_says() -> None:
    covered = ["code/analysis.py", "code/config-confidential.yml", "code/lib/helper.py", "code/run"]
    covered += ["environment/Dockerfile", "escrow.yml"]
    assert read(FILES).digest == digest(canonical({path: digest(FILES[path]) for path in covered}))
    assert read(dict(reversed(FILES.items()))).digest == read(FILES).digest
    assert read(FILES).digest == "sha256:2ae982a9bf1368a323f202b0fdf704ac138b859840f49065ba8560b3d546ad61"


@pytest.mark.parametrize("path", ["README.md", "data/cards.csv", "metadata/metadata.yml"])
def test_other_rows_and_words_do_not_change_the_digest(path: str) -> None:
    other = read({**FILES, path: b"something else\n", "data/more.csv": b"x\n"})
    assert (other.digest, other.environment) == (read(FILES).digest, read(FILES).environment)


@pytest.mark.parametrize("path", ["code/run", "code/lib/helper.py", "escrow.yml", "environment/Dockerfile", "code/new"])
def test_whatever_runs_changes_the_digest(path: str) -> None:
    other = read({**FILES, path: FILES.get(path, b"") + b"# changed\n"})
    assert other.digest != read(FILES).digest
    assert (other.environment != read(FILES).environment) == path.startswith("environment/")


def test_a_file_that_moves_changes_the_digest() -> None:
    files = dict(FILES)
    files["code/lib/other.py"] = files.pop("code/lib/helper.py")
    assert read(files).digest != read(FILES).digest


# what the code sees


def test_the_configuration_for_confidential_rows_is_there_only_with_them() -> None:
    capsule = read(FILES)
    only = capsule.code(confidential=True).keys() - capsule.code(confidential=False).keys()
    assert only == {"code/config-confidential.yml"}


def test_code_sees_declared_rows_and_no_others() -> None:
    capsule = read({**FILES, "data/notes.txt": b"for people\n", "data/more/cards.csv": b"x\n"})
    assert capsule.synthetic() == {"data/cards.csv": FILES["data/cards.csv"]}


# what is refused


@pytest.mark.parametrize("path", ["code/run", "environment/Dockerfile", "metadata/metadata.yml", "escrow.yml"])
def test_what_is_missing_is_named(path: str) -> None:
    assert broken({path: None}) == [f"{path} is missing."]


@pytest.mark.parametrize(
    "path",
    [
        "results/table.csv", "notes.txt", "code", "data", "code/../escrow.yml", "/code/x", "code//x", "code/.hidden",
        "code/a/b/c/d", "code/é.py", "code/a b.py", "code/a\nb", "Code/run", "code/" + 100 * "x", "", "code/x/",
        "README.md/x", ".git/config",
    ],
)  # fmt: skip
def test_nothing_else_has_a_place(path: str) -> None:
    assert any("has no place" in each for each in broken({path: b"x"}))


def test_a_path_is_never_a_file_and_a_directory() -> None:
    assert broken({"code/lib": b"x = 1\n"}) == ["'code/lib' is a file and a directory."]


@pytest.mark.parametrize("content", [b"\x7fELF\0\1", b"\xff\xfe", b"a\0b"])
@pytest.mark.parametrize("path", ["code/analysis.py", "environment/Dockerfile", "README.md"])
def test_all_that_runs_is_text(path: str, content: bytes) -> None:
    assert broken({path: content}) == [f"{path} is not text: all that runs must be readable."]


def test_rows_may_be_anything() -> None:
    assert read({**FILES, "data/cards.csv": b"PAR1\0\xff"}).synthetic()["data/cards.csv"] == b"PAR1\0\xff"


def test_sizes_and_numbers_are_bounded() -> None:
    assert "1048576 at most" in broken({"code/run": b"#!" + bytes(TEXT_BYTES_AT_MOST)})[0]
    found = broken({"data/a": bytes(DATA_BYTES_AT_MOST), "data/b": b"x"})
    assert found == ["It has more than 64 MiB."]
    assert broken({f"code/f{k}": b"" for k in range(FILES_AT_MOST)})[0] == "It has 1009 files; 1000 at most."


def test_run_says_what_runs_it() -> None:
    assert broken({"code/run": b"python3 analysis.py\n"}) == [
        "code/run does not begin with #! and the program that runs it."
    ]


def test_every_problem_is_named_at_once() -> None:
    found = broken({"code/run": b"no", "notes.txt": b"", "metadata/metadata.yml": None, "data/cards.csv": None})
    assert len(found) == 4


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"capsule: 2\nfamily: python\n", "capsule"),
        (DECLARATION.replace(b"python", b"julia"), "family"),
        (DECLARATION.replace(b"cards.csv]", b"../cards.csv]"), "data.0"),
        (DECLARATION.replace(b"cards.csv]", b"cards.csv, cards.csv]"), "a name stands there twice"),
        (DECLARATION.replace(b"table.csv", b"../table.csv"), "outputs.0.path"),
        (DECLARATION.replace(b"table.csv", b"/results/table.csv"), "outputs.0.path"),
        (DECLARATION.replace(b"table.csv", b"failure.json"), "failure.json"),
        (DECLARATION.replace(b"vetting: none", b"vetting: maybe"), "outputs.0"),
        (DECLARATION.replace(b"size-kib: 8", b"size-kib: 0"), "outputs.0.size-kib"),
        (DECLARATION + b"  - {path: table.csv, kind: text, size-kib: 1, vetting: none}\n", "a path stands there twice"),
        (DECLARATION + b"  - {path: table.csv/x, kind: text, size-kib: 1, vetting: none}\n", "a file and a directory"),
        (DECLARATION + b"network: true\n", "network"),
        (DECLARATION + b"limits: {seconds: 100000}\n", "limits.seconds"),
        (b"[]", "a list"),
        (b"a: &x 1\n", "anchor"),
        (b"capsule: 1\ncapsule: 1\n", "twice"),
    ],
)
def test_a_declaration_says_what_is_wrong_with_it(text: bytes, problem: str) -> None:
    found = broken({"escrow.yml": text})
    assert any(problem in each for each in found), found


def test_declared_rows_are_there() -> None:
    assert broken({"data/cards.csv": None}) == ["data/cards.csv is declared and not there."]


# archives of others


@given(some.binary(max_size=2048))
@example(b"")
@example(bytes(1024))
def test_no_bytes_of_others_are_a_capsule_by_chance(data: bytes) -> None:
    with pytest.raises(EscrowError) as caught:
        unpack(data)
    assert caught.value.code in {"archive-invalid", "capsule-invalid"}


@pytest.mark.parametrize(
    "more", [{"code": b""}, {"code/../../etc/passwd": b""}, {"results/x": b""}, {"/etc/passwd": b""}, {"code/lib": b""}]
)
def test_an_archive_with_odd_names_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(EscrowError) as caught:
        unpack(archive.pack({**FILES, **more}))
    assert caught.value.code in {"archive-invalid", "capsule-invalid"}


def test_a_changed_archive_is_refused() -> None:
    packed = bytearray(read(FILES).packed())
    packed[300] ^= 1  # in the first header
    with pytest.raises(EscrowError):
        unpack(bytes(packed))
