"""Archives that are damaged, cut, joined or hostile: what is read, and what is said of the rest."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from vqlm.data_prep.sources.tar import BLOCK, Damage, Member, read_members
from vqlm.data_prep.sources.webdataset import tar_shards

# Every member is a header and one block of content.
MEMBER = 2 * BLOCK


def write_tar(path: Path, count: int = 10, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for number in range(count):
            member = tarfile.TarInfo(f"{number:03}.txt")
            member.size = 3
            archive.addfile(member, io.BytesIO(b"%03d" % number))
    return path


def read(path: Path) -> tuple[list[str], list[Damage]]:
    members = list(read_members(path))
    names = [member.name for member in members if isinstance(member, Member)]
    return names, [member for member in members if isinstance(member, Damage)]


def change(path: Path, start: int, content: bytes) -> Path:
    whole = bytearray(path.read_bytes())
    whole[start : start + len(content)] = content
    path.write_bytes(whole)
    return path


NAMES = [f"{number:03}.txt" for number in range(10)]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_whole_archive(tmp_path, mode):
    path = write_tar(tmp_path / "x.tar", mode=mode)  # compression is seen from the content, not the name
    assert read(path) == (NAMES, [])
    assert next(iter(read_members(path))) == Member("000.txt", b"000")
    assert next(iter(read_members(path, with_content=False))) == Member("000.txt", b"")


@pytest.mark.parametrize("offset", [0, 60, 125, 150, 156, 257])
def test_a_flipped_byte_of_a_header_loses_that_member_alone(tmp_path, offset):
    path = write_tar(tmp_path / "x.tar")
    place = 4 * MEMBER + offset
    change(path, place, bytes([path.read_bytes()[place] ^ 0x41]))
    names, damages = read(path)
    assert names == NAMES[:4] + NAMES[5:]
    assert [damage.is_end for damage in damages] == [False]
    error = "invalid header" if offset == 150 else "bad checksum"  # 150 is in the checksum itself
    assert damages[0].reason == f"damaged header at byte 4,096 ({error}); everything up to byte 5,120 is lost"


@pytest.mark.parametrize("zeros", [BLOCK, 2 * BLOCK, 3 * MEMBER, 20 * BLOCK])
def test_zeros_in_the_middle_are_no_end(tmp_path, zeros):
    path = change(write_tar(tmp_path / "x.tar", 40), 4 * MEMBER, bytes(zeros))
    names, damages = read(path)
    lost = -(-zeros // MEMBER)
    assert names == [f"{number:03}.txt" for number in [*range(4), *range(4 + lost, 40)]]
    assert len(damages) == 1
    assert "zeros with data after them" in damages[0].reason


def test_joined_archives_are_read_to_the_end_and_named(tmp_path):
    path = write_tar(tmp_path / "x.tar")
    path.write_bytes(path.read_bytes() + path.read_bytes())
    names, damages = read(path)
    assert names == NAMES + NAMES
    assert len(damages) == 1


@pytest.mark.parametrize(
    ("length", "kept", "reason"),
    [
        (10 * MEMBER, 10, "the end mark is missing at byte 10,240"),
        (4 * MEMBER, 4, "the end mark is missing at byte 4,096"),
        (4 * MEMBER + 100, 4, "100 bytes where a header of 512 or the end mark must be"),
        (4 * MEMBER + BLOCK + 1, 4, "004.txt has 3 bytes, 1 are there"),
        (4 * MEMBER + BLOCK + 10, 4, "the last block of 004.txt is cut"),
        (0, 0, "the end mark is missing at byte 0"),
    ],
)
def test_a_cut_is_named(tmp_path, length, kept, reason):
    path = write_tar(tmp_path / "x.tar")
    path.write_bytes(path.read_bytes()[:length])
    assert read(path) == (NAMES[:kept], [Damage(reason, is_end=True)])


def test_half_an_end_mark_at_the_very_end_is_one(tmp_path):
    path = write_tar(tmp_path / "x.tar")
    path.write_bytes(path.read_bytes()[: 10 * MEMBER + BLOCK])
    assert read(path) == (NAMES, [])


@pytest.mark.parametrize("place", [20, 300, -6, -3])
def test_a_broken_gzip_is_one_sentence(tmp_path, place):
    path = write_tar(tmp_path / "x.tar.gz", 400, "w:gz")
    place %= path.stat().st_size
    change(path, place, bytes([path.read_bytes()[place] ^ 0xFF]))
    _, damages = read(path)
    assert damages
    assert damages[-1].is_end


def test_a_size_that_no_picture_has_is_not_read_into_memory(tmp_path):
    member = tarfile.TarInfo("bomb.png")
    member.size = 2**40
    with gzip.open(tmp_path / "x.tar.gz", "wb") as file:
        file.write(member.tobuf() + bytes(2**20))
    names, damages = read(tmp_path / "x.tar.gz")
    assert names == []
    assert damages == [Damage("bomb.png has 1,099,511,627,776 bytes, 1,048,576 are there", is_end=True)]


@pytest.mark.parametrize("content", [b"6 path=x\n", b"99 path=x\n", b"hello", b"10 size=x\n"])
def test_a_damaged_pax_header(tmp_path, content):
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(content)
    (tmp_path / "x.tar").write_bytes(header.tobuf() + content.ljust(BLOCK, b"\0"))
    names, damages = read(tmp_path / "x.tar")
    assert (names, len(damages)) == ([], 1)


def test_a_sparse_file_is_named(tmp_path):
    member = tarfile.TarInfo("holes.png")
    member.type = tarfile.GNUTYPE_SPARSE
    with tarfile.open(tmp_path / "y.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    (tmp_path / "x.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + (tmp_path / "y.tar").read_bytes())
    names, damages = read(tmp_path / "x.tar")
    assert (names, [damage.reason for damage in damages]) == (
        ["a.txt"],
        ["holes.png is a sparse file, which is not read"],
    )


def test_a_missing_archive(tmp_path):
    names, damages = read(tmp_path / "gone.tar")
    assert (names, damages[0].is_end) == ([], True)


def test_a_damaged_archive_of_300_rows_gives_299_and_the_reason(tmp_path, picture):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(300):
            for suffix, content in ((".png", picture()), (".txt", b"a thing")):
                member = tarfile.TarInfo(f"{number:03}{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    change(path, 100 * 2 * MEMBER + 5, b"\xff")  # the picture's header of row 100
    rows = list(tar_shards([path])[0].read())
    assert len({row.key for row in rows if hasattr(row, "captions")}) == 299
    reasons = {row.key: row.reason for row in rows if hasattr(row, "reason")}
    assert reasons["x.tar/100"] == "it has no picture, only .txt"
    assert "damaged header at byte 204,800 (bad checksum)" in reasons["x.tar"]
