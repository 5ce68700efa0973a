"""What a stopped command says is true of what it left."""

from pathlib import Path

from spice_select.cli import advice


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")


def test_a_run(tmp_path):
    said = advice.of_run(str(tmp_path), overwrite=False)
    assert "Nothing was begun" in said()
    touch(tmp_path / "checkpoint" / "identity.json")
    assert "0 candidate pools are kept" in said() and "with --resume goes on" in said()
    touch(tmp_path / "checkpoint" / "pool-000000.json")
    assert "1 candidate pool is kept" in said()
    touch(tmp_path / "manifest.json")
    assert "is complete" in said() and "spice-select report" in said()


def test_an_earlier_run_is_not_taken_for_the_one_that_was_to_replace_it(tmp_path):
    identity = tmp_path / "checkpoint" / "identity.json"
    touch(identity)
    said = advice.of_run(str(tmp_path), overwrite=True)
    assert "is as it was" in said()
    (tmp_path / "new").write_text("{}")
    (tmp_path / "new").replace(identity)
    assert "--resume in place of --overwrite" in said()


def test_an_earlier_run_that_is_half_removed_is_not_said_to_be_whole(tmp_path):
    touch(tmp_path / "checkpoint" / "identity.json")
    touch(tmp_path / "manifest.json")
    said = advice.of_run(str(tmp_path), overwrite=True)
    assert "is as it was" in said()
    (tmp_path / "manifest.json").unlink()
    assert "was being removed" in said()


def test_a_checkpoint_is_as_it_was_or_complete_or_will_be(tmp_path):
    said = advice.of_finetune(str(tmp_path))
    assert "is as it was" in said()
    touch(tmp_path / "finetune.json")
    assert "is complete" in said()
    replacing = advice.of_finetune(str(tmp_path))
    assert "is as it was" in replacing()
    (tmp_path / "finetune.json").unlink()
    assert "puts it there" in replacing()


def test_a_run_over_all_rows_and_a_store_count_shards(tmp_path):
    said = advice.of_run(str(tmp_path), overwrite=False)
    touch(tmp_path / "checkpoint" / "identity.json")
    store = tmp_path / "checkpoint" / "gradients"
    touch(store / "shards" / "000000.safetensors")
    assert "1 shard of gradients is kept" in said()
    touch(store / "shards" / "000001.safetensors")
    assert "2 shards of gradients are kept" in advice.of_store(str(store))()
    assert "Nothing was begun" in advice.of_store(str(tmp_path / "none"))()


def test_a_pick_starts_anew_and_a_study_goes_on(tmp_path):
    said = advice.of_pick(str(tmp_path), overwrite=False)
    assert "Nothing was begun" in said()
    touch(tmp_path / "checkpoint" / "identity.json")
    assert "--overwrite starts anew" in said()
    touch(tmp_path / "cells" / "random" / "0.json")
    assert "1 result of a cell is kept" in advice.of_study(str(tmp_path))()
