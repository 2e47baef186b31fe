"""Tiny tasks and tiny models, real ones, for tests that train and predict within seconds."""

import copy
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import torch

os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # equal bits are promised on one CPU, not on every GPU

os.environ["HF_HUB_OFFLINE"] = "1"  # no test waits for a network

from transformers import (
    AlbertConfig,
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    XLMRobertaConfig,
)
from transformers.utils import logging

from pkdlib.config import MINI_BERT, DistillConfig
from pkdlib.data import EncodedTask, Split, TaskData, encode_task
from pkdlib.engine.files import ROOT
from pkdlib.models import build_student, load_backbone, load_tokenizer
from pkdlib.readers.sources import load_task
from pkdlib.records import RunRecord

logging.set_verbosity_error()  # a headless checkpoint's report is not what a test prints

FEW_ROWS = {"train_rows": 96, "num_train_epochs": 1}

read_task = cache(load_task)
mini_tokenizer = cache(lambda: load_tokenizer(MINI_BERT))
mini_bert = cache(lambda: load_backbone(MINI_BERT))


def small_data(task: str = "mini-sentiment", train: int = 40, dev: int = 24, test: int = 8) -> TaskData:
    """The first rows of each split of an embedded task; the test split's labels are hidden."""
    full = read_task(task)
    splits = {name: full.splits[name].take(np.arange(rows)) for name, rows in (("train", train), ("dev", dev))}
    splits["test"] = Split("test", full.splits["test"].take(np.arange(test)).texts, None)
    return TaskData(full.task, splits, full.source)


def small_task(task: str = "mini-sentiment", train: int = 40, dev: int = 24, max_length: int = 64) -> EncodedTask:
    return encode_task(small_data(task, train, dev), mini_tokenizer(), max_length)


def save_race(folder: Path, train: int = 24, dev: int = 12, seed: int = 0) -> Path:
    """RACE's folder: articles of two events of the little language and two questions, of which one has a blank.

    The right option is who did it in the article; the others are places, which do nothing. So a tiny model learns it.
    """
    from grammar import PEOPLE, PLACES, THINGS, VERBS, split  # here, because conftest.py says where it is

    draw = Random(seed)
    for name, articles in (("train", train), ("dev", dev), ("test", dev)):
        for number in range(articles):
            people, verbs, things = (draw.sample(split((*of.values(),)), 2) for of in (PEOPLE, VERBS, THINGS))
            answers, places = draw.choices(range(4), k=2), draw.sample(split((*PLACES.values(),)), 6)
            questions = [f"the _ {verbs[0]} the {things[0]} .", f"the {things[1]} was {verbs[1]} by the"]
            options = [places[:3], places[3:]]
            for right, place, others in zip(people, answers, options, strict=True):
                others.insert(place, right)
            record = {
                "article": " ".join(f"the {people[n]} {verbs[n]} the {things[n]} ." for n in range(2)),
                "questions": questions, "options": options, "answers": ["ABCD"[place] for place in answers],
                "id": f"{number}.txt",
            }  # fmt: skip
            file = folder / "RACE" / name / ("middle", "high")[number % 2] / f"{number}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(record))
    return folder


def few_tickets(out: Path, rows: int = 120) -> Path:
    """The first labelled tickets, in a folder that has the first unlabelled ones too."""
    (out / "tickets").mkdir(parents=True, exist_ok=True)
    for name in ("labelled", "unlabelled"):
        frame = pd.read_csv(ROOT / "data" / "mini-tickets" / f"{name}.csv", nrows=rows)
        frame.to_csv(out / "tickets" / f"{name}.csv", index=False)
    return out / "tickets" / "labelled.csv"


def small_parameters(out: Path) -> dict[str, dict]:
    """Each notebook's parameters for a run on a few rows; they write into `out` and read there what went before."""
    teacher, students = str(out / "teacher"), str(out / "students")
    return {
        "00_start_here": {
            "train_rows": 96, "teacher_epochs": 1, "student_epochs": 1, "output_dir": str(out / "start"),
        },
        "01_finetune_teacher": FEW_ROWS | {"output_dir": teacher},
        "02_distill_last_vs_skip": {
            "teacher_dir": teacher, "output_dir": students, "student_layers": [3], "num_train_epochs": "1",
            "learning_rate": "2e-5", "seeds": [0, 1],
        },
        "03_inside_the_loss": {
            "teacher_dir": teacher, "num_train_epochs": 1, "batch_rows": 8, "output_dir": str(out / "quirks"),
        },
        "04_better_teacher": {
            "teacher_dir": teacher, "student_layers": 3, "teacher_epochs": 1, "num_train_epochs": 1,
            "output_dir": str(out / "better-teacher"),
        },
        "05_speed_benchmark": {
            "layers": [4, 2], "hidden_size": 64, "batch_size": "2", "length": 16, "repeats": 2,
            "output_dir": str(out / "speed"),
        },
        "06_cls_similarity": {
            "model_a": teacher, "model_b": str(out / "students" / "PKD-Skip-3-layers-seed-0"),
            "students_dir": students, "rows": "60", "output_dir": str(out / "similarity"),
        },
        "07_when_patience_pays": {"output_dir": str(out / "ablations")},
        "08_reproduce_the_paper": {
            "train_rows": 64, "methods": ["FT", "PKD-Skip"], "output_dir": str(out / "paper"),
        },
        "09_your_own_classifier": {
            "source": str(few_tickets(out)), "unlabelled": str(out / "tickets" / "unlabelled.csv"), "student_layers": 2,
            "num_train_epochs": 1, "output_dir": str(out / "classifier"),
        },
        "10_beyond_the_paper": {"train_rows": [48, 64], "num_train_epochs": 1, "output_dir": str(out / "beyond")},
    }  # fmt: skip


def bert_config(layers: int = 4, hidden: int = 32, **changes) -> BertConfig:
    values = {
        "vocab_size": 319, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": 2,
        "intermediate_size": 2 * hidden, "max_position_embeddings": 64, "initializer_range": 0.1,
    }  # fmt: skip
    return BertConfig(**values | changes)


def save_hub_dataset(folder: Path, config: str, splits: Mapping[str, pd.DataFrame]) -> Path:
    """A dataset as the hub keeps GLUE: parquet files and a card that names each configuration's."""
    (folder / config).mkdir(parents=True)
    for split, frame in splits.items():
        frame.to_parquet(folder / config / f"{split}-00000-of-00001.parquet")
    files = [{"split": split, "path": f"{config}/{split}-*"} for split in splits]
    card = json.dumps({"configs": [{"config_name": config, "data_files": files}]})  # JSON is YAML too
    (folder / "README.md").write_text(f"---\n{card}\n---\n")
    return folder


SIZES = {
    "vocab_size": 319, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": 66, "pad_token_id": 0,
}  # fmt: skip
ENCODERS = {  # each with what sets it apart; test_encoders.py proves them, and the reference names them
    "bert": bert_config(),
    "distilbert": DistilBertConfig(vocab_size=319, dim=32, n_layers=4, n_heads=2, hidden_dim=64),
    "roberta": RobertaConfig(**SIZES, type_vocab_size=1),
    "xlm-roberta": XLMRobertaConfig(**SIZES, type_vocab_size=1),
    "electra": ElectraConfig(**SIZES, embedding_size=16),
    "albert": AlbertConfig(**SIZES, embedding_size=16),
    "deberta-v2": DebertaV2Config(
        **SIZES, relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"], share_att_key=True,
        norm_rel_ebd="layer_norm", position_biased_input=False,
    ),
    "mpnet": MPNetConfig(**SIZES),
    "modernbert": ModernBertConfig(
        **SIZES, local_attention=8, bos_token_id=0, eos_token_id=0, cls_token_id=0, sep_token_id=0
    ),
}  # fmt: skip


def save_backbone(folder: Path, config: PreTrainedConfig | None = None) -> Path:
    """A pre-trained backbone's folder: random weights of the configuration and the embedded tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        AutoModel.from_config(config or bert_config()).save_pretrained(folder)
    tokenizer = load_tokenizer(MINI_BERT)
    if config is not None and config.model_type != "bert":
        tokenizer.model_input_names = ["input_ids", "attention_mask"]  # most others have no token types
    tokenizer.save_pretrained(folder)
    return folder


def shift_words(folder: Path) -> None:
    """Give the words of a saved tokenizer other numbers."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    words = sorted(content["model"]["vocab"], key=content["model"]["vocab"].get)
    content["model"]["vocab"] = {word: place for place, word in enumerate([*words[:5], *words[12:], *words[5:12]])}
    file.write_text(json.dumps(content))


def noisy_copy(model: PreTrainedModel, label_names: Sequence[str], seed: int = 3) -> PreTrainedModel:
    """A classifier of the same body with every weight moved, as fine-tuning moves them; in evaluation mode."""
    teacher = build_student(model, None, label_names, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return teacher.eval()


def save_model(model: PreTrainedModel, folder: Path) -> Path:
    """The model's folder, with the embedded tokenizer beside the weights."""
    model.save_pretrained(folder)
    mini_tokenizer().save_pretrained(folder)
    return folder


def permuted(model: PreTrainedModel, order: list[int], names: list[str] | None = None) -> PreTrainedModel:
    """A copy whose classes stand in another order, head and names together, as another project may have saved it."""
    other, names = copy.deepcopy(model), names or [model.config.id2label[index] for index in range(len(order))]
    head = [one for one in other.modules() if getattr(one, "out_features", 0) == len(order)][-1]
    for parameter in head.parameters():
        parameter.data = parameter.data[order].clone()
    other.config.id2label = {place: names[index] for place, index in enumerate(order)}
    other.config.label2id = {names[index]: place for place, index in enumerate(order)}
    return other


def same_weights(first: PreTrainedModel, second: PreTrainedModel) -> bool:
    """Whether two models have the same weights and buffers, bit for bit."""
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def make_record(run_id: str = "run", **changes: object) -> RunRecord:
    fields = {
        "run_id": run_id,
        "method": "PKD-Skip",
        "task": "mini-sentiment",
        "source": "data",
        "max_length": 64,
        "train_rows": 2000,
        "seed": 1,
        "config": DistillConfig(num_hidden_layers=3, seed=1).model_dump(),
        "layer_map": [4, 8],
        "num_parameters": 1234,
        "metrics": {"dev": {"accuracy": 0.75, "loss": 0.5}, "test": {"accuracy": 0.7}},
        "best_epoch": 2,
        "history": [{"epoch": 1, "dev_accuracy": 0.6}, {"epoch": 2, "dev_accuracy": 0.75}],
        "fingerprints": {"train": "abc"},
        "durations_s": {"training": 1.5, "teacher_outputs": 0.25},
        "device": "cpu (x86_64)",
        "threads": 1,
    }
    return RunRecord(**{**fields, **changes})


def figures(record: RunRecord) -> tuple:
    """All that a run found, without its clock."""
    history = [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in record.history]
    return history, record.best_epoch, record.metrics, record.fingerprints, record.run_id


def two_ranks() -> list[dict[str, str]]:
    """The environments of two processes that train together on this machine's CPU, as torchrun sets them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    return [{**common, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]


def run_together(script: str, arguments: Sequence[str], environments: Sequence[dict[str, str]]) -> list[str]:
    """Run the script in a process per environment, all at once; what each printed, or AssertionError with its error."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", script, *arguments],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "engine"))),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in environments
    ]
    try:
        ends = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, error) in zip(processes, ends, strict=True):
        assert process.returncode == 0, error
    return [printed for printed, _ in ends]
