"""`tbt train`: distil a low-bit student from a full-precision model, given or trained first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tbt_compile.cli.console import PRECISION_HELP, JsonOption, out, progress_bar, write_json
from tbt_compile.cli.recipe_options import recipe_with
from tbt_compile.cli.scores import score_table

if TYPE_CHECKING:
    from tbt_compile.training.pipeline import TrainResult

_MODEL, _DATA, _OPTIMIZER, _LOSS = "Model", "Data", "Optimization", "Loss terms"


def train(
    data: Annotated[
        str, typer.Option(help="Folder with train.jsonl, or a data set's name.", rich_help_panel=_DATA)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for models and scores.")],
    recipe: Annotated[
        str, typer.Option(help="Bits of embeddings, weights and activations: 1, 2, 8 or 32 each.")
    ] = "2-2-2",
    recipe_option: Annotated[
        list[str] | None,
        typer.Option(
            help="Another field of the recipe, such as ste=trust; may be repeated.", metavar="NAME=VALUE"
        ),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(help="Folder of a fine-tuned full-precision model.", rich_help_panel=_MODEL),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a student with more bits whose weights to start from.", rich_help_panel=_MODEL
        ),
    ] = None,
    model_type: Annotated[
        str, typer.Option(help="Without --teacher: train a bart or a llama.", rich_help_panel=_MODEL)
    ] = "bart",
    size: Annotated[
        str,
        typer.Option(help="Without --teacher: train one, tiny, wide, small or base.", rich_help_panel=_MODEL),
    ] = "tiny",
    vocab_size: Annotated[
        int, typer.Option(help="Without --teacher: tokens of its tokenizer.", rich_help_panel=_MODEL)
    ] = 8000,
    source_field: Annotated[
        str, typer.Option(help="Name of the source text in the data.", rich_help_panel=_DATA)
    ] = "source",
    target_field: Annotated[
        str, typer.Option(help="Name of the target text in the data.", rich_help_panel=_DATA)
    ] = "target",
    text_field: Annotated[
        str | None,
        typer.Option(
            help="Name of plain texts in the data, in place of source and target, for decoder-only models "
            "and classifiers.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            help=r"Prompt of a decoder-only model, with {source} in it and \n for new lines.  [default: its "
            "chat template]",
            rich_help_panel=_DATA,
        ),
    ] = None,
    source_length: Annotated[
        int,
        typer.Option(
            help="Truncate sources to this many tokens; blocks of plain texts.",
            min=2,
            rich_help_panel=_DATA,
        ),
    ] = 64,
    target_length: Annotated[
        int, typer.Option(help="Truncate targets to this many tokens.", min=2, rich_help_panel=_DATA)
    ] = 64,
    test_sentences: Annotated[
        int, typer.Option(help="Test examples to score at the end; 0: none.", min=0, rich_help_panel=_DATA)
    ] = 500,
    epochs: Annotated[float, typer.Option(help="Epochs of the student.", rich_help_panel=_OPTIMIZER)] = 3.0,
    steps: Annotated[
        int | None,
        typer.Option(help="Steps of the student, instead of epochs.", rich_help_panel=_OPTIMIZER),
    ] = None,
    teacher_epochs: Annotated[
        float, typer.Option(help="Epochs of the teacher.", rich_help_panel=_OPTIMIZER)
    ] = 3.0,
    teacher_steps: Annotated[
        int | None,
        typer.Option(help="Steps of the teacher, instead of epochs.", rich_help_panel=_OPTIMIZER),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(help="Batch size over all processes.", rich_help_panel=_OPTIMIZER)
    ] = 64,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Peak learning rate of the student.  [default: 4e-3 for --size tiny, wide, small; 5e-4 for "
            "base and any --teacher; half for 8 bits]",
            rich_help_panel=_OPTIMIZER,
        ),
    ] = None,
    teacher_learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Peak learning rate of the teacher.  [default: 2e-3 for tiny, wide, small; else 5e-4]",
            rich_help_panel=_OPTIMIZER,
        ),
    ] = None,
    weight_decay: Annotated[
        float, typer.Option(help="Of AdamW, for the student.", rich_help_panel=_OPTIMIZER)
    ] = 0.0,
    decay_share: Annotated[
        float,
        typer.Option(help="The part of the steps that has weight decay.", rich_help_panel=_OPTIMIZER),
    ] = 1.0,
    quantization_warmup: Annotated[
        float,
        typer.Option(
            help="The part of the steps in which values go over to their levels.", rich_help_panel=_OPTIMIZER
        ),
    ] = 0.0,
    soft_weights: Annotated[
        float,
        typer.Option(
            help="The part of the steps in which weights are soft levels that harden.",
            rich_help_panel=_OPTIMIZER,
        ),
    ] = 0.0,
    average: Annotated[
        float,
        typer.Option(
            help="Decay of the moving average that becomes the student; 0: none.", rich_help_panel=_OPTIMIZER
        ),
    ] = 0.0,
    save_every: Annotated[
        int, typer.Option(help="Steps between checkpoints.", rich_help_panel=_OPTIMIZER)
    ] = 200,
    seed: Annotated[
        int, typer.Option(help="Seed of data order, dropout and new weights.", rich_help_panel=_OPTIMIZER)
    ] = 0,
    precision: Annotated[
        str, typer.Option("--matmul-precision", help=PRECISION_HELP, rich_help_panel=_OPTIMIZER)
    ] = "highest",
    logits: Annotated[
        float,
        typer.Option(help="Weight of the cross-entropy with the teacher's logits.", rich_help_panel=_LOSS),
    ] = 1.0,
    hidden: Annotated[
        float, typer.Option(help="Weight of the hidden states' squared error.", rich_help_panel=_LOSS)
    ] = 1.0,
    attention: Annotated[
        float, typer.Option(help="Weight of the attention maps' squared error.", rich_help_panel=_LOSS)
    ] = 0.0,
    labels: Annotated[
        float, typer.Option(help="Weight of the cross-entropy with the labels.", rich_help_panel=_LOSS)
    ] = 0.0,
    cache_logits: Annotated[
        int | None,
        typer.Option(
            help="Keep the teacher's K likeliest tokens on disk: it runs in the first epoch only. Needs "
            "--hidden 0.",
            metavar="K",
            min=1,
            rich_help_panel=_LOSS,
        ),
    ] = None,
    reverse: Annotated[
        float,
        typer.Option(help="Weight of the divergence of the student from the teacher.", rich_help_panel=_LOSS),
    ] = 0.0,
    relations: Annotated[
        float, typer.Option(help="Weight of BitDistill's attention relations.", rich_help_panel=_LOSS)
    ] = 0.0,
    temperature: Annotated[
        float, typer.Option(help="Of both distributions in --logits and --reverse.", rich_help_panel=_LOSS)
    ] = 1.0,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Layers whose states, maps and relations are compared, such as 0,5,-1.  [default: all]",
            rich_help_panel=_LOSS,
        ),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Resume an interrupted run.")] = True,
    json_path: JsonOption = None,
) -> None:
    """Distil a low-bit student from a full-precision teacher.

    --data is a folder with train.jsonl and, for scores, test.jsonl: {"source": ..., "target": ...} per line.
    Of a decoder-only teacher the source is the prompt, which counts in no loss, and the target what follows;
    --text-field takes plain texts instead. For a classifier the target is a class, for a speech model the
    source is a .wav or .npy file. ROUGE, BLEU, perplexity, accuracy or word error rate are printed.

    The student is written to *student-RECIPE* in the output folder; `tbt lower` compiles it. An interrupted
    command resumes when it is run again, from the step that Ctrl-C saved or the last checkpoint. A binary
    student learns more when it starts from a ternary student of the same teacher (--start).

    Examples:

        tbt train --data my-data --teacher my-bart --recipe 2-2-2 --output trained

        tbt train --data my-data --teacher my-bart --recipe 1-1-1 --start trained/student-2-2-2 -o trained

        tbt train --data my-data --teacher my-llama --template "{source}\\nSummary:" --output trained

        tbt train --data my-data --teacher my-bert --target-field label --output trained

        tbt train --data my-data --size small --teacher-epochs 10 --epochs 10 --output trained
    """
    from tbt_compile.data.batches import TextLengths
    from tbt_compile.training import LossWeights, TrainJob, TrainSettings
    from tbt_compile.training import train as run
    from tbt_compile.training.precision import matmul_precision
    from tbt_compile.training.settings import student_rate, teacher_rate

    common = TrainSettings(batch_size=batch_size, save_every=save_every, seed=seed)
    model = size if teacher is None else str(teacher)
    chosen = recipe_with(recipe, recipe_option or [])
    of_student = student_rate(model, chosen) if learning_rate is None else learning_rate
    of_teacher = teacher_rate(model) if teacher_learning_rate is None else teacher_learning_rate
    job = TrainJob(
        data=data,
        output=output,
        recipe=chosen,
        teacher=teacher,
        start=start,
        model_type=model_type,
        size=size,
        vocab_size=vocab_size,
        lengths=TextLengths(source_length, target_length),
        teacher_settings=replace(
            common, epochs=teacher_epochs, steps=teacher_steps, learning_rate=of_teacher
        ),
        student_settings=replace(
            common,
            epochs=epochs,
            steps=steps,
            learning_rate=of_student,
            weight_decay=weight_decay,
            decay_share=decay_share,
            quantization_warmup=quantization_warmup,
            soft_weights=soft_weights,
            average=average,
        ),
        weights=LossWeights(
            logits=logits,
            labels=labels,
            hidden=hidden,
            attention=attention,
            temperature=temperature,
            reverse=reverse,
            relations=relations,
            layers=_indices(layers),
        ),
        cache_logits=cache_logits,
        source_field=source_field,
        target_field=target_field,
        text_field=text_field,
        template=None if template is None else template.replace("\\n", "\n"),
        test_sentences=test_sentences,
        resume=resume,
    )
    with progress_bar("starting") as progress, matmul_precision(precision):
        result = run(job, progress)
    figures = {
        "teacher_folder": str(result.teacher_folder),
        "student_folder": str(result.student_folder),
        "teacher": result.teacher_scores,
        "student": result.student_scores,
        "cache": result.cache,
    }
    write_json(figures, json_path)
    if str(json_path) != "-":
        _show(result, str(chosen))


def _indices(text: str | None) -> tuple[int, ...] | None:
    from tbt_compile.training import TrainingError

    try:
        return None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise TrainingError(f"--layers {text}: expected indices such as 0,5,-1") from error


def _show(result: TrainResult, recipe: str) -> None:
    if result.student_scores:
        rows = {"teacher": result.teacher_scores, f"student {recipe}": result.student_scores}
        out.print(score_table(f"{result.student_scores['sentences']} test examples", rows))
    if result.cache:
        k, size, left = result.cache["k"], result.cache["bytes"] / 2**20, result.cache["rest"]
        text = f"The teacher's {k} likeliest tokens take {size:.1f} MiB and leave out {left:.1%} of its mass"
        out.print(text, highlight=False)
    out.print(f"The student is in {result.student_folder}", markup=False, highlight=False, soft_wrap=True)
    out.print(
        f"Compile it: tbt lower {result.student_folder} --output compiled",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
