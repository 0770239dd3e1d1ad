"""Whatever happens in whatever order: what is used or rooted stays, what nobody needs goes.

First the lives that showed faults which chance finds too rarely, then many by chance.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from integration.collect_machine import Collection
from integration.faults import Fault
from integration.small_node import GRACE, NUMBERS

LIFE_STEPS: Final = 100
SOON: Final = timedelta(seconds=100)
QUARTER: Final = timedelta(minutes=16)  # and more than what a container may take to start


def observed(life: Collection) -> None:
    life.what_is_needed_is_not_lost()
    life.open_gates_lead_to_whole_releases()
    life.what_lies_in_the_store_is_whole()


def release(life: Collection, number: int, fault: Fault | None = None) -> None:
    life.release(number=number, later=QUARTER, fault=fault, newer=None, beside=False)
    observed(life)


def start(life: Collection, profile: str, number: int) -> None:
    """Start a container, which finds this release."""
    life.start_container(later=QUARTER, profile=profile, delay=0)
    assert [one.number for one in life.node.containers_.values()] == [number]


def supersede(life: Collection, *numbers: int) -> None:
    """Have two others be the ones that are wanted and rolled back to, and collect."""
    for number in numbers:
        release(life, number)
    for _ in range(3):
        life.collect(later=GRACE, short=False, fault=None, raced=False)
        observed(life)


@pytest.fixture
def life() -> Iterator[Collection]:
    life = Collection()
    yield life
    life.teardown()


def test_a_container_keeps_what_the_gate_of_a_profile_that_left_led_to(life: Collection) -> None:
    release(life, 0)
    release(life, 1)  # has no ml
    start(life, "ml", 0)
    supersede(life, 3, 4, 2)  # and 3 has it again


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("after", range(40, 60))
def test_what_an_agent_opened_before_it_could_note_it_is_kept(
    life: Collection, after: int, full: bool
) -> None:
    release(life, 0)
    release(life, 1, Fault(after, full=full))
    [number] = [NUMBERS[short] for name, short in life.node.gates.open() if name == "ds"]
    start(life, "ds", number)
    life.node.fuse.full = False
    life.node.now += QUARTER
    supersede(life, 1, 2, 4)


def test_what_a_container_found_before_the_clock_went_back_is_kept(life: Collection) -> None:
    release(life, 0)
    release(life, 1)
    life.node.now -= 8 * QUARTER
    start(life, "ds", 1)
    supersede(life, 2, 4)


def test_a_container_that_started_late_keeps_what_it_was_bound_to(life: Collection) -> None:
    release(life, 1)
    life.start_container(later=QUARTER, profile="ds", delay=250)
    life.release(number=2, later=SOON, fault=None, newer=None, beside=False)
    supersede(life, 3, 4)


def test_who_is_silent_may_need_anything(life: Collection) -> None:
    release(life, 1)
    start(life, "ds", 1)
    life.node.silent = True
    supersede(life, 2, 4)


def test_what_is_wanted_again_in_its_grace_stays(life: Collection) -> None:
    for number in (1, 2, 4):
        release(life, number)
    life.collect(later=QUARTER, short=False, fault=None, raced=False)
    release(life, 1, Fault(3, full=True))  # accepted, not noted as opening
    life.node.fuse.full = False
    life.collect(later=QUARTER, short=False, fault=None, raced=False)
    observed(life)


def test_a_release_that_is_renewed_often_keeps_the_one_before(life: Collection) -> None:
    release(life, 1)
    supersede(life, *[2] * 6)
    assert life.rollback() == {1, 2}


def live(steps: int) -> None:
    """Take that many steps in many lives; a failure is not shortened, which would take an hour."""
    Collection.steps = 0
    run_state_machine_as_test(
        Collection,
        settings=settings(
            max_examples=steps * 5 // 4 // LIFE_STEPS,  # some lives end early
            stateful_step_count=LIFE_STEPS,
            deadline=None,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
            suppress_health_check=[*HealthCheck],
        ),
    )
    assert Collection.steps >= steps


@pytest.mark.timeout(600)
def test_what_is_used_or_rooted_stays_and_the_rest_goes() -> None:
    live(5_000)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_same_for_hours() -> None:
    live(50_000)
