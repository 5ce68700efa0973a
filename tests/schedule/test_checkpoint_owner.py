"""A checkpoint takes only its own run's records."""

from spice_select import select
from spice_select.choices import PoolRecord
from spice_select.schedule.checkpoint import Checkpoint


def record(pool: int) -> PoolRecord:
    return PoolRecord(pool, [0, 1], [0], 1, False, 0.0, None)


def test_a_process_that_outlived_its_run_leaves_nothing_for_the_next(tmp_path):
    old = Checkpoint(tmp_path)
    old.start({"seed": 0})
    new = Checkpoint(tmp_path)
    new.start({"seed": 1})
    new.save_record(record(0))
    old.save_record(record(1))
    assert list(new.records()) == [0]
    assert list(Checkpoint(tmp_path).records()) == [0]


def test_a_resumed_run_takes_up_its_own(tmp_path):
    first = Checkpoint(tmp_path)
    first.start({"seed": 0})
    first.save_record(record(0))
    again = Checkpoint(tmp_path)
    again.verify({"seed": 0})
    again.save_record(record(1))
    assert list(again.records()) == [0, 1]


def test_rows_in_memory_that_json_cannot_hold_are_left_out_with_the_reason(tiny_model):
    odd = [{"prompt": "a", "completion": "b", 3: 4}, {"prompt": "a", "completion": "b", "n": 10**5000}]
    rows = [{"prompt": "q", "completion": "a"} for _ in range(4)]
    result = select([*rows, *odd], model=tiny_model, method="random", budget="2", skip_invalid=True)
    assert [found.number for found in result.pool.rejected] == [5, 6]
    assert all("cannot be written as JSON" in found.reason for found in result.pool.rejected)
