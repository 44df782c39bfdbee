"""`DistillationTrainer`: a trainer with a teacher."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tbt_compile.modules import is_prepared
from tbt_compile.training.label_trainer import LabelTrainer, whole_model
from tbt_compile.training.likeliest import Likeliest, likeliest
from tbt_compile.training.losses import distillation_terms
from tbt_compile.training.losses_relations import RelationTerm
from tbt_compile.training.record import fingerprint
from tbt_compile.training.settings import LossWeights, TrainingError
from tbt_compile.training.tasks import Task, task_of
from tbt_compile.training.teacher_cache import NUMBERS, Numbered, NumberedCollator, TeacherCache
from tbt_compile.training.terms import LayerMap, Objective, Term, Watch


class DistillationTrainer(LabelTrainer):
    """`Seq2SeqTrainer` with the paper's distillation loss on the teacher's logits and hidden states.

    Prepare the student as a copy of the teacher: `tbt_compile.prepare(copy.deepcopy(teacher), recipe)`. The
    teacher runs in evaluation mode without gradients. Padding is left out of every term.

    Args:
        model: the student.
        teacher: the full-precision model, of the same architecture.
        args, kwargs: as for `Seq2SeqTrainer`.
        weights: of the loss terms; None: the defaults.
        objective: replaces `weights` if there are further terms, or the student has fewer layers.
        cache: keeps the teacher's distributions on disk: the teacher runs when an example is first seen.

    Raises:
        TrainingError: a model is of no kind that can be distilled, or the layers or vocabularies differ; a
            cache is given, and a loss term needs more than distributions.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        teacher: PreTrainedModel,
        *args: Any,
        weights: LossWeights | None = None,
        objective: Objective | None = None,
        cache: TeacherCache | None = None,
        **kwargs: Any,
    ) -> None:
        self.objective, self.cache = objective or Objective(weights or LossWeights()), cache
        model, teacher = whole_model(model), whole_model(teacher)
        require_same_shape(model, teacher, self.objective.layers)
        super().__init__(model, *args, **kwargs)
        self.watch = Watch()
        self.terms = [(term.weight, term.bind(model, teacher, self.watch)) for term in self.all_terms()]
        for one in (model, teacher):
            if self.objective.weights.attention and not is_prepared(one):
                one.set_attn_implementation("eager")  # fused attention returns no maps
        # The teacher's parameters keep requires_grad: its next student is a copy and has to train.
        self.teacher = teacher.to(self.args.device).eval()
        self._unchecked = [self.teacher]
        if cache is not None:
            self._number_examples(cache)

    def _number_examples(self, cache: TeacherCache) -> None:
        require_distributions(self.objective)
        temperature = self.objective.weights.temperature
        asked = {"teacher": fingerprint(self.teacher), "temperature": temperature}
        head: Any = self.teacher.get_output_embeddings()
        outputs = self.teacher.config.num_labels if head is None else len(head.weight)
        dataset: Any = self.train_dataset
        if not hasattr(dataset, "__len__"):
            raise TrainingError(
                f"a cache knows examples by their numbers, and a {type(dataset).__name__} has no length: "
                "give a data set with one, or train without a cache"
            )
        cache.open(asked, outputs, len(dataset))
        self.train_dataset: Any = Numbered(dataset)
        self.data_collator: Any = NumberedCollator(self.data_collator)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns: Any = [*self._signature_columns, NUMBERS]

    def reads_labels(self) -> bool:
        """Whether the loss on labels has a weight."""
        return bool(self.objective.weights.labels)

    def figures(self) -> dict[str, Any]:
        """What the cache costs, if there is one."""
        return {} if self.cache is None else {"cache": self.cache.figures()}

    def savings(self) -> list[str]:
        """Those of a trainer on labels, and of the teacher's outputs."""
        weights = self.objective.weights
        found = super().savings()
        if weights.attention:
            found.append("the weight of attention maps (to 0)")
        if weights.layers is None and (weights.hidden or weights.attention or weights.relations):
            found.append("the number of compared layers")
        return found

    def all_terms(self) -> list[Term]:
        """The objective's further terms, and that of attention relations if it has a weight."""
        weights = self.objective.weights
        relations = [RelationTerm(weights.relations, weights.layers)] if weights.relations else []
        return [*self.objective.terms, *relations]

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as `Seq2SeqTrainer` does, then remove the hooks from student and teacher."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self.watch.stop()

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,  # noqa: ARG002  (part of the overridden signature)
    ) -> Any:
        """The weighted sum of `distillation_terms` and the objective's further terms.

        Args:
            model: the student.
            inputs: a batch with `labels`, as the task of the model has it.
            return_outputs: whether to return the student's outputs too.
            num_items_in_batch: unused.

        Returns:
            The loss, or (loss, outputs).
        """
        weights = self.objective.weights
        options = {
            "output_hidden_states": bool(weights.hidden or self.terms),
            "output_attentions": bool(weights.attention),
        }
        numbers = inputs.get(NUMBERS)
        inputs = self.part(model, {name: value for name, value in inputs.items() if name != NUMBERS})
        if weights.labels:
            self._check_labels(inputs)
        if numbers is not None and self.cache is not None:
            outputs = model(**student_inputs(self.task, self.teacher, inputs, weights))
            target: Any = self._cached(self.cache, numbers, inputs)
        else:
            outputs, target = both_outputs(self.task, model, self.teacher, inputs, weights, **options)
            if self.objective.layers is not None:
                target = self.objective.layers.select(target)
        terms = distillation_terms(outputs, target, inputs, weights, self.task)
        loss = terms.weighted(weights)
        for weight, measure in self.terms:
            loss = loss + weight * measure(outputs, target, inputs)
        return (loss, outputs) if return_outputs else loss

    def _cached(self, cache: TeacherCache, numbers: Tensor, inputs: dict[str, Any]) -> Likeliest:
        """The teacher's distributions of a batch."""
        scored = self.task.scored(inputs)

        def compute() -> Likeliest:
            with torch.no_grad():
                outputs = self.teacher(**self.task.without_labels(inputs, self.teacher))
                temperature = self.objective.weights.temperature
                return likeliest(self.task.logits(outputs, inputs), cache.k, temperature)

        return cache.of(numbers, scored.reshape(len(scored), -1).sum(1), compute)


def both_outputs(
    task: Task, student: Any, teacher: Any, inputs: dict[str, Any], weights: LossWeights, **options: bool
) -> tuple[Any, Any]:
    """Run student and teacher on one batch, the teacher without gradients.

    Args:
        task: of both models.
        student, teacher: the models.
        inputs: a batch with `labels`.
        weights: the student gets the labels only if their term has a weight.
        options: of both forward passes, such as `output_hidden_states`.

    Returns:
        The outputs of student and teacher.
    """
    outputs = student(**student_inputs(task, teacher, inputs, weights), **options)
    with torch.no_grad():
        target = teacher(**task.without_labels(inputs, teacher), **options)
    return outputs, target


def student_inputs(task: Task, teacher: Any, inputs: dict[str, Any], weights: LossWeights) -> dict[str, Any]:
    """The arguments of the student's forward: with labels only if their term has a weight.

    Args:
        task, teacher, inputs, weights: as for `both_outputs`.
    """
    return task.with_labels(inputs) if weights.labels else task.without_labels(inputs, teacher)


def require_distributions(objective: Objective) -> None:
    """Refuse an objective that compares more than the distributions that a cache holds.

    Raises:
        TrainingError: a loss term is on hidden states, attention or logits, or none on distributions.
    """
    if objective.terms or not objective.weights.of_distributions:
        raise TrainingError(
            "a cache holds the teacher's distributions, and a loss term compares more (hidden states, "
            "attention, relations or the logits themselves), or none is on distributions: set those weights "
            "to 0 and that of logits or reverse above it, or train without a cache"
        )


def require_same_shape(student: PreTrainedModel, teacher: PreTrainedModel, layers: LayerMap | None) -> None:
    """Refuse a student whose outputs cannot be compared with the teacher's.

    Args:
        student, teacher: any models.
        layers: maps the layers of a shallower student; None requires equal numbers of layers.

    Raises:
        TrainingError: kinds, widths, vocabularies, classes or layers differ, or a model is of no kind that
            can be distilled.
    """
    kinds = {
        task_of(model, f"the {role}").kind for role, model in (("student", student), ("teacher", teacher))
    }
    names = ["vocab_size", "hidden_size"]
    if layers is None:
        names.append("num_hidden_layers")
    if "classifier" in kinds:
        names.append("num_labels")
    if len(kinds) > 1:
        raise TrainingError(
            f"student and teacher are models of two kinds, {' and '.join(sorted(kinds))}: start the student "
            "from the teacher"
        )
    for name in names:
        ours, theirs = getattr(student.config, name, None), getattr(teacher.config, name, None)
        if ours != theirs:
            raise TrainingError(
                f"student and teacher differ in {name} ({ours} and {theirs}): start the student from the "
                "teacher, or from another student of it"
            )
