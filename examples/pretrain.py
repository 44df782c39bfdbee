"""Pre-train a small model to restore texts with deleted words, as BART was, on texts of your own.

    python examples/pretrain.py my-data more-texts --lower-case --out pretrained
    tbt reproduce table3 --data my-data --config pretrained --teacher-steps 800 --out results

Every folder has a train.jsonl; sources and targets of all lines are used, and nothing of what is tested on.
A model that is trained from nothing on a few thousand pairs learns them by heart before it learns to copy a
name from its source; one that has restored texts can copy already. `--copies` of each text are made, each
with other words deleted. Stopped and started again it goes on.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tbt_compile.cli.console import progress_bar
from tbt_compile.data.batches import Corpus, TextLengths
from tbt_compile.data.text_pairs import TextPair, load_folder
from tbt_compile.data.tokenization import train_bpe_tokenizer
from tbt_compile.training import MODEL_SIZES, TrainingRun, TrainSettings, new_model, train_teacher
from tbt_compile.training.settings import teacher_rate


def deleted(text: str, share: float, generator: random.Random) -> str:
    """`text` without about `share` of its words: BART's noise "token deletion" (Lewis et al. 2019, 3.1).

    >>> deleted("a b c d e f", 0.5, random.Random(1))
    'b c'
    """
    return " ".join(word for word in text.split() if generator.random() >= share)


def noisy_pairs(texts: Iterable[str], copies: int, share: float, seed: int = 0) -> Iterator[TextPair]:
    """Pairs of a text without some of its words and the whole text; a text that loses all is left out."""
    generator = random.Random(seed)
    kept = list(dict.fromkeys(texts))
    for _ in range(copies):
        for text in kept:
            source = deleted(text, share, generator)
            if source:
                yield TextPair(source, text)


def main(given: Sequence[str] | None = None) -> None:
    """Make the texts noisy, train the tokenizer and the model, and save both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", type=Path, help="folders with train.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model and its tokenizer")
    parser.add_argument("--size", choices=list(MODEL_SIZES), default="tiny")
    parser.add_argument("--vocab-size", type=int, default=4000)
    parser.add_argument("--lower-case", action="store_true", help="a tokenizer without capital letters")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--share", type=float, default=0.2, help="of the words that are deleted")
    parser.add_argument("--max-length", type=int, default=64, help="of texts, in tokens")
    arguments = parser.parse_args(given)
    texts = [text for folder in arguments.data for text in load_folder(folder).texts()]
    tokenizer = train_bpe_tokenizer(texts, arguments.vocab_size, arguments.lower_case)
    if arguments.lower_case:
        texts = [text.lower() for text in texts]
    with progress_bar("starting") as progress:
        pairs = tuple(noisy_pairs(texts, arguments.copies, arguments.share))
        settings = TrainSettings(steps=arguments.steps, learning_rate=teacher_rate(arguments.size))
        train_teacher(
            new_model(arguments.size, tokenizer, arguments.max_length),
            Corpus(pairs, tokenizer, TextLengths(arguments.max_length, arguments.max_length)),
            TrainingRun(arguments.out, settings, progress=progress, title="pre-training"),
        )


if __name__ == "__main__":
    main()
