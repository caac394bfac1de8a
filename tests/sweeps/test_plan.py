"""Cells become jobs: conventions share trainings, seeds train in aligned blocks, and what is done is not done again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnstudy.batchnorm.conventions import CONVENTIONS
from bnstudy.errors import UserError
from bnstudy.sweeps.config import Config
from bnstudy.sweeps.identity import training_id
from bnstudy.sweeps.plan import Effort, Plan, blocks, canonical, cell_fields, make_plan
from bnstudy.sweeps.store import LAYOUT, Store, write_json
from tests.records import save_done
from tests.tiny import tiny


def planned(configs: list[Config], store: Store, size: int = 16, cost: dict[str, float] | None = None) -> Plan:
    names = {training_id(config) for config in configs}
    return make_plan(configs, store, {name: Effort(size, 26, (cost or {}).get(name, 1.0)) for name in names})


def finish(plan: Plan, store: Store, **record: Any) -> None:
    """What running every missing job leaves in the store."""
    for job in plan.missing:
        save_done(store, job.id, job.seeds, **record)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@given(st.sets(st.integers(0, 200), min_size=1), st.sampled_from([1, 2, 4, 8, 16]))
def test_blocks_are_aligned_and_cover_each_seed_once(seeds: set[int], size: int) -> None:
    cut = blocks(list(seeds), size)
    assert sorted(seed for block in cut for seed in block) == sorted(seeds)
    for block in cut:
        start = block[0] // size * size
        assert list(block) == sorted(block)
        assert all(start <= seed < start + size for seed in block)
    assert len({block[0] // size for block in cut}) == len(cut)


def test_a_seed_stands_in_the_same_whole_block_whatever_else_is_asked_for() -> None:
    assert blocks(range(20), 8) == [tuple(range(8)), tuple(range(8, 16)), (16, 17, 18, 19)]
    assert blocks([17, 3, 9, 1], 8) == [(1, 3), (9,), (17,)]
    assert blocks(range(16), 8)[0] == blocks(range(64), 8)[0]


def test_five_conventions_are_two_trainings(store: Store) -> None:
    configs = [tiny(name, seeds=8) for name in CONVENTIONS]
    plan = planned(configs, store)
    assert len(plan.cells) == 5
    assert len(plan.jobs) == len(plan.missing) == 2
    jobs = {cell.config.variance.name: cell.jobs for cell in plan.cells}
    assert jobs["paper"] == jobs["consistent_biased"] == jobs["total"]
    assert jobs["consistent_unbiased"] == jobs["inverted"]
    assert jobs["paper"] != jobs["inverted"]
    assert {job.config.variance.normalize for job in plan.jobs} == {"biased", "unbiased"}
    assert all(job.seeds == tuple(range(8)) and job.steps == 26 for job in plan.jobs)
    assert [cell.config for cell in plan.cells] == configs


def test_equal_cells_count_once(store: Store) -> None:
    plan = planned([tiny(), tiny(name="again"), tiny()], store)
    assert (len(plan.cells), len(plan.jobs)) == (1, 1)


def test_a_baseline_is_one_cell_whatever_the_convention(store: Store) -> None:
    plan = planned([tiny(name, model__norm="group") for name in CONVENTIONS], store)
    assert (len(plan.cells), len(plan.jobs)) == (1, 1)


def test_a_job_does_not_depend_on_who_asks_first(store: Store) -> None:
    forth = planned([tiny("paper"), tiny("consistent_biased")], store).jobs
    back = planned([tiny("consistent_biased", name="b", replicas=4), tiny("paper")], store).jobs
    assert forth == back
    assert canonical(tiny("paper", name="a", seeds=4)) == canonical(tiny("consistent_biased", name="b", seeds=[3]))
    assert training_id(canonical(tiny("inverted"))) == training_id(tiny("inverted"))


def test_nothing_is_written_by_planning(store: Store) -> None:
    planned([tiny()], store)
    assert list(store.root.iterdir()) == []


@pytest.mark.parametrize(
    ("first", "then", "new"), [(8, 16, range(8, 16)), (12, 16, range(12, 16)), (3, 40, None), (16, 17, [16])]
)
def test_more_seeds_train_only_the_new_ones(store: Store, first: int, then: int, new: Any) -> None:
    finish(planned([tiny(seeds=first)], store), store)
    plan = planned([tiny(seeds=then)], store)
    trained = sorted(seed for job in plan.missing for seed in job.seeds)
    assert trained == list(range(first, then) if new is None else new)
    assert sorted(seed for job in plan.jobs for seed in job.seeds) == list(range(then))
    assert set(plan.cells[0].jobs) == {job.id for job in plan.jobs}
    finish(plan, store)
    assert planned([tiny(seeds=then)], store).missing == []


def test_seeds_added_in_steps_stay_where_they_trained(store: Store) -> None:
    for seeds in (2, 5, 11, 16, 24):
        finish(planned([tiny(seeds=seeds)], store), store)
    plan = planned([tiny(seeds=24)], store)
    assert plan.missing == []
    assert sorted(job.seeds for job in plan.jobs) == [
        (0, 1),
        (2, 3, 4),
        tuple(range(5, 11)),
        tuple(range(11, 16)),
        tuple(range(16, 24)),
    ]


def test_the_largest_finished_job_of_overlapping_ones_serves(store: Store) -> None:
    finish(planned([tiny(seeds=4)], store), store)
    finish(planned([tiny(seeds=16)], Store(store.root / "other")), store)  # trained elsewhere, whole
    plan = planned([tiny(seeds=16)], store)
    assert [job.seeds for job in plan.jobs] == [tuple(range(16))]
    assert plan.missing == []


def test_fewer_seeds_than_are_done_are_a_block_of_their_own(store: Store) -> None:
    finish(planned([tiny(seeds=16)], store), store)
    assert [job.seeds for job in planned([tiny(seeds=8)], store).missing] == [tuple(range(8))]


def test_a_list_of_seeds_is_planned_as_well(store: Store) -> None:
    plan = planned([tiny(seeds=[9, 0, 3])], store, size=8)
    assert sorted(job.seeds for job in plan.jobs) == [(0, 3), (9,)]


def test_the_longest_job_comes_first(store: Store) -> None:
    configs = [tiny(batch_size=size, seeds=20) for size in (2, 4, 8)]
    names = [training_id(config) for config in configs]
    plan = planned(configs, store, cost=dict(zip(names, (5.0, 1.0, 20.0), strict=True)))
    cost = dict(zip(names, (5.0, 1.0, 20.0), strict=True))
    lengths = [cost[job.training] * len(job.seeds) for job in plan.jobs]
    assert lengths == sorted(lengths, reverse=True)
    assert plan.jobs[0].training == names[2]
    assert plan.missing == plan.jobs


def test_a_failed_job_is_told_apart_from_a_missing_and_a_done_one(store: Store) -> None:
    plan = planned([tiny(seeds=3)], store, size=1)
    store.save(plan.jobs[0].id, {}, {"status": "failed", "seeds": [0], "message": "ValueError: x"})
    save_done(store, plan.jobs[1].id, [1])
    again = planned([tiny(seeds=3)], store, size=1)
    assert list(again.failed) == [plan.jobs[0].id]
    assert list(again.done) == [plan.jobs[1].id]
    assert [job.id for job in again.missing] == [plan.jobs[2].id]
    assert again.foreign == []


def test_a_damaged_job_is_named_with_what_is_wrong_and_is_missing(store: Store) -> None:
    plan = planned([tiny(seeds=2)], store, size=1)
    finish(plan, store)
    first, second = plan.jobs
    (store.jobs / first.id / "layers.parquet").unlink()
    again = planned([tiny(seeds=2)], store, size=1)
    assert again.damaged == {first.id: "layers.parquet is missing"}
    assert list(again.done) == [second.id]
    assert again.missing == [first]


@pytest.mark.parametrize("status", ["done", "failed"])
def test_a_job_of_another_layout_is_named_and_trained_again(store: Store, status: str) -> None:
    (job,) = planned([tiny()], store).jobs
    write_json(store.jobs / job.id / "job.json", {"layout": LAYOUT + 1, "status": status, "rows": "in another form"})
    plan = planned([tiny()], store)
    assert plan.foreign == [job.id]
    assert plan.missing == [job]
    assert (plan.done, plan.failed) == ({}, {})


def test_a_job_whose_record_is_damaged_is_missing(store: Store) -> None:
    (job,) = planned([tiny()], store).jobs
    finish(planned([tiny()], store), store)
    (store.jobs / job.id / "job.json").write_text("{")
    assert planned([tiny()], store).missing == [job]


def test_seeds_that_differ_between_cells_of_one_training_are_refused(store: Store) -> None:
    for other in (tiny("paper", seeds=4), tiny("consistent_biased", seeds=4)):
        with pytest.raises(UserError, match=r"^seeds: 4 differs between cells that share a training; use one value"):
            planned([tiny("paper", seeds=8), other], store)


def test_a_cells_fields_name_its_convention(store: Store) -> None:
    fields = cell_fields(planned([tiny("inverted")], store).cells[0])
    assert (fields["variance.name"], fields["variance.normalize"], fields["variance.accumulate"]) == (
        "inverted",
        "unbiased",
        "biased",
    )


@settings(max_examples=30)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.sampled_from([4, 8, 16]))
def test_however_seeds_were_added_every_one_is_covered_once(tmp_path_factory: Any, numbers: list[int], size: int) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    for seeds in numbers:
        plan = planned([tiny(seeds=seeds)], store, size)
        assert sorted(seed for job in plan.jobs for seed in job.seeds) == list(range(seeds))
        assert set(plan.done) | {job.id for job in plan.missing} == {job.id for job in plan.jobs}
        finish(plan, store)
