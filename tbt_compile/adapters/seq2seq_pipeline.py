"""A transformers pipeline for encoder-decoder text models: texts in, texts out.

transformers 5 dropped its pipelines for such models ("summarization", "translation" and
"text2text-generation"), and "text-generation" is for decoder-only models. The base class still provides
batching and accepts datasets and generators.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import Pipeline, PreTrainedModel, PreTrainedTokenizerBase


class Seq2SeqPipeline(Pipeline):
    """Runs an encoder-decoder model on texts, to summarize, translate or whatever it was trained for.

        write = Seq2SeqPipeline(CompiledModelForSeq2SeqLM.from_pretrained("compiled"), tokenizer)
        write("A text.", num_beams=4)[0]["generated_text"]
        for results in write(texts, batch_size=8, do_sample=True): ...

    Args:
        model: a `CompiledModelForSeq2SeqLM`, or any encoder-decoder model of transformers.
        tokenizer: the model's tokenizer.
        prefix: text prepended to every source, such as T5's "summarize: ".
        options: further arguments of `transformers.Pipeline`, and settings of `generate`, which a call may
            override.

    A call takes a text, a list of texts or an iterable of texts. Per text it returns a list of
    num_return_sequences dicts with the key `generated_text`.
    """

    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _pipeline_calls_generate = True

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prefix: str = "", **options: Any
    ) -> None:
        self.source_prefix = prefix
        super().__init__(model=model, tokenizer=tokenizer, **{"device": model.device, **options})

    def _sanitize_parameters(self, **settings: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, settings, {}

    def preprocess(self, text: str) -> dict[str, Tensor]:
        """Tokenize one text to ids and mask, int64 [1, S] each."""
        encoded = self.tokenizer(self.source_prefix + text, return_tensors="pt", truncation=True)
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def _forward(self, inputs: dict[str, Tensor], **settings: Any) -> dict[str, Tensor]:
        tokens = self.model.generate(**inputs, **self._prepare_generate_kwargs(settings))
        return {"tokens": tokens.reshape(len(inputs["input_ids"]), -1, tokens.shape[-1])}

    def postprocess(self, outputs: dict[str, Tensor]) -> list[dict[str, str]]:
        """Decode the tokens of one source, [1, num_return_sequences, T], to texts."""
        texts = self.tokenizer.batch_decode(outputs["tokens"][0], skip_special_tokens=True)
        return [{"generated_text": text.strip()} for text in texts]
