"""The full-precision teacher of an experiment and its tokenizer."""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tbt_compile.data.text_pairs import digest
from tbt_compile.data.tokenization import load_tokenizer, train_bpe_tokenizer
from tbt_compile.errors import ReproduceError
from tbt_compile.progress import Progress
from tbt_compile.reproduce.experiment import VOCAB_SIZE, Experiment
from tbt_compile.reproduce.task import Task
from tbt_compile.storage.os_errors import writing
from tbt_compile.training import MODEL_SIZES, TrainingRun, new_model, processes, train_teacher
from tbt_compile.training.record import TrainingRecord
from tbt_compile.training.stages import load_teacher


def open_model(experiment: Experiment, task: Task) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The teacher before training, and its tokenizer.

    Raises:
        ReproduceError: `config` is not a size, and no model can be loaded under that name.
    """
    if experiment.config in MODEL_SIZES:
        with processes.first():
            tokenizer = _local_tokenizer(experiment, task)
        longest = task.lengths.longest
        return new_model(experiment.config, tokenizer, longest, experiment.teacher_seed), tokenizer
    try:
        with processes.first():
            model, tokenizer = load_teacher(experiment.config), _tokenizer(experiment.config, task)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ReproduceError(
            f"model {experiment.config!r} cannot be read ({reason}). Without a network, only cached models "
            f"can be loaded by name: give a folder, or one of {', '.join(MODEL_SIZES)} to train a model here"
        ) from error
    if task.languages is not None:
        # A multilingual decoder starts from the token of the target language.
        model.generation_config.decoder_start_token_id = tokenizer.convert_tokens_to_ids(task.languages[1])
    return model, tokenizer


def make_teacher(
    experiment: Experiment, task: Task, progress: Progress | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Train the teacher in `teacher/` of the output folder, or resume or load it.

    Args:
        experiment: model, settings and output folder.
        task: the training pairs.
        progress: called with a description and the share done, from 0 to 1.

    Returns:
        The trained model and its tokenizer.
    """
    model, tokenizer = open_model(experiment, task)
    if experiment.teacher_steps != 0:
        folder = experiment.output / "teacher"
        run = TrainingRun(folder, experiment.teacher_training, experiment.resume, progress)
        model = train_teacher(model, task.corpus(tokenizer), run)
    return model, tokenizer


def _local_tokenizer(experiment: Experiment, task: Task) -> PreTrainedTokenizerBase:
    """The demo's tokenizer, or a BPE tokenizer that this or an earlier call trained on the texts."""
    folder = experiment.output / "tokenizer"
    if not experiment.is_demo:
        size = experiment.vocab_size or VOCAB_SIZE
        record = TrainingRecord(folder, {"vocab_size": size, "data": digest(task.data.train)})
        if record.open(experiment.resume) is None:
            tokenizer = train_bpe_tokenizer(task.data.texts(), size)
            with writing(folder):
                tokenizer.save_pretrained(folder)
            record.finish({"tokens": len(tokenizer)})
    return load_tokenizer(folder)


def _tokenizer(name: str, task: Task) -> PreTrainedTokenizerBase:
    options: dict[str, Any] = {}
    if task.languages is not None:
        options = {"src_lang": task.languages[0], "tgt_lang": task.languages[1]}
    return AutoTokenizer.from_pretrained(name, **options)
