"""A finished folder is complete, or lacks its marker."""

import errno
import os
from pathlib import Path

import pytest
from file_operations import killed_everywhere

from vqlm.training.errors import UserError
from vqlm.training.folders.whole_folder import SAVING, save_whole


def write(folder: Path, text: str, names: tuple[str, ...] = ("config.json", "model.bin", "part/model.bin")) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f'"{text}"')


def texts(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_later_save_takes_the_place_of_an_earlier_one(tmp_path):
    write(tmp_path, "old", ("config.json", "model.bin", "model-2.bin", "part/model.bin", "part/more.bin", "mine.txt"))
    save_whole(tmp_path, "config.json", lambda place: write(place, "new"), replaced=["model*.bin"])
    assert texts(tmp_path) == {
        "config.json": '"new"', "model.bin": '"new"', "part/model.bin": '"new"', "mine.txt": '"old"',
    }  # fmt: skip


@pytest.mark.parametrize("before", [(), ("config.json", "model.bin", "model-2.bin", "part/more.bin")])
def test_killed_at_every_operation(tmp_path, before):
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder, "old", before)
    whole = {"config.json": '"new"', "model.bin": '"new"', "part/model.bin": '"new"'}
    seen = set()

    def look() -> None:
        found = {name: text for name, text in texts(folder).items() if SAVING not in name}
        if "config.json" in found:  # its marker: all is of one save
            seen.add(found["config.json"])
            assert found == (whole if found["config.json"] == '"new"' else dict.fromkeys(before, '"old"'))
        else:
            seen.add(None)

    kills = killed_everywhere(
        folder, lambda: save_whole(folder, "config.json", lambda place: write(place, "new"), replaced=["model*"]), look
    )
    assert kills > 15
    assert seen == {None, '"new"'} | ({'"old"'} if before else set())


def test_a_full_disk_keeps_what_was_there(tmp_path):
    write(tmp_path, "old")
    before = texts(tmp_path)

    def fail(place: Path) -> None:
        write(place, "new")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=r"could not be saved in .* \(No space left on device\)"):
        save_whole(tmp_path, "config.json", fail, replaced=[])
    assert texts(tmp_path) == before


def test_an_error_of_the_caller_is_raised_as_it_is(tmp_path):
    def fail(place: Path) -> None:
        raise RuntimeError("of the caller")

    with pytest.raises(RuntimeError, match="of the caller"):
        save_whole(tmp_path, "config.json", fail, replaced=[])
    assert list(tmp_path.iterdir()) == []
