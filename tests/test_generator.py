"""The miniature language: files remade byte for byte, labels against an independent reading, a closed vocabulary."""

import csv
from itertools import product
from pathlib import Path
from random import Random

import grammar
import pretrain
import pytest
import remake
from hypothesis import given
from hypothesis import strategies as st

from pkdlib import ROOT, load_tokenizer
from pkdlib.config import MINI_BERT

DATA = ROOT / "data"
SPLITS = ("train", "dev", "test")
seeds = st.integers(0, 2**32 - 1)


def table(path: Path) -> list[dict[str, str]]:
    header, *lines = [line.split("\t") for line in path.read_text().splitlines()]
    return [dict(zip(header, line, strict=True)) for line in lines]


def texts(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(value for name, value in row.items() if name.startswith("sentence"))


# --------------------------------------------------------------------------------------------- task files
@pytest.mark.parametrize("name", remake.TASKS)
def test_remade_files_are_the_committed_ones_byte_for_byte(tmp_path: Path, name: str) -> None:
    remake.write_task(name, tmp_path)
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(SPLITS)
    for split in SPLITS:
        assert (tmp_path / f"{split}.tsv").read_bytes() == (DATA / name / f"{split}.tsv").read_bytes()


@pytest.mark.parametrize("name", remake.TASKS)
def test_a_larger_training_split_begins_with_the_smaller_one(tmp_path: Path, name: str) -> None:
    remake.write_task(name, tmp_path, train_rows=3000)
    larger, smaller = (folder / "train.tsv" for folder in (tmp_path, DATA / name))
    assert larger.read_bytes().startswith(smaller.read_bytes())
    assert len(table(larger)) == 3000
    for split in ("dev", "test"):
        assert (tmp_path / f"{split}.tsv").read_bytes() == (DATA / name / f"{split}.tsv").read_bytes()


@pytest.mark.parametrize("name", remake.TASKS)
def test_another_seed_is_another_task(tmp_path: Path, name: str) -> None:
    remake.write_task(name, tmp_path, train_rows=1, seed=1)
    assert texts(table(tmp_path / "dev.tsv")[0]) != texts(table(DATA / name / "dev.tsv")[0])


@pytest.mark.parametrize("name", remake.TASKS)
def test_no_text_stands_in_two_splits_nor_twice_in_one(name: str) -> None:
    every = [texts(row) for split in SPLITS for row in table(DATA / name / f"{split}.tsv")]
    assert len(every) == len(set(every)) == 6000


@pytest.mark.parametrize("name", remake.TASKS)
def test_about_a_tenth_of_the_training_labels_is_noise_and_each_is_recorded(name: str) -> None:
    rows = table(DATA / name / "train.tsv")
    noisy = sum(row["label"] != row["clean_label"] for row in rows)
    assert 0.08 <= noisy / len(rows) <= 0.12
    assert not any("clean_label" in row for split in ("dev", "test") for row in table(DATA / name / f"{split}.tsv"))


@pytest.mark.parametrize("name", remake.TASKS)
@pytest.mark.parametrize("split", SPLITS)
def test_classes_are_about_equally_frequent(name: str, split: str) -> None:
    labels = [row["label"] for row in table(DATA / name / f"{split}.tsv")]
    allowed = remake.LAYOUT[name][1]
    assert set(labels) == set(allowed)
    for label in allowed:
        assert labels.count(label) / len(labels) == pytest.approx(1 / len(allowed), abs=0.05)


# ------------------------------------------------------------------------------------------------ own rows
def own_table(name: str) -> list[dict[str, str]]:
    with open(DATA / remake.OWN / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_remade_rows_of_one_s_own_are_the_committed_ones_byte_for_byte(tmp_path: Path) -> None:
    remake.write_own(tmp_path)
    committed = {path.name: path.read_bytes() for path in (DATA / remake.OWN).iterdir()}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == committed
    assert sum(map(len, committed.values())) < 400_000


def test_no_text_stands_in_two_files_of_one_s_own_rows_nor_twice_in_one() -> None:
    tables = {name: own_table(name) for name in remake.OWN_ROWS}
    assert {name: len(rows) for name, rows in tables.items()} == remake.OWN_ROWS
    found = [row["text"] for rows in tables.values() for row in rows]
    assert len(set(found)) == len(found) == 4700
    numbers = [row["id"] for rows in tables.values() for row in rows if "id" in row]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("name", ["labelled", "held_out"])
def test_kinds_of_tickets_are_as_rare_as_they_should_be(name: str) -> None:
    kinds = [row["kind"] for row in own_table(name)]
    for kind, (_, weight) in grammar.TICKETS.items():
        assert kinds.count(kind) / len(kinds) == pytest.approx(weight / 20, abs=0.02)


@given(seeds)
def test_a_ticket_is_an_opinion_or_two_statements(seed: int) -> None:
    text, kind = grammar.ticket(Random(seed))
    assert text.count(" .") == (1 if kind in ("praise", "complaint") else 2)
    assert set(text.split()) <= set(grammar.vocabulary())


def test_the_tokenizer_knows_every_word_of_the_tickets_and_no_row_is_too_long() -> None:
    tokenizer = load_tokenizer(MINI_BERT)
    found = [row["text"] for name in remake.OWN_ROWS for row in own_table(name)]
    rows = tokenizer(found)["input_ids"]
    assert not any(tokenizer.unk_token_id in ids for ids in rows)
    assert max(map(len, rows)) <= tokenizer.model_max_length


# ------------------------------------------------------------------------------------------------ reviews
POLARITY = {
    word: positive
    for pair in (grammar.ADJECTIVES, grammar.EFFECT_VERBS, grammar.TASTE_VERBS, grammar.NOUNS,
                 *grammar.DOMAIN_ADJECTIVES.values())
    for positive, words in zip((True, False), pair, strict=True)
    for word in words.split()
}  # fmt: skip
NEGATORS = {"not", "never", "hardly", "far", "no", "nobody"}


@given(seeds, st.booleans())
def test_one_clause_holds_one_opinion_whose_negation_turns_it(seed: int, positive: bool) -> None:
    words = grammar.review(Random(seed), positive, easy=True)[0].split()
    (polarity,) = [POLARITY[word] for word in words if word in POLARITY]
    negators = [word for word in words if word in NEGATORS]
    assert len(negators) <= 1
    assert (polarity != bool(negators)) == positive


def test_no_word_is_both_praise_and_blame() -> None:
    pairs = (grammar.ADJECTIVES, grammar.EFFECT_VERBS, grammar.TASTE_VERBS, grammar.NOUNS)
    sides = zip(*pairs, *grammar.DOMAIN_ADJECTIVES.values(), strict=True)
    praise, blame = ({word for words in side for word in words.split()} for side in sides)
    assert not praise & blame


@given(seeds, st.booleans())
def test_reviews_are_of_bounded_length(seed: int, positive: bool) -> None:
    sentence, domain = grammar.review(Random(seed), positive)
    assert len(sentence.split()) <= grammar.MAX_REVIEW_WORDS
    assert domain in grammar.ASPECTS


# ------------------------------------------------------------------------------------------------- events
@pytest.mark.parametrize(
    ("premise", "hypothesis", "relations", "label"),
    [
        ("the nurse watched the saw", "the nurse watched the saw", [], "entailment"),
        ("the nurse watched the saw", "the medic watched the saw", ["<"], "entailment"),
        ("the nurse watched the saw", "the medic noticed the saw", ["<", "<"], "entailment"),
        ("the nurse bought the saw", "the nurse purchased the saw", ["="], "entailment"),
        ("the nurse watched the saw", "the nurse watched the red saw", [">"], "neutral"),
        ("the nurse watched the saw", "the medic watched the red saw", ["<", ">"], "neutral"),
        ("the nurse watched the saw", "the nurse watched the drill", ["|"], "contradiction"),
        ("the nurse watched the saw", "the medic watched the drill", ["<", "|"], "contradiction"),
        ("the nurse watched the saw", "the nurse watched the drill in the park", ["|", ">"], "contradiction"),
        ("the nurse watched the saw", "the nurse never watched the saw", ["="], "contradiction"),
        ("the nurse watched the saw", "the medic never watched the saw", ["<"], "contradiction"),
        ("the nurse watched the saw", "the nurse never watched the red saw", [">"], "neutral"),
        ("the nurse watched the saw", "the nurse never watched the drill", ["|"], "entailment"),
        ("the nurse never watched the saw", "the nurse never watched the saw", ["="], "entailment"),
        ("the nurse never watched the saw", "the nurse watched the saw", ["="], "contradiction"),
        ("the nurse never watched the saw", "the nurse never watched the red saw", [">"], "entailment"),
        ("the nurse never watched the saw", "the nurse watched the red saw", [">"], "contradiction"),
        ("the nurse never watched the saw", "the medic never watched the saw", ["<"], "neutral"),
        ("the nurse never watched the saw", "the medic watched the saw", ["<"], "neutral"),
        ("the nurse never watched the saw", "the nurse never watched the drill", ["|"], "neutral"),
        ("the nurse never watched the saw", "the nurse watched the drill", ["|"], "neutral"),
    ],
)
def test_inference_labels_of_cases_by_hand(premise: str, hypothesis: str, relations: list[str], label: str) -> None:
    assert grammar.inference_label(relations, "never" in premise, "never" in hypothesis) == label


# What each relation says of one slot: the values that the premise, and the hypothesis, allow out of three.
ALLOWED = {"=": ({1}, {1}), "<": ({1}, {1, 2}), ">": ({1, 2}, {1}), "|": ({1}, {2})}


@pytest.mark.parametrize("relations", [list(pair) for n in (1, 2) for pair in product(ALLOWED, repeat=n)])
@pytest.mark.parametrize("negated", list(product((False, True), repeat=2)))
def test_inference_labels_agree_with_sets_of_possible_events(relations: list[str], negated: tuple[bool, bool]) -> None:
    worlds = set(product({1, 2, 3}, repeat=len(relations)))  # what the one event may have been

    def compatible(side: int) -> set[tuple[int, ...]]:
        events = set(product(*(ALLOWED[relation][side] for relation in relations)))
        return worlds - events if negated[side] else events

    premise, hypothesis = compatible(0), compatible(1)
    label = "entailment" if premise <= hypothesis else "neutral" if premise & hypothesis else "contradiction"
    assert grammar.inference_label(relations, *negated) == label


@given(seeds)
def test_an_edit_s_relations_hold_between_the_two_events(seed: int) -> None:
    rng = Random(seed)
    premise = grammar.event(rng)
    hypothesis, relations = grammar.edit(rng, premise)
    slots = {slot: (old, getattr(hypothesis, slot)) for slot, old in premise.__dict__.items()}
    changed = [(slot, old, new) for slot, (old, new) in slots.items() if old != new]
    assert len(relations) == len(changed) in (1, 2)
    assert sorted(relation_of(*change) for change in changed) == sorted(relations)


def relation_of(slot: str, old: str | None, new: str | None) -> str:
    """Read off the tables: a general word, a missing one, a synonym, or another member."""
    if old is None or new is None:
        return ">" if old is None else "<"
    if grammar.SYNONYMS.get(old) == new:
        return "="
    return "<" if new in (grammar.CLASS_OF.get(old), grammar.TOP.get(slot)) else "|"


def test_events_are_said_in_both_voices() -> None:
    event = grammar.Event("nurse", "watched", "saw", "old", "red", "park", negated=True)
    assert event.sentence(passive=False) == "the old nurse never watched the red saw in the park ."
    assert event.sentence(passive=True) == "the red saw was never watched by the old nurse in the park ."
    assert grammar.Event("nurse", "watched", "saw").sentence(passive=False) == "the nurse watched the saw ."


def test_no_word_is_in_two_tables() -> None:
    members = [w for table in grammar.TABLES.values() for words in table.values() for w in words.split()]
    classes = [name for table in grammar.TABLES.values() for name in table]
    names = [*members, *classes, *grammar.TOP.values(), *set(grammar.SYNONYMS.values())]
    assert len(names) == len(set(names))


# --------------------------------------------------------------------------------------------- vocabulary
@given(seeds, st.booleans(), st.sampled_from(grammar.INFERENCE_LABELS), st.booleans())
def test_every_word_of_the_grammar_is_in_its_vocabulary(seed: int, positive: bool, label: str, easy: bool) -> None:
    rng = Random(seed)
    sentence, domain = grammar.review(rng, positive, easy)
    sentences = [sentence, grammar.conclusion(rng, domain, positive)[0], *grammar.inference_pair(rng, label, easy)]
    assert set(" ".join(sentences).split()) <= set(grammar.vocabulary())


def test_the_tokenizer_s_vocabulary_is_the_special_tokens_and_the_grammar_s() -> None:
    vocabulary = load_tokenizer(MINI_BERT).get_vocab()
    assert sorted(vocabulary, key=vocabulary.get) == [*pretrain.SPECIAL, *grammar.vocabulary()]
    assert vocabulary == pretrain.make_tokenizer().get_vocab()


@pytest.mark.parametrize("name", remake.TASKS)
def test_the_tokenizer_knows_every_word_of_the_committed_files_as_one_token(name: str) -> None:
    tokenizer = load_tokenizer(MINI_BERT)
    for split in SPLITS:
        sentences = [text for row in table(DATA / name / f"{split}.tsv") for text in texts(row)]
        encoded = tokenizer(sentences, add_special_tokens=False)["input_ids"]
        assert [len(ids) for ids in encoded] == [len(sentence.split()) for sentence in sentences]
        assert not any(tokenizer.unk_token_id in ids for ids in encoded)


@pytest.mark.parametrize("name", remake.TASKS)
def test_no_row_of_the_committed_files_is_longer_than_the_model_reads(name: str) -> None:
    tokenizer = load_tokenizer(MINI_BERT)
    for split in SPLITS:
        columns = zip(*(texts(row) for row in table(DATA / name / f"{split}.tsv")), strict=True)
        assert max(map(len, tokenizer(*map(list, columns))["input_ids"])) <= tokenizer.model_max_length
