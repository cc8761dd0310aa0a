"""Blocks on workers that are lost: each piece comes once and in order."""

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.fleets import HereFleet
from tfgradgen.core.checks import UserError, fail
from tfgradgen.engine.places import check_surroundings
from tfgradgen.engine.schedule import MAX_LOSSES, Scheduler
from tfgradgen.engine.work import Piece, Work
from tfgradgen.results.origin import environment
from tfgradgen.results.record import surroundings

LENGTH = 5


def count_up(first: int, resume: int | None) -> Iterator[Piece]:
    """The numbers first, first + 1, ..., from the one after `resume`."""
    for k in range(first if resume is None else resume + 1, first + LENGTH):
        yield Piece(k, k)


def broken(spec: str, resume: None) -> Iterator[Piece]:
    yield Piece("before", None)
    if spec == "user":
        raise fail("label", "a class", "none", "give one")
    raise MemoryError("no room")


def run(scheduler: Scheduler) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for event in scheduler.events():
        assert not event.error
        if event.piece:
            found.setdefault(event.key, []).append(event.piece.value)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("num_workers", [1, 2, 7])
@pytest.mark.parametrize("lost_at", [(), (1,), (2, 3, 4), (3, 9, 14)], ids=str)
def test_every_piece_comes_once_whoever_is_lost(num_workers: int, lost_at: tuple[int, ...]) -> None:
    fleet = HereFleet(lost_at)
    scheduler = Scheduler(fleet, num_workers)
    for k in range(4):
        scheduler.add(k, Work(count_up, 100 * k))
    assert run(scheduler) == {k: list(range(100 * k, 100 * k + LENGTH)) for k in range(4)}
    assert scheduler.num_lost == len(lost_at) == Counter(fleet.kinds)["lost"]
    assert scheduler.num_open == 0


def test_blocks_can_be_added_while_others_run() -> None:
    scheduler, found = Scheduler(HereFleet(), 2), []
    scheduler.add(0, Work(count_up, 0))
    for event in scheduler.events():
        if event.piece is None and len(found) < 3:
            scheduler.add(len(found) + 1, Work(count_up, 0))
            found.append(event.key)
    assert found == [0, 1, 2]


def test_a_failed_block_ends_alone() -> None:
    scheduler = Scheduler(HereFleet(), 2)
    for key, work in {"user": Work(broken, "user"), "other": Work(broken, "other"), "good": Work(count_up, 0)}.items():
        scheduler.add(key, work)
    ends = {event.key: event.error for event in scheduler.events() if event.piece is None}
    assert ends["good"] is None
    assert str(ends["user"]) == "label: expected a class, got none; give one."
    assert "no room; check the models" in str(ends["other"])


def test_a_worker_that_differs_is_refused() -> None:
    here = surroundings(environment("auto"))
    check_surroundings(here, "auto")
    other = here | {"versions": here["versions"] | {"numpy": "0.1"}}
    with pytest.raises(UserError, match=r"engine: expected workers with versions\.numpy 0\.1, as the first one, got one with"):
        check_surroundings(other, "auto")


def test_workers_that_always_die_end_the_command() -> None:
    scheduler = Scheduler(HereFleet(range(1, 1000)), 2)
    scheduler.add(0, Work(count_up, 0))
    with pytest.raises(UserError, match=r"workers that stay alive, got 9 lost in a row, the last one: it was killed"):
        run(scheduler)
    assert scheduler.num_lost == MAX_LOSSES * 2 + 1
