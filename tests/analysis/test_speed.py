"""Parameters by part against the paper and by hand, the order of timings, and speed-ups of given times."""

import json
from math import exp, log, sqrt

import pandas as pd
import pytest
import torch
from helpers import ENCODERS, bert_config
from scipy.stats import t
from transformers import AutoModelForSequenceClassification

from pkdlib import ROOT, ConfigError
from pkdlib.analysis.speed import (
    amdahl_speedup,
    benchmark_figures,
    measure_latency,
    parameters_by_part,
    random_classifier,
    speedups,
    time_call,
    timing_setup,
)

RECORDED = sorted((ROOT / "data" / "results").glob("speed-*.json"))


def small_models(layers=(4, 2, 1)):
    return {f"{k} layers": random_classifier(k, hidden_size=64) for k in layers}


def timings(rows):
    """A frame of (model, layers, repeat, latency in ms), one example a batch."""
    frame = pd.DataFrame(rows, columns=["model", "num_hidden_layers", "repeat", "latency_ms"])
    return frame.assign(processor_ms=frame["latency_ms"] / 2, throughput_eps=1000 / frame["latency_ms"])


# ------------------------------------------------------------------------------------------- size
@pytest.mark.parametrize(
    ("layers", "transformer", "total"), [(3, "21.3", "45.7"), (6, "42.5", "67.0"), (12, "85.1", "109.5")]
)
def test_parts_of_bert_base_are_those_of_table_4(layers, transformer, total):
    with torch.device("meta"):  # shapes are enough
        found = parameters_by_part(random_classifier(layers))
    millions = {part: f"{count / 1e6:.1f}" for part, count in found.items()}
    assert millions == {
        "embedding": "23.8", "transformer": transformer, "pooler": "0.6", "classifier": "0.0", "total": total,
    }  # fmt: skip


def test_parts_are_counted_exactly():
    found = parameters_by_part(random_classifier(2, hidden_size=64))
    layer = 4 * (64 * 64 + 64) + (64 * 256 + 256) + (256 * 64 + 64) + 2 * (64 + 64)
    assert found == {
        "embedding": (30522 + 512 + 2) * 64 + 64 + 64,
        "transformer": 2 * layer,
        "pooler": 64 * 64 + 64,
        "classifier": 2 * 64 + 2,
        "total": 31036 * 64 + 128 + 2 * layer + 4160 + 130,
    }


@pytest.mark.parametrize("name", ["distilbert", "roberta"])
def test_other_architectures_have_no_pooler_and_a_larger_head(name):
    model = AutoModelForSequenceClassification.from_config(ENCODERS[name])
    found = parameters_by_part(model)
    layer = 4 * (32 * 32 + 32) + (32 * 64 + 64) + (64 * 32 + 32) + 4 * 32
    assert (found["transformer"], found["pooler"], found["classifier"]) == (4 * layer, 0, 32 * 32 + 32 + 2 * 32 + 2)
    assert found["total"] == model.num_parameters()


def test_random_classifiers_follow_their_seed_and_leave_torch_s():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, same, other = (random_classifier(1, 64, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert torch.equal(one[name], same[name]) and not torch.equal(one[name], other[name])
    assert random_classifier(1, 128).config.num_attention_heads == 2


# ------------------------------------------------------------------------------------------- timing
def test_models_take_turns_and_each_repeat_starts_with_another():
    frame = measure_latency(small_models(), batch_size=2, length=8, repeats=4, warmup=0)
    assert list(frame.columns) == [
        "model", "num_hidden_layers", "repeat", "latency_ms", "processor_ms", "throughput_eps",
    ]  # fmt: skip
    assert frame["num_hidden_layers"].tolist() == [4, 2, 1, 2, 1, 4, 1, 4, 2, 4, 2, 1]
    assert frame["repeat"].tolist() == [repeat for repeat in (1, 2, 3, 4) for _ in range(3)]
    assert frame["model"].tolist() == [f"{k} layers" for k in frame["num_hidden_layers"]]
    assert (frame["latency_ms"] > 0).all() and (frame["processor_ms"] >= 0).all()
    pd.testing.assert_series_equal(
        frame["throughput_eps"] * frame["latency_ms"], pd.Series([2000.0] * 12), check_names=False
    )


def test_every_model_reads_the_same_rows_after_its_warm_up_and_stays_as_it_was():
    seen = []

    def watch(model, _, inputs):  # hooks go with a model's copies
        weight = next(model.parameters())
        state = (model.training, torch.is_inference_mode_enabled(), weight.dtype)
        seen.append((model.config.num_hidden_layers, state, inputs["input_ids"]))

    models = small_models((2, 1))
    for model in models.values():
        model.register_forward_pre_hook(watch, with_kwargs=True)
    models["2 layers"].train()
    weights = {name: tensor.clone() for name, tensor in models["2 layers"].state_dict().items()}
    measure_latency(models, batch_size=2, length=8, repeats=2, warmup=3, precision="bf16", seed=5)
    assert [layers for layers, *_ in seen] == [2, 2, 2, 1, 1, 1, 2, 1, 1, 2]
    assert {state for _, state, _ in seen} == {(False, True, torch.bfloat16)}
    assert seen[0][2].shape == (2, 8) and all(torch.equal(ids, seen[0][2]) for *_, ids in seen)
    assert models["2 layers"].training and models["2 layers"].dtype == torch.float32
    assert all(torch.equal(weights[name], tensor) for name, tensor in models["2 layers"].state_dict().items())


def test_token_ids_are_in_every_model_s_vocabulary():
    narrow = AutoModelForSequenceClassification.from_config(bert_config(1, vocab_size=5))
    models = {"wide": random_classifier(1, 64), "narrow": narrow}
    assert len(measure_latency(models, batch_size=4, length=64, repeats=2)) == 4


def test_named_models_compute_their_last_layer_for_cls_alone():
    models, positions = {name: random_classifier(2, hidden_size=64) for name in ("whole", "short")}, []
    for model in models.values():  # hooks go with a model's copies
        last = model.base_model.encoder.layer[-1]
        last.register_forward_hook(lambda layer, inputs, output: positions.append(output.shape[1]))
    measure_latency(models, batch_size=2, length=8, repeats=2, warmup=0, cls_alone=["short"])
    assert positions == [8, 1, 1, 8]  # by turns


def test_a_call_is_timed_without_gradients():
    found = []
    assert time_call(lambda: found.append(torch.is_inference_mode_enabled()), torch.device("cpu")) > 0
    assert found == [True] and not torch.is_inference_mode_enabled()


def test_the_precision_is_half_on_cuda_and_full_elsewhere():
    device, dtype = timing_setup()
    assert dtype == (torch.float16 if device.type == "cuda" else torch.float32)
    assert timing_setup("bf16")[1] == torch.bfloat16


def test_half_precision_is_not_done_on_a_cpu():  # helpers keep Accelerate on the CPU
    with pytest.raises(ConfigError, match=r"precision = 'fp16': needs a CUDA device; allowed here: auto, fp32, bf16"):
        timing_setup("fp16")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_timing_waits_for_the_work():
    matrix = torch.randn(8192, 8192, device="cuda")
    time_call(lambda: [matrix @ matrix for _ in range(50)], torch.device("cuda"))
    assert torch.cuda.current_stream().query()  # nothing is queued any more


# ------------------------------------------------------------------------------------------- speed-ups
def test_speedups_are_paired_by_repeat():
    # The machine is half as fast in the second repeat: by hand, ratios 4 and 4, and no spread.
    frame = timings([("big", 12, 1, 40.0), ("small", 3, 1, 10.0), ("small", 3, 2, 20.0), ("big", 12, 2, 80.0)])
    found = speedups(frame, "big").set_index("model")
    assert found.loc["small", ["speedup", "low", "high", "median", "limit"]].tolist() == pytest.approx([4.0] * 5)
    assert found.loc["small", ["latency_ms", "throughput_eps"]].tolist() == [15.0, (100 + 50) / 2]
    assert found.loc["big", ["speedup", "low", "high", "limit"]].tolist() == [1.0] * 4
    assert found["repeats"].tolist() == [2, 2] and found["num_hidden_layers"].tolist() == [12, 3]


def test_the_interval_is_student_s_on_logarithms():
    ratios = [2.0, 3.0, 4.5]
    frame = timings([row for i, r in enumerate(ratios) for row in (("big", 8, i, 9.0 * r), ("small", 2, i, 9.0))])
    found = speedups(frame, "big").iloc[1]
    center, step = log(3), log(1.5)  # the logarithms are center - step, center, center + step
    half = t.ppf(0.975, 2) * step / sqrt(3)
    assert found[["speedup", "median"]].tolist() == pytest.approx([3.0, 3.0])
    assert found[["low", "high"]].tolist() == pytest.approx([exp(center - half), exp(center + half)])


def test_twice_and_half_as_fast_are_equal_together():
    frame = timings([("a", 2, 1, 2.0), ("b", 2, 1, 1.0), ("a", 2, 2, 1.0), ("b", 2, 2, 2.0)])
    assert speedups(frame, "a")["speedup"].tolist() == pytest.approx([1.0, 1.0])


def test_speedups_of_the_processor_s_time():
    frame = timings([("big", 12, 1, 40.0), ("small", 3, 1, 10.0), ("big", 12, 2, 40.0), ("small", 3, 2, 10.0)])
    frame.loc[frame["model"] == "small", "processor_ms"] = 8.0
    found = speedups(frame, "big", "processor_ms").set_index("model")
    assert found.loc["small", ["processor_ms", "speedup"]].tolist() == pytest.approx([8.0, 20 / 8])
    assert "latency_ms" not in found and "throughput_eps" not in found


def test_speedups_need_every_model_in_every_repeat():
    frame = timings([("big", 12, 1, 40.0), ("small", 3, 1, 10.0), ("small", 3, 2, 20.0)])
    with pytest.raises(ValueError, match=r"latencies: big was not timed in every repeat"):
        speedups(frame, "big")


def test_amdahl_s_law_by_hand():
    assert amdahl_speedup(4, 0) == 4
    assert amdahl_speedup(4, 1) == 1
    assert amdahl_speedup(4, 0.2) == pytest.approx(1 / (0.2 + 0.8 / 4))
    assert amdahl_speedup(float("inf"), 0.1) == pytest.approx(10)


# ------------------------------------------------------------------------------------------- recorded runs
def write_benchmark(path, names, device="cpu"):
    figures = [{"name": name, "median": 2.0, "low": 1.5, "high": 2.5, "unit": "x"} for name in names]
    provenance = {
        "machine": {"cpu": "a processor", "device": device},
        "threads": 1,
        "date": "2026-01-01T00:00:00+00:00",
    }
    path.write_text(json.dumps({"figures": figures, "provenance": provenance}))


def test_figures_of_both_devices_stand_in_one_table(tmp_path):
    write_benchmark(tmp_path / "peers.json", ["one_vs_two", "one_vs_two_limit", "three"])
    write_benchmark(tmp_path / "peers_cuda.json", ["one_vs_two_cuda", "three_cuda"], device="a GPU")
    labels = {"ratios": {"one_vs_two": "one"}, "others": {"three": "three"}}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    found = benchmark_figures(tmp_path).set_index(["device", "name"])
    assert found.index.tolist() == [("cpu", "one_vs_two"), ("cuda", "one_vs_two"), ("cpu", "three"), ("cuda", "three")]
    assert found["machine"].unique().tolist() == ["a processor", "a GPU"]
    assert found["limit"].dropna().to_dict() == {("cpu", "one_vs_two"): 2.0}
    assert found.loc[("cuda", "three"), ["median", "low", "high", "unit"]].tolist() == [2.0, 1.5, 2.5, "x"]


def test_labelled_figures_alone_stand_in_the_order_of_their_labels(tmp_path):
    write_benchmark(tmp_path / "peers.json", ["unnamed", "two", "one"])
    write_benchmark(tmp_path / "step.json", ["three"])
    labels = {"ratios": {"three": "a third", "one": "a first"}, "others": {"two": "a second", "absent": "none"}}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    found = benchmark_figures(tmp_path)
    assert found["name"].tolist() == ["three", "one", "two"]
    assert found["label"].tolist() == ["a third", "a first", "a second"]
    assert found["group"].tolist() == ["ratio", "ratio", "other"]


def test_every_label_is_of_a_recorded_figure():
    labels = json.loads((ROOT / "data" / "results" / "benchmarks" / "labels.json").read_text(encoding="utf-8"))
    known = benchmark_figures()
    for group, texts in (("ratio", labels["ratios"]), ("other", labels["others"])):
        rows = known[known["group"] == group]
        assert dict(zip(rows["name"], rows["label"], strict=True)) == texts
        assert list(rows["name"].unique()) == list(texts)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_speedups_are_those_of_the_recorded_timings(path):
    recorded = json.loads(path.read_text(encoding="utf-8"))
    settings, latencies = recorded["settings"], pd.DataFrame(recorded["latencies"])
    assert (settings["batch_size"], settings["length"], settings["hidden_size"]) == (128, 128, 768)
    assert len(latencies) == len(settings["layers"]) * settings["repeats"]
    assert {"machine", "versions", "created_at", "precision"} <= set(recorded)
    for (_, rows), column in zip(recorded["speedups"].items(), ("latency_ms", "processor_ms"), strict=False):
        pd.testing.assert_frame_equal(pd.DataFrame(rows), speedups(latencies, "12 layers", column))


def test_a_run_on_a_cpu_is_recorded():
    assert "speed-cpu" in [path.stem for path in RECORDED]
