"""From text and messages to token ids and back, with the tokenizer files in a compiled folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tbt_compile.errors import FormatError, ServingError
from tbt_compile.serving.template_steps import TooManyStepsError, limited_steps

_MOST_STEPS = 1_000_000
"""Lines of a chat template that are run; real ones need hundreds for a message."""
_MOST_SECONDS = 5.0
"""That they may take."""
_CONFIG, _TEMPLATE = "tokenizer_config.json", "chat_template.jinja"


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a compiled folder, of the `tokenizers` package.

    Raises:
        FormatError: the folder has no tokenizer, or one that cannot be read.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise FormatError(
            f"{folder} has no tokenizer.json: save the tokenizer in the model's folder with save_pretrained "
            "and lower it again, or give token ids to tbt_compile.load(...).generate in Python"
        )
    with whole_tokenizer(folder):
        tokenizer = Tokenizer.from_file(str(path))
    # Training saves the file with its last truncation and padding settings, those of the targets.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@contextmanager
def whole_tokenizer(folder: Path) -> Iterator[None]:
    """Turn the errors of the `tokenizers` package in the block into one of ours.

    A tokenizer.json that contradicts itself, for instance by a template with a token that it does not list,
    gives a bare `Exception`, or a panic, which is not even one.

    Raises:
        FormatError: in place of them.
    """
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        raise FormatError(
            f"{folder}/tokenizer.json is damaged ({error}): save the tokenizer again"
        ) from error


class ServedTokenizer:
    """The tokenizer of a folder.

    Args:
        folder: holds tokenizer.json, and for chat a template in chat_template.jinja or tokenizer_config.json.
        ends: ids of end tokens, which encoded prompts lose.

    Raises:
        FormatError: the folder has no tokenizer, or a file that cannot be read.
    """

    def __init__(self, folder: Path, ends: Sequence[int]) -> None:
        self.tokenizer, self._folder = read_tokenizer(folder), folder
        self._ends = frozenset(ends)
        config = _json(folder / _CONFIG)
        self._specials = {
            name: value if isinstance(value, str) else value.get("content", "")
            for name, value in config.items()
            if name.endswith("_token") and isinstance(value, (str, dict))
        }
        self._template = _compiled(folder / _TEMPLATE, config.get("chat_template"))

    def encode(self, text: str, keep_end: bool) -> list[int]:
        """Token ids of a text, with the tokens that the tokenizer adds.

        Args:
            text: a source or a prompt.
            keep_end: whether an end token stays, as encoders want; a prompt is to be continued.

        Raises:
            ServingError: the text is no Unicode.
        """
        ids = list(self._encoded(text, True))
        while not keep_end and ids and ids[-1] in self._ends:
            ids.pop()
        return ids

    def chat(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """Token ids of a conversation, up to where the answer begins.

        Raises:
            ServingError: there is no template, or it refuses the messages.
        """
        from jinja2 import TemplateError

        if self._template is None:
            raise ServingError("this model has no chat template: use /v1/completions")
        try:
            with limited_steps(_MOST_STEPS, _MOST_SECONDS):
                text = self._template.render(messages=messages, add_generation_prompt=True, **self._specials)
        except TooManyStepsError as error:
            raise ServingError(
                f"the model's chat template does not end within {_MOST_STEPS} steps and "
                f"{_MOST_SECONDS:g} seconds on these messages"
            ) from error
        except TemplateError as error:
            raise ServingError(f"the model's chat template refuses these messages: {error}") from error
        except Exception as error:  # what a template computes may fail in any way
            raise ServingError(
                f"the model's chat template fails on these messages ({type(error).__name__}: {error})"
            ) from error
        return list(self._encoded(text, False))

    def plain(self, text: str) -> list[int]:
        """Token ids of a text, without those that the tokenizer adds.

        Raises:
            ServingError: the text is no Unicode.
        """
        return list(self._encoded(text, False))

    def _encoded(self, text: str, add_special_tokens: bool) -> list[int]:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ServingError(
                f"the text is no Unicode: {error.reason} at character {error.start}"
            ) from error
        with whole_tokenizer(self._folder):
            return list(self.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        with whole_tokenizer(self._folder):
            return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{path} is not JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def _compiled(path: Path, inline: Any) -> Any:
    """Compile a chat template as transformers does, in a sandbox: it comes with the model."""
    from jinja2 import TemplateError
    from jinja2.exceptions import TemplateSyntaxError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if isinstance(inline, list):  # several by name
        inline = next((each["template"] for each in inline if each.get("name") == "default"), None)
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else inline
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not UTF-8 ({error.reason} at byte {error.start})") from error
    if text is None:
        return None

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = _now
    try:
        return environment.from_string(text)
    except TemplateSyntaxError as error:
        raise FormatError(f"the chat template in {path.parent} cannot be read: {error}") from error


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _now(form: str) -> str:
    from datetime import datetime

    return datetime.now().strftime(form)
