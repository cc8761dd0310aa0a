"""Arrays in a cache folder are unchanged or missing; their size is bounded, and several processes may use them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tfgradgen.io import numbered
from tfgradgen.io.numbered import DIGEST, NumberedArrays

SHAPE = (4, 3)
ARRAYS = [np.arange(12, dtype=np.float32).reshape(SHAPE) + k for k in range(8)]


def make(root: Path, owner: str = "mine") -> NumberedArrays:
    return NumberedArrays(root / owner, owner, SHAPE)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    arrays = make(tmp_path)
    assert all(arrays.put(number, array) for number, array in enumerate(ARRAYS))
    return tmp_path


def path_of(root: Path, number: int, owner: str = "mine") -> Path:
    return root / owner / f"{number:08d}.f32"


def test_what_was_kept_is_read_by_another_reader(kept: Path) -> None:
    for number, array in enumerate(ARRAYS):
        np.testing.assert_array_equal(make(kept).get(number), array)
    assert make(kept).get(8) is None
    assert sorted(path.name for path in (kept / "mine").iterdir()) == [path_of(kept, n).name for n in range(8)]


def test_what_is_not_as_it_was_kept_is_not_there(kept: Path) -> None:
    whole = path_of(kept, 0).read_bytes()
    forged = np.full(SHAPE, 7, "<f4").tobytes()
    for content in (b"", whole[:-1], whole + b"\0", whole[:-4] + b"\0\0\0\1", whole[:DIGEST] + forged, bytes(DIGEST) + forged):
        path_of(kept, 0).write_bytes(content)
        assert make(kept).get(0) is None, content
    path_of(kept, 0).write_bytes(path_of(kept, 1).read_bytes())
    assert make(kept).get(0) is None, "another number's"
    other = make(kept, "other")
    assert other.put(0, ARRAYS[2])
    path_of(kept, 0).write_bytes(path_of(kept, 0, "other").read_bytes())
    assert make(kept).get(0) is None, "another owner's"
    path_of(kept, 0).unlink()
    path_of(kept, 0).mkdir()
    assert make(kept).get(0) is None
    assert not make(kept).put(0, ARRAYS[0]), "a folder is in its place, which is nobody's error"
    path_of(kept, 0).rmdir()
    (kept / "elsewhere").write_bytes(whole)
    path_of(kept, 0).symlink_to(kept / "elsewhere")
    assert make(kept).get(0) is None, "a link out of the folder"
    assert make(kept).put(0, ARRAYS[0])
    np.testing.assert_array_equal(make(kept).get(0), ARRAYS[0])
    assert (kept / "elsewhere").read_bytes() == whole


@pytest.mark.parametrize("folder", [None, Path("/proc/nothing/here"), Path(os.devnull) / "pool"])
def test_where_nothing_can_be_written_nothing_is_kept(folder: Path | None) -> None:
    arrays = NumberedArrays(folder, "mine", SHAPE)
    assert (arrays.put(0, ARRAYS[0]), arrays.has(0), arrays.get(0)) == (False, False, None)


def test_what_was_not_used_for_the_longest_time_makes_room(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = make(kept).num_bytes
    monkeypatch.setattr(numbered, "MAX_BYTES", 10 * size)
    for number in range(8):
        os.utime(path_of(kept, number), (number, number))
    assert make(kept).get(0) is not None, "used just now"
    other = make(kept, "other")
    assert all(other.put(number, array) for number, array in enumerate(ARRAYS[:3]))
    left = [number for number in range(8) if path_of(kept, number).exists()]
    assert left == [0, 3, 4, 5, 6, 7]
    assert sum(path.stat().st_size for path in kept.rglob("*.f32")) <= 10 * size


def test_an_owner_who_has_all_the_room_keeps_no_more_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbered, "MAX_BYTES", 3 * make(tmp_path).num_bytes)
    arrays = make(tmp_path)
    assert [arrays.put(number, array) for number, array in enumerate(ARRAYS[:5])] == [True, True, True, False, False]
    assert [arrays.has(number) for number in range(5)] == [True, True, True, False, False]


def test_two_processes_that_write_at_once_leave_whole_files(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np; from pathlib import Path; from tfgradgen.io.numbered import NumberedArrays\n"
        f"arrays = NumberedArrays(Path({str(tmp_path / 'mine')!r}), 'mine', {SHAPE})\n"
        "for turn in range(40):\n"
        "    for number in range(8):\n"
        f"        assert arrays.put(number, np.arange(12, dtype=np.float32).reshape({SHAPE}) + number)\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    num_read = 0
    while any(writer.poll() is None for writer in writers):
        for number, array in enumerate(ARRAYS):
            found = make(tmp_path).get(number)
            assert found is None or np.array_equal(found, array)
            num_read += found is not None
    assert [writer.returncode for writer in writers] == [0, 0]
    assert all(np.array_equal(make(tmp_path).get(number), array) for number, array in enumerate(ARRAYS))
    assert len(list((tmp_path / "mine").iterdir())) == 8
    assert num_read > 0


def test_a_process_that_is_killed_leaves_what_makes_room_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = make(tmp_path, "first")
    assert arrays.put(0, ARRAYS[0])
    left = path_of(tmp_path, 0, "first").with_name(".00000000.f32.123.partial")
    left.write_bytes(bytes(arrays.num_bytes))
    os.utime(left, (1, 1))
    monkeypatch.setattr(numbered, "MAX_BYTES", 2 * arrays.num_bytes)
    assert make(tmp_path, "second").put(0, ARRAYS[1])
    assert not left.exists()
