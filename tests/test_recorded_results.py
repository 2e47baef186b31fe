"""What the README and the notebooks say of the recorded runs is what the committed files hold."""

import json
import sys

import pytest
import torch

from pkdlib import ROOT, layer_map, load_records
from pkdlib.analysis.similarity import map_agreement
from pkdlib.analysis.statistics import paired_difference
from pkdlib.analysis.tables import load_results

RESULTS = ROOT / "data" / "results"
sys.path.insert(0, str(ROOT / "data"))
import tables  # noqa: E402


def test_the_readmes_tables_are_those_of_the_files():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, table in tables.tables().items():
        assert f"<!-- {name} -->\n{table}\n<!-- /{name} -->" in text


@pytest.mark.parametrize("setting", ["tuned", "short"])
def test_ten_seeds_put_fine_tuning_below_distillation_and_the_teacher_above_all(setting):
    frame = load_results(RESULTS / f"mini-sentiment-3-{setting}.jsonl")
    students = frame[frame["method"] != "teacher"]
    for method in ("KD", "PKD-Skip"):
        found = paired_difference(students, "test_accuracy", method, "FT")
        assert found["pairs"] == 10 and found["low"] > 0
    assert students["test_accuracy"].max() < frame.loc[frame["method"] == "teacher", "test_accuracy"].item()


def test_patient_students_of_six_layers_stand_where_their_map_puts_them():
    entries = json.loads((RESULTS / "mini-sentiment-6-similarity.json").read_text())
    mean = {
        method: torch.tensor([entry["centered_cosine"] for entry in entries if entry["method"] == method]).mean(dim=0)
        for method in ("FT", "PKD-Skip", "PKD-Last")
    }
    for strategy in ("skip", "last"):
        layers = layer_map(12, 6, strategy)
        assert map_agreement(mean[f"PKD-{strategy.capitalize()}"], layers) >= 4
        assert map_agreement(mean["FT"], layers) < 4


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_recorded_runs_are_complete_and_their_seeds_paired(path):
    records = load_records(path)
    assert len({record.run_id for record in records}) == len(records)
    assert all(record.versions and record.fingerprints["weights"] and record.history for record in records)
    seeds = {}
    for record in records:
        if record.method != "teacher":
            key = (record.method, record.config["num_hidden_layers"], record.config["learning_rate"])
            seeds.setdefault(key, set()).add(record.seed)
    assert len({frozenset(found) for found in seeds.values()}) == 1 and len(next(iter(seeds.values()))) >= 3
