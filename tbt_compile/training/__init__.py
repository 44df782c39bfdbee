"""Training on a small machine: a full-precision teacher, and low-bit students distilled from it."""

from tbt_compile.training.distillation import DistillationTrainer
from tbt_compile.training.losses import DistillationTerms, distillation_terms
from tbt_compile.training.run import TrainJob, train
from tbt_compile.training.settings import LossWeights, TrainingError, TrainSettings
from tbt_compile.training.sizes import MODEL_SIZES, ModelSize, new_model
from tbt_compile.training.stages import distill, train_teacher

__all__ = [
    "MODEL_SIZES",
    "DistillationTerms",
    "DistillationTrainer",
    "LossWeights",
    "ModelSize",
    "TrainJob",
    "TrainSettings",
    "TrainingError",
    "distill",
    "distillation_terms",
    "new_model",
    "train",
    "train_teacher",
]
