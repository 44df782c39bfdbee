"""Training of small tokenizers: whole words for the demo, byte-level BPE for real text.

Both have the special tokens at BART's ids (0 begin, 1 padding, 2 end, 3 unknown), append the end token to
every text, and are ordinary `PreTrainedTokenizerFast` objects that work with `save_pretrained` and
`AutoTokenizer`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tbt_compile.errors import DataError

BOS, PAD, EOS, UNKNOWN = "<s>", "<pad>", "</s>", "<unk>"
SPECIAL_TOKENS = [BOS, PAD, EOS, UNKNOWN]


def train_word_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train a lower-case tokenizer with one token per word and punctuation mark of `texts`.

    Other words become "<unk>". Decoding joins the tokens with spaces.
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(
        texts,
        trainers.WordLevelTrainer(special_tokens=SPECIAL_TOKENS, show_progress=False, vocab_size=1_000_000),
    )
    return _wrap(tokenizer)


def train_bpe_tokenizer(
    texts: Iterable[str], vocab_size: int = 8000, lower_case: bool = False
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer, which encodes any text losslessly.

    Args:
        texts: to train on.
        vocab_size: maximum number of tokens.
        lower_case: convert texts to lower case and tokenize a word the same at the start of a text as
            elsewhere, which leaves a small model fewer tokens to learn.

    Raises:
        DataError: `vocab_size` is too small for the 256 bytes and the special tokens.
    """
    smallest = 256 + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise DataError(
            f"tokenizer size {vocab_size} is too small: byte-level BPE needs at least {smallest} tokens"
        )
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=lower_case)
    tokenizer.decoder = decoders.ByteLevel()
    if lower_case:
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _wrap(tokenizer)


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """Load a tokenizer that `save_pretrained` wrote.

    Raises:
        DataError: the folder has no tokenizer.json.
    """
    if not (Path(folder) / "tokenizer.json").is_file():
        raise DataError(f"folder {folder} holds no tokenizer: expected the file tokenizer.json in it")
    return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, tokenizer.token_to_id(EOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
