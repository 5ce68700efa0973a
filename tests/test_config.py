"""One schema for YAML, command line and Python; errors name the key and the remedy."""

import typing

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from spice_select.config import RunConfig, resolve
from spice_select.config_file import dump_yaml, load_yaml
from spice_select.constants import CONSTANTS, listed
from spice_select.errors import ConfigError
from spice_select.information import Scale as InformationScale
from spice_select.option_values import IMPLIED, Method, Scale
from spice_select.prepared import merged_config


def test_the_papers_defaults():
    config = RunConfig()
    assert (config.for_pool(1000).candidates, config.penalty, config.update_every) == (120, 0.1, 10)
    assert (config.lora_rank, config.lora_alpha, config.stop_ratio, config.budget) == (16, 32.0, None, "10%")


def test_the_scales_are_those_of_the_mathematics():
    assert typing.get_args(Scale) == ("auto", *typing.get_args(InformationScale))


@pytest.mark.parametrize(
    ("budget", "rows", "expected"),
    [("10%", 1000, 100), (0.1, 1000, 100), ("0.1", 995, 100), (500, 1000, 500), ("100%", 7, 7), ("1.0", 7, 7),
     ("30k", 300_000, 30_000), ("0.5k", 900, 500), ("5M", 10**7, 5 * 10**6)],
)  # fmt: skip
def test_budgets(budget, rows, expected):
    assert RunConfig(budget=budget).budget_rows(rows, 0) == expected


@pytest.mark.parametrize(
    "budget", ["0", "0%", "-5", "101%", "1.5", "ten", "", "10%%", True, "nan", "inf%", "k", "0.0005k", "1.5.k"]
)
def test_impossible_budgets(budget):
    with pytest.raises(ConfigError, match="budget"):
        resolve({}, {"budget": budget})


@pytest.mark.parametrize(("budget", "rows"), [("11", 10), ("1%", 10)])
def test_budgets_that_do_not_fit_the_pool(budget, rows):
    with pytest.raises(ConfigError, match="ask for"):
        RunConfig(budget=budget).budget_rows(rows, 0)


def test_a_budget_of_all_tokens_is_the_most_that_fits():
    assert RunConfig(budget="300tok", method="random").budget_rows(10, 300) >= 1
    with pytest.raises(ConfigError, match="ask for at most 299tok"):
        RunConfig(budget="300tok", method="random").budget_rows(10, 299)


@given(st.fractions(0, 1).filter(lambda f: f > 0), st.integers(1, 10**6))
def test_a_share_is_met_within_half_a_row(fraction, rows):
    config = RunConfig(budget=f"{float(fraction):.9f}") if float(f"{float(fraction):.9f}") > 0 else RunConfig()
    share = float(config.budget.rstrip("%")) / (100 if config.budget.endswith("%") else 1)
    try:
        assert abs(config.budget_rows(rows, 0) - share * rows) <= 0.5 + 1e-6
    except ConfigError:
        assert share * rows < 0.5 + 1e-6


NEAREST = [("penality", "penalty"), ("candidate", "candidates"), ("lora_r", "lora_rank")]


@pytest.mark.parametrize(("key", "near"), NEAREST)
def test_an_unknown_key_names_the_nearest(key, near):
    with pytest.raises(ConfigError, match=f"unknown key '{key}'; did you mean '{near}'"):
        resolve({key: 1}, {}, "run.yaml")


@pytest.mark.parametrize(
    ("key", "value"),
    [("penalty", -1), ("candidates", 0), ("fisher_alpha", 0), ("stop_ratio", 1.5), ("scale", "log"),
     ("update_every", 0), ("dtype", "float8"), ("seed", -1), ("method", "best"), ("penalty", "much"),
     ("preset", "papr"), ("preset", ["paper"]), ("fisher_alpha", float("inf")), ("update_every", True),
     ("directions", 0), ("directions", "some"), ("directions", True)],
)  # fmt: skip
def test_a_bad_value_names_its_key(key, value):
    with pytest.raises(ConfigError, match=rf"run\.yaml: {key}: "):
        resolve({key: value}, {}, "run.yaml")


def test_given_options_win_over_the_file_and_the_file_over_the_preset():
    config = resolve({"preset": "paper", "fisher_alpha": 3}, {"warmup_steps": 2})
    assert (config.scale, config.fisher_alpha, config.warmup_steps) == ("none", 3.0, 2)


def test_what_a_method_implies_counts_where_nothing_is_given():
    target = {"target": "task.jsonl"}
    less = resolve({"method": "less", **target}, {})
    assert (less.features, less.warmup_steps, less.candidates) == ("preconditioned", 30, "all")
    other = resolve({"method": "less", **target}, {"method": "spice"})
    assert (other.features, other.warmup_steps, other.candidates) == ("gradients", 4, "all")
    own = resolve({"features": "gradients", "warmup_steps": 100, **target}, {"method": "less"})
    assert (own.features, own.warmup_steps, own.candidates) == ("gradients", 100, "all")
    assert merged_config(less, {"method": "spice"}).features == "gradients"
    assert merged_config(less, {"budget": "5"}).features == "preconditioned"


def test_constants_are_those_of_the_method():
    """Given ones over the file's over the paper's, one by one; those of a file go with its method."""
    target = {"target": "task.jsonl"}
    assert resolve({}, {"method": "tsds", **target}).constants == {"alpha": 0.5, "C": 5.0, "sigma": 0.75}
    file = {"method": "tsds", "constants": {"C": 2, "sigma": 0}, **target}
    config = resolve(file, {"constants": {"sigma": "0.5"}})
    assert config.constants == {"alpha": 0.5, "C": 2.0, "sigma": 0.5}
    assert merged_config(config, {"budget": "5"}).constants == config.constants
    assert merged_config(config, {"constants": {"C": 5}}).constants == {"alpha": 0.5, "C": 5.0, "sigma": 0.5}
    assert resolve(file, {"method": "rds"}).constants == merged_config(config, {"method": "rds"}).constants == {}
    assert RunConfig().constants == {} and "constants" not in RunConfig(seed=1).model_fields_set


@pytest.mark.parametrize(
    ("method", "constants", "message"),
    [
        ("tsds", {"gamma": 1}, "tsds has no constant 'gamma'; its constants: alpha 0.5, C 5, sigma 0.75"),
        ("tsds", {"alpha": 2}, "constant alpha of tsds: .* less than or equal to 1 .got 2.; its constants: alpha 0.5,"),
        ("tsds", {"sigma": True}, ".*must be a number"),
        ("tsds", {"C": "much"}, ".*valid number"),
        ("tsds", {"C": float("nan")}, ".*finite number"),
        ("tsds", [1], "constants: "),
        ("random", {"sigma": 1}, "constants: random has none; leave them out"),
    ],
)
def test_an_impossible_constant_ends_in_a_line_that_lists_the_methods(method, constants, message):
    with pytest.raises(ConfigError, match=rf"run\.yaml: {message}") as error:
        resolve({"method": method, "constants": constants, "target": "t" if method == "tsds" else []}, {}, "run.yaml")
    assert "\n" not in str(error.value)


def test_every_constant_has_a_name_once_and_a_default_within_its_limits():
    for method, schema in CONSTANTS.items():
        assert method in typing.get_args(Method) and schema.model_validate(schema().model_dump()) == schema()
        assert f"{method}: {listed(method)}" in RunConfig.model_fields["constants"].description


@pytest.mark.parametrize(
    ("options", "small", "large"),
    [
        ({}, 120, "all"),
        ({"candidates": "auto"}, 120, "all"),
        ({"candidates": 50}, 50, 50),
        ({"preset": "paper"}, 120, 120),
        ({"method": "dpp"}, 120, 120),
        ({"update_every": 5}, 120, 120),
        ({"update_every": "never"}, 120, "all"),
        ({"target": ["t.jsonl"], "update_every": "5"}, 120, 120),
        ({"quota": {"a": "10%"}}, "all", "all"),
        ({"target": ["t.jsonl"]}, "all", "all"),
        ({"target": ["t.jsonl"], "candidates": 60}, 60, 60),
        ({"budget": "500tok"}, "all", "all"),
        ({"budget": "500tok", "method": "random"}, 120, 120),
        ({"method": "rds", "target": ["t.jsonl"], "candidates": "auto"}, "all", "all"),
    ],
)
def test_large_pools_and_what_needs_it_are_chosen_from_at_once(
    options: dict[str, object], small: object, large: object
):
    """Without a number of candidates: one choice above 2,000 rows, or where an option needs it."""
    config = resolve({}, options)
    assert (config.for_pool(2000).candidates, config.for_pool(2001).candidates) == (small, large)
    again = resolve(config.for_pool(2001).model_dump(), {})
    assert again.for_pool(5) == config.for_pool(2001), "a recorded choice is repeated whatever the pool"


def test_the_paper_preset_is_the_literal_formula():
    config = resolve({}, {"preset": "paper"})
    printed = (config.scale, config.directions, config.fisher_alpha_mode, config.warmup_steps)
    assert printed == ("none", "all", "absolute", 0)
    assert RunConfig(preset="paper").scale == "none"
    assert resolve({"scale": "unit"}, {"preset": "paper"}).scale == "none", "given on the command line, it wins"
    assert set(IMPLIED["preset"]["paper"]) <= set(RunConfig.model_fields)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "budget": st.sampled_from(["7", "20%", "0.5"]),
            "penalty": st.floats(0, 5),
            "stop_ratio": st.none() | st.floats(0.01, 1),
            "update_every": st.integers(1, 99) | st.just("never"),
            "columns": st.dictionaries(st.sampled_from(["prompt", "completion"]), st.text(min_size=1, max_size=4)),
            "preset": st.just("paper"),
        },
    )
)
@example({"columns": {"prompt": "\x85"}})  # Unicode's own line breaks
@example({"columns": {"prompt": "a\u2028b"}})
def test_the_printed_configuration_replays_the_run(tmp_path_factory, options):
    config = resolve({}, options)
    path = tmp_path_factory.mktemp("yaml") / "run.yaml"
    path.write_text(dump_yaml(config, ["a.jsonl", "b.csv"], "out"), encoding="utf-8")
    file = load_yaml(path)
    assert (file.pools, file.output) == (["a.jsonl", "b.csv"], "out")
    assert resolve(file.options, {}).model_dump(exclude={"preset"}) == config.model_dump(exclude={"preset"})


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n", "pools: 3\n", "output: [x]\n"])
def test_yaml_that_is_no_configuration(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        load_yaml(path)


def test_yaml_is_plain(tmp_path):
    values = yaml.safe_load(dump_yaml(RunConfig(), ["p"], None))
    assert values["pools"] == ["p"] and values["update_every"] == 10
