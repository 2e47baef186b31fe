"""Configurations: what is accepted, and that each bad value is one line naming field, value and what is allowed."""

import math

import pytest
from pydantic import ValidationError

from pkdlib import ROOT, ConfigError, DistillConfig, FineTuneConfig, method_config, validate
from pkdlib.analysis.settings import ComparisonConfig, ReproductionConfig, SimilarityConfig, SpeedConfig
from pkdlib.config import METHODS, method_name, roles_of_method
from pkdlib.engine.configs import Role, fields_with_role, role_of
from pkdlib.engine.files import locate

COMPARISON = {"student_layers": [6, 3], "methods": ["FT", "PKD-Last"], "seeds": [0, 1]}


def complaint(config_class: type, **values: object) -> str:
    with pytest.raises(ConfigError) as error:
        validate(config_class, **values)
    return str(error.value)


@pytest.mark.parametrize("config_class", [FineTuneConfig, DistillConfig])
def test_defaults_are_valid(config_class: type) -> None:
    defaults = config_class()
    assert validate(config_class, **defaults.model_dump()) == defaults


def test_the_defaults_are_these() -> None:
    """A result recorded without a field was made with its default: a change here changes what old records mean.

    But for last_layer: runs recorded without it are of "all", which no comparison tells apart.
    """
    tuning = {
        "backbone": "data/mini-bert-12", "num_hidden_layers": None, "num_train_epochs": 5, "train_batch_size": 32,
        "micro_batch_size": None, "eval_batch_size": 128, "learning_rate": 0.0005, "warmup_ratio": 0.1,
        "weight_decay": 0.01, "max_grad_norm": 1.0, "class_weights": [], "shuffle": True, "dropout_epochs": None,
        "mixed_precision": "no", "last_layer": "cls", "static_shapes": None, "seed": 0,
    }  # fmt: skip
    distilling = {
        "num_hidden_layers": 6, "num_train_epochs": 6, "learning_rate": 0.001, "init": "pretrained",
        "strategy": "skip", "temperature": 5.0, "alpha": 0.7, "beta": 0.3, "projection": False, "normalize": True,
        "distance": "squared", "form": "paper", "t_squared": True,
    }  # fmt: skip
    assert FineTuneConfig().model_dump() == tuning
    assert DistillConfig().model_dump() == tuning | distilling


@pytest.mark.parametrize(
    ("field", "last", "beyond"),
    [
        ("num_hidden_layers", 1, 0),
        ("num_train_epochs", 1, 0),
        ("train_batch_size", 1, 0),
        ("micro_batch_size", 1, 0),
        ("eval_batch_size", 1, 0),
        ("learning_rate", 1e-9, 0),
        ("learning_rate", 1, 1.01),
        ("warmup_ratio", 0, -0.01),
        ("warmup_ratio", 1, 1.01),
        ("weight_decay", 0, -0.01),
        ("max_grad_norm", 1e-9, 0),
        ("dropout_epochs", 0, -1),
        ("seed", 0, -1),
        ("seed", 4294967295, 4294967296),
    ],
)
@pytest.mark.parametrize("config_class", [FineTuneConfig, DistillConfig])
def test_a_range_ends_where_it_says(config_class: type, field: str, last: float, beyond: float) -> None:
    assert getattr(validate(config_class, **{field: last}), field) == last
    assert complaint(config_class, **{field: beyond}).startswith(f"{field} = {beyond}: must be ")


@pytest.mark.parametrize(
    ("field", "last", "beyond"),
    [("temperature", 1e-9, 0), ("alpha", 0, -0.01), ("alpha", 1, 1.01), ("beta", 0, -0.01)],
)
def test_a_range_of_a_distillation_ends_where_it_says(field: str, last: float, beyond: float) -> None:
    assert getattr(validate(DistillConfig, **{field: last}), field) == last
    assert complaint(DistillConfig, **{field: beyond}).startswith(f"{field} = {beyond}: must be ")


def test_static_shapes_do_not_go_with_fp16() -> None:
    line = "static_shapes = True: must not be True with fp16, whose loss scaling is decided anew at every step"
    assert complaint(FineTuneConfig, mixed_precision="fp16", static_shapes=True) == line
    for precision, static in (("fp16", False), ("fp16", None), ("bf16", True), ("no", True)):
        assert validate(FineTuneConfig, mixed_precision=precision, static_shapes=static).static_shapes is static


# ------------------------------------------------------------------------------------------- roles
def test_the_roles_of_a_distillation_s_fields() -> None:
    found = {
        role: {name for name in DistillConfig.model_fields if role_of(name, DistillConfig) is role} for role in Role
    }
    assert found[Role.SOFT] == {"temperature", "alpha", "form", "t_squared"}
    assert found[Role.PATIENCE] == {"beta", "projection", "normalize", "distance"}
    assert found[Role.NAMED] == {"num_hidden_layers", "seed", "strategy"}
    assert found[Role.SPEED] == {"last_layer"}
    assert role_of("no such field", DistillConfig) is Role.ALWAYS and role_of("beta", FineTuneConfig) is Role.ALWAYS


def test_a_method_s_roles_are_what_can_change_its_runs() -> None:
    assert roles_of_method("FT") == {Role.ALWAYS}
    assert roles_of_method("KD") == {Role.ALWAYS, Role.SOFT}
    assert roles_of_method("PKD-Skip") == roles_of_method("PKD-1,3") == {Role.ALWAYS, Role.SOFT, Role.PATIENCE}


def test_fields_are_found_by_their_roles() -> None:
    config = DistillConfig(seed=4, strategy=[1, 2, 3, 4, 5])
    assert fields_with_role(config, Role.NAMED) == {"num_hidden_layers": 6, "seed": 4, "strategy": [1, 2, 3, 4, 5]}
    assert fields_with_role(FineTuneConfig(seed=4), Role.NAMED) == {"num_hidden_layers": None, "seed": 4}
    assert fields_with_role(config) == {}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"alpha": 0, "beta": 0}, "FT"),
        ({"beta": 0}, "KD"),
        ({}, "PKD-Skip"),
        ({"alpha": 0}, "PKD-Skip"),
        ({"strategy": "last"}, "PKD-Last"),
        ({"strategy": [4, 8], "num_hidden_layers": 3}, "PKD-4,8"),
        ({"strategy": [4, 8], "num_hidden_layers": 3, "beta": 0}, "KD"),
    ],
)
def test_a_configuration_s_method(changes: dict, name: str) -> None:
    assert method_name(DistillConfig(**changes)) == name


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("learning_rate", "2e-5", 2e-5),
        ("num_train_epochs", "3", 3),
        ("num_hidden_layers", "4", 4),
        ("temperature", "10", 10.0),
        ("normalize", "false", False),
        ("strategy", ["4", "8"], [4, 8]),
        ("strategy", (4, 8), [4, 8]),
    ],
)
def test_values_given_as_text_are_coerced(field: str, text: object, value: object) -> None:
    assert getattr(validate(DistillConfig, **{field: text}), field) == value


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("learning_rate", "fast", "must be a valid number"),
        ("learning_rate", None, "must be a valid number"),
        ("learning_rate", [1e-3], "must be a valid number"),
        ("learning_rate", 0, "must be greater than 0"),
        ("learning_rate", 2.0, "must be less than or equal to 1"),
        ("learning_rate", math.nan, "must be a finite number"),
        ("learning_rate", "nan", "must be a finite number"),
        ("weight_decay", math.inf, "must be a finite number"),
        ("weight_decay", -0.1, "must be greater than or equal to 0"),
        ("temperature", math.inf, "must be a finite number"),
        ("temperature", 0, "must be greater than 0"),
        ("alpha", 1.5, "must be less than or equal to 1"),
        ("alpha", -0.1, "must be greater than or equal to 0"),
        ("beta", -1, "must be greater than or equal to 0"),
        ("warmup_ratio", 1.1, "must be less than or equal to 1"),
        ("max_grad_norm", 0, "must be greater than 0"),
        ("num_hidden_layers", 0, "must be greater than or equal to 1"),
        ("num_train_epochs", 0, "must be greater than or equal to 1"),
        ("num_train_epochs", 1.5, "must be a valid integer"),
        ("num_train_epochs", "many", "must be a valid integer"),
        ("train_batch_size", 0, "must be greater than or equal to 1"),
        ("micro_batch_size", 0, "must be greater than or equal to 1"),
        ("eval_batch_size", None, "must be a valid integer"),
        ("seed", -1, "must be greater than or equal to 0"),
        ("seed", 2**32, "must be less than 4294967296"),
        ("backbone", 12, "must be a valid string"),
        ("normalize", "maybe", "must be a valid boolean"),
        ("t_squared", None, "must be a valid boolean"),
        ("mixed_precision", "fp8", "must be 'no', 'bf16', 'fp16' or 'auto'"),
        ("init", "scratch", "must be 'pretrained', 'teacher' or 'random'"),
        ("form", "sum", "must be 'paper' or 'official'"),
        ("strategy", "skipp", "must be one of skip, last, reverse, one, random, rail, alp or a list of teacher layers"),
        ("distance", "manhattan", "must be one of squared"),
        ("strategy", 3, "must be one of skip, last, reverse, one, random, rail, alp or a list of teacher layers"),
        (
            "strategy",
            "[4, 8]",
            "must be one of skip, last, reverse, one, random, rail, alp or a list of teacher layers",
        ),
    ],
)
def test_a_bad_value_is_one_line_of_field_value_and_what_is_allowed(field: str, value: object, allowed: str) -> None:
    line = complaint(DistillConfig, **{field: value})
    assert line.startswith(f"{field} = {value!r}: {allowed}")
    assert "\n" not in line


def test_a_bad_element_of_own_layers_is_named() -> None:
    line = complaint(DistillConfig, strategy=[4, "eight"])
    allowed = "skip, last, reverse, one, random, rail, alp or a list of teacher layers"
    assert line == f"strategy = [4, 'eight']: must be one of {allowed}"


def test_an_unknown_name_is_answered_with_the_nearest_known_one() -> None:
    assert complaint(FineTuneConfig, learning_rat=1e-3) == (
        "learning_rat = 0.001: unknown name; did you mean learning_rate?"
    )


def test_an_unknown_name_like_no_other_is_answered_with_all_known_ones() -> None:
    line = complaint(FineTuneConfig, quux=1)
    assert line.startswith("quux = 1: unknown name; known names are ")
    assert all(name in line for name in FineTuneConfig.model_fields)


def test_fine_tuning_does_not_take_a_distillation_s_fields() -> None:
    assert complaint(FineTuneConfig, beta=0.3).startswith("beta = 0.3: unknown name")


def test_several_bad_fields_are_several_lines() -> None:
    assert complaint(DistillConfig, alpha=2, strategy="first", sed=1).splitlines() == [
        "strategy = 'first': must be one of skip, last, reverse, one, random, rail, alp or a list of teacher layers",
        "alpha = 2: must be less than or equal to 1",
        "sed = 1: unknown name; did you mean seed?",
    ]


@pytest.mark.parametrize(
    ("config", "field"),
    [(FineTuneConfig(), "seed"), (DistillConfig(), "beta"), (ComparisonConfig(**COMPARISON), "seeds")],
    ids=lambda value: type(value).__name__,
)
def test_configurations_are_frozen(config: FineTuneConfig | ComparisonConfig, field: str) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(config, field, getattr(config, field))


# ------------------------------------------------------------------------------------------- methods
def test_methods_set_what_the_paper_changes_between_them() -> None:
    config = DistillConfig(alpha=0.6, beta=0.2, strategy=[1, 2, 3, 4, 5])
    found = {method: method_config(method, config) for method in METHODS}
    assert {method: (found[method].alpha, found[method].beta) for method in METHODS} == {
        "FT": (0.0, 0.0),
        "KD": (0.6, 0.0),
        "PKD-Skip": (0.6, 0.2),
        "PKD-Last": (0.6, 0.2),
        "PKD-Reverse": (0.6, 0.2),
        "PKD-One": (0.6, 0.2),
        "PKD-Random": (0.6, 0.2),
        "PKD-Rail": (0.6, 0.2),
        "PKD-Alp": (0.6, 0.2),
    }
    strategies = ["skip", "last", "reverse", "one", "random", "rail", "alp"]
    assert [one.strategy for one in found.values()][2:] == strategies


@pytest.mark.parametrize("method", METHODS)
def test_a_method_leaves_every_other_field(method: str) -> None:
    config = DistillConfig(num_hidden_layers=3, learning_rate=1e-4, temperature=20, normalize=False, seed=7)
    found = method_config(method, config, seed=8)
    assert found == config.model_copy(update=METHODS[method] | {"seed": 8})


def test_changes_win_over_the_method_and_are_validated() -> None:
    assert method_config("FT", DistillConfig(), alpha=0.1).alpha == 0.1
    with pytest.raises(ConfigError, match="beta = -1: must be greater than or equal to 0"):
        method_config("KD", DistillConfig(), beta=-1)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ConfigError, match="method = 'PKD': must be one of FT, KD, PKD-Skip, PKD-Last"):
        method_config("PKD", DistillConfig())


def test_a_comparison_runs_every_method_for_every_size_and_seed_seeds_innermost() -> None:
    config = DistillConfig(learning_rate=1e-4, beta=0.2)
    runs = validate(ComparisonConfig, **COMPARISON).runs(config)
    assert [(method, run.num_hidden_layers, run.seed) for method, run in runs] == [
        ("FT", 6, 0), ("FT", 6, 1), ("PKD-Last", 6, 0), ("PKD-Last", 6, 1),
        ("FT", 3, 0), ("FT", 3, 1), ("PKD-Last", 3, 0), ("PKD-Last", 3, 1),
    ]  # fmt: skip
    assert all(
        run == method_config(method, config, num_hidden_layers=run.num_hidden_layers, seed=run.seed)
        for method, run in runs
    )


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"methods": ["FT", "PKD"]},
            f"methods = 'PKD': must be one of {', '.join(METHODS)}",
        ),
        ({"methods": "FT"}, "methods = 'FT': must be a valid list"),
        ({"student_layers": 6}, "student_layers = 6: must be a valid list"),
        ({"student_layers": []}, "student_layers = []: List should have at least 1 item after validation, not 0"),
        ({"seeds": [0, 0.5]}, "seeds = 0.5: must be a valid integer, got a number with a fractional part"),
        ({"seed": [0]}, "seed = [0]: unknown name; did you mean seeds?"),
    ],
)
def test_a_bad_comparison_is_one_line(changes: dict, line: str) -> None:
    assert complaint(ComparisonConfig, **{**COMPARISON, **changes}) == line


def test_a_missing_field_is_named_without_the_other_values() -> None:
    values = {name: value for name, value in COMPARISON.items() if name != "seeds"}
    assert complaint(ComparisonConfig, **values) == "seeds: missing, it has no default"


# ------------------------------------------------------------------------------------------- locate
def test_a_relative_folder_is_found_from_the_project_s_root(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate("data/mini-bert-12") == str(ROOT / "data/mini-bert-12")


def test_the_project_s_folder_wins_over_one_here_and_any_other_name_is_a_hub_id(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("data", "mine"):
        (tmp_path / name).mkdir()
    assert locate("data") == str(ROOT / "data")
    assert locate("mine") == "mine"
    assert locate(tmp_path) == str(tmp_path)
    assert locate("google-bert/bert-base-uncased") == "google-bert/bert-base-uncased"


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("seeds", [0, 1, 0], "seeds = [0, 1, 0]: must not repeat"),
        ("methods", ["FT", "FT"], "methods = ['FT', 'FT']: must not repeat"),
        ("student_layers", [0], "student_layers = 0: must be greater than or equal to 1"),
        ("seeds", [-1], "seeds = -1: must be greater than or equal to 0"),
    ],
)
def test_a_comparison_that_could_not_run_is_refused_at_once(name: str, value: list, line: str) -> None:
    assert complaint(ComparisonConfig, **COMPARISON | {name: value}) == line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "ckaa"}, "metric = 'ckaa': must be one of centered_cosine, cosine, cka, rsa"),
        ({"rows": 3}, "rows = 3: must be 0 for all rows or at least 4"),
        ({"model_b": ""}, "model_b = '': must name a folder or a model of the hub"),
        ({"split": "validation"}, "split = 'validation': must be 'train', 'dev' or 'test'"),
    ],
)
def test_a_comparison_of_layers_is_checked(changes: dict, message: str) -> None:
    fields = {"model_a": "a", "model_b": "b", "task": "rte"}
    assert validate(SimilarityConfig, **fields, rows="0").rows == 0
    assert complaint(SimilarityConfig, **fields | changes) == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": [12]}, "layers = [12]: List should have at least 2 items after validation, not 1"),
        ({"layers": [6, 3, 6]}, "layers = [6, 3, 6]: must not repeat"),
        ({"layers": [12, 0]}, "layers = 0: must be greater than or equal to 1"),
        ({"hidden_size": 100}, "hidden_size = 100: must be a multiple of 64"),
        ({"length": 513}, "length = 513: must be less than or equal to 512"),
        ({"repeats": 1}, "repeats = 1: must be greater than or equal to 2"),
        ({"warmup": -1}, "warmup = -1: must be greater than or equal to 0"),
        ({"precision": "half"}, "precision = 'half': must be 'auto', 'fp32', 'bf16' or 'fp16'"),
        ({"batchsize": 8}, "batchsize = 8: unknown name; did you mean batch_size?"),
    ],
)
def test_a_benchmark_is_checked(changes: dict, message: str) -> None:
    assert validate(SpeedConfig, batch_size="8").batch_size == 8
    assert complaint(SpeedConfig, **changes) == message


REPRODUCTION = {**COMPARISON, "task": "rte"}


def test_a_reproduction_takes_the_task_s_own_preset_unless_told() -> None:
    assert validate(ReproductionConfig, **REPRODUCTION).preset_of == "rte"
    mini = validate(ReproductionConfig, **REPRODUCTION | {"task": "mini-inference", "preset_of": "mnli"})
    assert (mini.task, mini.preset_of, mini.learning_rate_scale) == ("mini-inference", "mnli", 1.0)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("preset_of", "mini-sentiment", "must be one of sst2, mrpc, qqp, mnli, mnli-mm, qnli, rte, race, or empty"),
        ("task", "wnli", "must be one of sst2, mrpc"),
        ("methods", ["FT", "FT"], "must not repeat"),
        ("learning_rate_scale", 0, "must be greater than 0"),
        ("learning_rate_scale", "fast", "must be a valid number"),
        ("train_rows", -1, "must be greater than or equal to 0"),
        ("mixed_precision", "fp8", "must be 'no', 'bf16', 'fp16' or 'auto'"),
    ],
)
def test_a_bad_reproduction_is_one_clear_line(field: str, value: object, allowed: str) -> None:
    message = complaint(ReproductionConfig, **REPRODUCTION | {"preset_of": "rte", field: value})
    assert message.startswith(f"{field} = {value!r}: {allowed}") and "\n" not in message


def test_a_reproduction_of_a_miniature_task_needs_a_preset() -> None:
    message = complaint(ReproductionConfig, **REPRODUCTION | {"task": "mini-sentiment"})
    assert message.startswith("preset_of = '': must be one of sst2, ")
