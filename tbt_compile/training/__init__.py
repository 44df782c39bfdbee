"""Training: a full-precision teacher and the low-bit students distilled from it."""

from tbt_compile.data.batches import Corpus, TextLengths
from tbt_compile.data.decoder_text import PromptCorpus, TextCorpus
from tbt_compile.data.labeled_texts import LabeledCorpus, LabeledText
from tbt_compile.data.recordings import Recording, SpeechCorpus
from tbt_compile.data.text_pairs import TextPair
from tbt_compile.training.job import TrainJob
from tbt_compile.training.losses import DistillationTerms, distillation_terms
from tbt_compile.training.pipeline import train
from tbt_compile.training.run import TrainingRun
from tbt_compile.training.settings import LossWeights, TrainingError, TrainSettings
from tbt_compile.training.sizes import MODEL_SIZES, ModelSize, new_model
from tbt_compile.training.stages import distill, train_teacher
from tbt_compile.training.teacher_cache import TeacherCache
from tbt_compile.training.time_limit import OutOfTimeError, TimeLimit
from tbt_compile.training.trainers import DistillationTrainer

__all__ = [
    "MODEL_SIZES",
    "Corpus",
    "DistillationTerms",
    "DistillationTrainer",
    "LabeledCorpus",
    "LabeledText",
    "LossWeights",
    "ModelSize",
    "OutOfTimeError",
    "PromptCorpus",
    "Recording",
    "SpeechCorpus",
    "TeacherCache",
    "TextCorpus",
    "TextLengths",
    "TextPair",
    "TimeLimit",
    "TrainJob",
    "TrainSettings",
    "TrainingError",
    "TrainingRun",
    "distill",
    "distillation_terms",
    "new_model",
    "train",
    "train_teacher",
]
