"""How a decoder-only model is asked: a source as the prompt, a target as what follows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tbt_compile.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SOURCE = "{source}"


@dataclass(frozen=True)
class PromptTemplate:
    r"""Makes prompts of sources and answers of targets, as token ids.

    Attributes:
        text: the prompt with `{source}` in it, such as "Summarize: {source}\nSummary:"; None: the chat
            template of the tokenizer, with the source as the user's message and the target as the answer.
    """

    text: str | None = None

    def __post_init__(self) -> None:
        if self.text is not None and self.text.count(_SOURCE) != 1:
            raise DataError(
                f"template {self.text!r}: expected a prompt with {_SOURCE} in it once, where the source goes"
            )
        if self.text is not None and "{target}" in self.text:
            raise DataError(
                f"template {self.text!r}: a prompt ends where the model goes on; leave {{target}} out"
            )

    def prompts(
        self, tokenizer: PreTrainedTokenizerBase, sources: Sequence[str], max_source: int
    ) -> list[list[int]]:
        """The prompts of sources.

        Args:
            tokenizer: of the model.
            sources: texts.
            max_source: tokens to which each source is cut; those of the template are not counted.

        Returns:
            Token ids, with the tokens that the tokenizer puts in front, without an end token.

        Raises:
            DataError: there is no template.
        """
        return [self._prompt(tokenizer, _cut(tokenizer, source, max_source)) for source in sources]

    def answers(
        self, tokenizer: PreTrainedTokenizerBase, targets: Sequence[str], max_target: int
    ) -> list[list[int]]:
        """What follows the prompts: targets, and an end token.

        Args:
            tokenizer: of the model.
            targets: texts.
            max_target: tokens to which each is cut, the end token included.

        Returns:
            Token ids.

        Raises:
            DataError: the tokenizer has no end token, or its chat template does not go on from its prompt.
        """
        end = tokenizer.eos_token_id
        if end is None:
            raise DataError("the tokenizer has no end token: set its eos_token, at which generation stops")
        rows = []
        for target in targets:
            text = target if self.text is not None else self._answer(tokenizer, target)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids = ids[: ids.index(end)] if end in ids else ids
            rows.append([*ids[: max_target - 1], end])
        return rows

    def _prompt(self, tokenizer: PreTrainedTokenizerBase, source: str) -> list[int]:
        if self.text is None:
            asked = _chat(tokenizer, [_message("user", source)], add_generation_prompt=True)
            return list(tokenizer(asked, add_special_tokens=False)["input_ids"])
        ids = list(tokenizer(self.text.replace(_SOURCE, source))["input_ids"])
        return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids

    def _answer(self, tokenizer: PreTrainedTokenizerBase, target: str) -> str:
        """The answer as the chat template writes it, which does not depend on the question."""
        question = [_message("user", "?")]
        asked = _chat(tokenizer, question, add_generation_prompt=True)
        whole = _chat(tokenizer, [*question, _message("assistant", target)])
        if not whole.startswith(asked):
            raise DataError(
                "the tokenizer's chat template writes an answer that does not go on from its prompt: give a "
                f"template of your own, with {_SOURCE} in it"
            )
        return whole[len(asked) :]


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _chat(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], **options: Any) -> str:
    if not tokenizer.chat_template:
        raise DataError(
            "the tokenizer has no chat template: give the template of the prompts that the model was trained "
            f"with, with {_SOURCE} in it (--template)"
        )
    return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))


def _cut(tokenizer: PreTrainedTokenizerBase, source: str, most: int) -> str:
    """The part of a text that its first tokens stand for."""
    if not tokenizer.is_fast:
        ids = tokenizer(source, add_special_tokens=False)["input_ids"]
        return source if len(ids) <= most else str(tokenizer.decode(ids[:most]))
    found = tokenizer(source, add_special_tokens=False, return_offsets_mapping=True)
    places = found["offset_mapping"]
    return source if len(places) <= most else source[: places[most - 1][1]]
