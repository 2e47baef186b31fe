"""Pre-train the miniature BERTs on documents of the small language, from a seed, on one CPU core.

Objective: masked words, plus a five-way discourse class read from the pooled [CLS] state (in place of
BERT's next-sentence prediction). Stage 1 trains three layers; each later stage grows them and goes on.
Run `python data/remake.py` to remake everything in this folder.
"""

import copy
import time
from pathlib import Path
from random import Random

import grammar
import torch
from torch import nn
from torch.nn import functional as F
from transformers import BertConfig, BertForPreTraining, BertTokenizerFast

MAX_POSITIONS = 64
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CLASSES = ("positive", "negative", *grammar.INFERENCE_LABELS)  # the discourse classes
SALIENT_RATE, FIRST_RATE, SECOND_RATE = 0.6, 0.12, 0.20  # masking: key words of a document, part 1, part 2
EASY_SHARE = (0.5, 0.1)  # of documents: in the first 40 % of a stage, and after
DISCOURSE_WEIGHT = 3.0  # of the class loss beside the masked words'
CONFIG = dict(max_position_embeddings=MAX_POSITIONS, initializer_range=0.05, attn_implementation="eager")
HEAD_SIZE = 16
BACKBONES = {  # hidden size, and the stages: layers, steps, learning rate
    "mini-bert-12": (64, ((3, 3000, 2e-3), (12, 3500, 5e-4))),
    "mini-bert-24": (96, ((3, 3000, 2e-3), (12, 3500, 5e-4), (24, 1500, 5e-4))),
}


def make_tokenizer() -> BertTokenizerFast:
    """A BERT tokenizer whose every entry is a whole word of the grammar."""
    vocab = {word: index for index, word in enumerate((*SPECIAL, *grammar.vocabulary()))}
    return BertTokenizerFast(vocab=vocab, model_max_length=MAX_POSITIONS)


def document(rng: Random, easy: bool) -> tuple[list[str], list[str], set[int], int]:
    """(part 1, part 2, positions of part 2's key words, class) of a review and its verdict or a pair of events."""
    if rng.random() < 0.5:
        positive = rng.random() < 0.5
        first, domain = grammar.review(rng, positive, easy)
        second, salient_words = grammar.conclusion(rng, domain, positive)
        label = 0 if positive else 1
    else:
        name = rng.choice(grammar.INFERENCE_LABELS)
        first, hypothesis = grammar.inference_pair(rng, name, easy)
        connective = rng.choice(grammar.CONNECTIVES[name])
        second, salient_words, label = f"{connective} {hypothesis}", {connective}, CLASSES.index(name)
    words = second.split()
    return first.split(), words, {i for i, word in enumerate(words) if word in salient_words}, label


def batch(rng: Random, vocab: dict[str, int], size: int, easy_share: float) -> dict[str, torch.Tensor]:
    """One batch of masked documents, padded to its longest row; a share of them is of the easy kind."""
    rows, content = [], sorted(index for word, index in vocab.items() if word not in SPECIAL)
    for _ in range(size):
        first, second, salient, label = document(rng, rng.random() < easy_share)
        hide_salient = rng.random() < SALIENT_RATE
        tokens, targets = [vocab["[CLS]"]], [-100]
        for part, rate in ((first, FIRST_RATE), (second, SECOND_RATE)):
            for position, word in enumerate(part):
                is_salient = part is second and position in salient
                chosen = hide_salient if is_salient else rng.random() < rate
                token = vocab[word]
                targets.append(token if chosen else -100)
                # BERT's 80/10/10 rule; a hidden key word is always hidden.
                draw = 0.0 if is_salient else rng.random()
                tokens.append(
                    token if not chosen or draw >= 0.9 else rng.choice(content) if draw >= 0.8 else vocab["[MASK]"]
                )
            tokens.append(vocab["[SEP]"])
            targets.append(-100)
        rows.append((tokens, targets, len(first) + 2, label, hide_salient))
    width = max(len(tokens) for tokens, *_ in rows)
    pad = lambda values, fill: values + [fill] * (width - len(values))  # noqa: E731
    return {
        "input_ids": torch.tensor([pad(tokens, vocab["[PAD]"]) for tokens, *_ in rows]),
        "attention_mask": torch.tensor([pad([1] * len(tokens), 0) for tokens, *_ in rows]),
        "token_type_ids": torch.tensor([pad([0] * n + [1] * (len(tokens) - n), 0) for tokens, _, n, *_ in rows]),
        "labels": torch.tensor([pad(targets, -100) for _, targets, *_ in rows]),
        "discourse": torch.tensor([label for *_, label, _ in rows]),
        "hidden": torch.tensor([hidden for *_, hidden in rows]),
    }


def train(model: BertForPreTraining, tokenizer, steps: int, learning_rate: float, seed: int, name: str) -> None:
    """`steps` batches of 64 documents, easy ones more often at first; a line every 250 steps."""
    rng, vocab, start = Random(seed), tokenizer.get_vocab(), time.perf_counter()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (0.06 * steps), (steps - step) / (0.94 * steps))
    )
    model.train()
    totals = torch.zeros(4)
    for step in range(1, steps + 1):
        inputs = batch(rng, vocab, 64, easy_share=EASY_SHARE[step > 0.4 * steps])
        labels, discourse, hidden = (inputs.pop(key) for key in ("labels", "discourse", "hidden"))
        output = model(**inputs)
        loss_words = F.cross_entropy(output.prediction_logits.flatten(0, 1), labels.flatten())
        loss_discourse = F.cross_entropy(output.seq_relationship_logits, discourse)
        (loss_words + DISCOURSE_WEIGHT * loss_discourse).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        right = output.seq_relationship_logits.argmax(-1) == discourse
        reviews, events = hidden & (discourse < 2), hidden & (discourse >= 2)  # documents whose key word is hidden
        totals += torch.stack(
            [loss_words.detach(), loss_discourse.detach(), right[reviews].float().mean(), right[events].float().mean()]
        )
        if step % 250 == 0 or step == steps:
            words, classes, reviews, events = (totals / ((step - 1) % 250 + 1)).tolist()
            print(
                f"{name} step {step}/{steps}: words {words:.3f}, discourse {classes:.3f} "
                f"(reviews {reviews:.1%}, events {events:.1%} right), {time.perf_counter() - start:.0f} s",
                flush=True,
            )
            totals.zero_()


def grow(model: BertForPreTraining, num_hidden_layers: int) -> BertForPreTraining:
    """A deeper model that computes the same: each layer followed by copies whose two output projections are zero."""
    grown = copy.deepcopy(model)
    copies = num_hidden_layers // model.config.num_hidden_layers
    layers = []
    for layer in model.bert.encoder.layer:
        for repeat in range(copies):
            clone = copy.deepcopy(layer)
            if repeat:
                for dense in (clone.attention.output.dense, clone.output.dense):
                    nn.init.zeros_(dense.weight)
                    nn.init.zeros_(dense.bias)
            layers.append(clone)
    grown.bert.encoder.layer = nn.ModuleList(layers)
    grown.config.num_hidden_layers = num_hidden_layers
    return grown


def pretrain(name: str, folder: Path, seed: int = 0, scale: float = 1.0) -> None:
    """Write the pre-trained backbone `name` (with BERT's pooler) and its tokenizer; `scale` shortens its stages."""
    torch.set_num_threads(1)  # more threads add in another order, and small matrices gain nothing
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    hidden_size, stages = BACKBONES[name]
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_attention_heads=hidden_size // HEAD_SIZE,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=stages[0][0],
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **CONFIG,
    )
    model = BertForPreTraining(config)
    model.cls.seq_relationship = nn.Linear(config.hidden_size, len(CLASSES))
    for stage, (layers, steps, learning_rate) in enumerate(stages, start=1):
        model = grow(model, layers)
        title = f"{name} stage {stage} ({layers} layers)"
        train(model, tokenizer, int(scale * steps), learning_rate, seed + stage, title)
    backbone = model.bert
    backbone.config.hidden_dropout_prob = backbone.config.attention_probs_dropout_prob = 0.1
    backbone.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
