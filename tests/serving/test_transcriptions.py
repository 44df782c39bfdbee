"""/v1/audio/transcriptions: transcripts equal to `generate`, every format, long audio, broken files."""

from __future__ import annotations

import io
import re
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("soundfile", reason="soundfile is not installed")
pytest.importorskip("python_multipart", reason="python-multipart is not installed")
pytest.importorskip("soxr", reason="soxr is not installed")

import soundfile
import torch
from fastapi.testclient import TestClient
from once import once
from served import served
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

import tbt_compile
from tbt_compile.cli.models import Processor, processor_of
from tbt_compile.data.tokenization import train_word_tokenizer
from tbt_compile.errors import FormatError
from tbt_compile.runtime.batching import StoppedError
from tbt_compile.runtime.speech import Window
from tbt_compile.serving.log_mel import LogMel
from tbt_compile.serving.recordings import read_samples
from tbt_compile.serving.service import Service
from tbt_compile.serving.settings import ServiceSettings
from tbt_compile.serving.transcriber import Transcriber
from tbt_compile.serving.transcripts import spans

PATH, MELS, SECONDS, RATE = "/v1/audio/transcriptions", 8, 1, 16_000
NAMED = ("<|startofprev|>", "<|start|>", "<|en|>", "<|de|>", "<|transcribe|>", "<|translate|>", "<|untimed|>")
EXTRACTOR = WhisperFeatureExtractor(feature_size=MELS, chunk_length=SECONDS)


def make(folder: Path) -> None:
    """A Whisper of one second, of which the last 51 tokens are timestamps."""
    tokenizer = train_word_tokenizer([" ".join(f"w{number}" for number in range(40))])
    tokenizer.add_special_tokens({"additional_special_tokens": list(NAMED)})
    before, start, english, german, transcribe, translate, untimed = tokenizer.convert_tokens_to_ids(NAMED)
    end = tokenizer.eos_token_id
    config = WhisperConfig(
        vocab_size=len(tokenizer) + 51, d_model=32, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
        num_mel_bins=MELS, max_source_positions=50 * SECONDS, max_target_positions=64, pad_token_id=end,
        decoder_start_token_id=start, bos_token_id=end, eos_token_id=end, suppress_tokens=None,
        begin_suppress_tokens=None, init_std=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config).eval()
    fields = {
        "lang_to_id": {"<|en|>": english, "<|de|>": german},
        "task_to_id": {"transcribe": transcribe, "translate": translate},
        "no_timestamps_token_id": untimed, "is_multilingual": True, "max_initial_timestamp_index": 10,
        "suppress_tokens": [before], "begin_suppress_tokens": [end], "max_new_tokens": 20,
        "return_timestamps": False,
    }  # fmt: skip
    for name, value in fields.items():
        setattr(model.generation_config, name, value)
    compiled = tbt_compile.lower(tbt_compile.prepare(model, "2-2-8"))
    compiled.save(folder / "model", tokenizer=Processor(tokenizer, EXTRACTOR))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once(tmp_path_factory, "served-whisper", make) / "model"


@pytest.fixture(scope="module")
def service(folder: Path) -> Service:
    settings = ServiceSettings("ears", most_seconds=10, most_bytes=2**20, timeout=60)
    return Service(folder, settings, num_threads=1)


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(service.app, raise_server_exceptions=False) as made:
        yield made


def noise(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal(int(seconds * rate)) * 0.1
    return drawn.astype(np.float32)


def written(samples: np.ndarray, rate: int = RATE, form: str = "WAV", subtype: str = "FLOAT") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def post(client: TestClient, data: bytes, **fields: Any) -> Any:
    return client.post(PATH, files={"file": ("speech.wav", data)}, data=fields)


def expected(service: Service, samples: np.ndarray, **options: Any) -> list[int]:
    """Tokens of `generate`, on the features that transformers makes."""
    long = len(samples) > SECONDS * RATE
    made = EXTRACTOR(
        samples, sampling_rate=RATE, return_tensors="np", return_attention_mask=True,
        truncation=False, padding="longest" if long else "max_length",
    )  # fmt: skip
    features, mask = made["input_features"], made["attention_mask"][:, : made["input_features"].shape[2]]
    options = {"task": "transcribe", **options}
    return service.model.generate(input_features=features, attention_mask=mask, **options)[0].tolist()


def words(service: Service, tokens: list[int]) -> str:
    first = service.model._speech.first_timestamp(service.model.description["vocabulary"])
    return service.routes.transcriber.tokenizer.decode([token for token in tokens if token < first])


@pytest.mark.parametrize(("mels", "seconds"), [(80, 0.001), (80, 30), (128, 31.37)])
def test_features_are_those_of_transformers(mels: int, seconds: float, tmp_path: Path) -> None:
    extractor = WhisperFeatureExtractor(feature_size=mels)
    extractor.save_pretrained(tmp_path)
    samples = noise(seconds)
    padding = "max_length" if seconds < 30 else "longest"
    made = extractor(samples, sampling_rate=RATE, return_tensors="np", truncation=False, padding=padding)
    found = LogMel.read(tmp_path, mels).spectrogram(samples, 3000)
    np.testing.assert_allclose(found, made["input_features"][0], atol=1e-4)


@pytest.mark.parametrize("seconds", [0.004, 0.6, 1, 2.35])
@pytest.mark.parametrize("language", ["en", "German", None])
def test_a_transcript_is_what_generate_writes(
    service: Service, client: TestClient, seconds: float, language: str | None
) -> None:
    samples = noise(seconds)
    asked = {} if language is None else {"language": language}
    tokens = expected(service, samples, **asked)
    answer = post(client, written(samples), model="ears", **asked)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "text": words(service, tokens),
        "usage": {"type": "duration", "seconds": -(-seconds // 1)},
    }
    timed = expected(service, samples, return_timestamps=True, **asked)
    verbose = post(client, written(samples), response_format="verbose_json", **asked).json()
    assert verbose["text"] == words(service, timed)
    assert verbose["language"] in ("english", "german")
    assert language is None or verbose["language"].startswith(language.lower()[:2])
    assert verbose["duration"] == pytest.approx(seconds)
    assert " ".join(each["text"] for each in verbose["segments"]) == verbose["text"]
    assert all(0 <= each["start"] <= each["end"] for each in verbose["segments"])


def test_formats(client: TestClient) -> None:
    data = written(noise(2.2))
    verbose = post(client, data, response_format="verbose_json").json()
    plain = post(client, data, response_format="text")
    assert plain.text == verbose["text"] + "\n"  # longer than a window: with timestamps either way
    assert plain.headers["content-type"].startswith("text/plain")
    srt, vtt = (post(client, data, response_format=form).text for form in ("srt", "vtt"))
    clock = re.compile(r"(\d\d):(\d\d):(\d\d)[,.](\d{3}) --> ")
    starts = [each["start"] for each in verbose["segments"]]
    for text in (srt, vtt):
        found = [3600 * int(h) + 60 * int(m) + int(s) + int(ms) / 1000 for h, m, s, ms in clock.findall(text)]
        assert found == pytest.approx(starts)
    assert srt.startswith("1\n00:00:0") and vtt.startswith("WEBVTT\n\n00:00:0")


def test_spans_between_timestamps() -> None:
    assert list(spans(Window(100, 40, [66, 3, 72, 72, 5, 6, 75]), 66, 2)) == [
        (100, 112, [3]),
        (112, 118, [5, 6]),
    ]
    assert list(spans(Window(0, 40, [3, 4]), 66, 2)) == [(0, 40, [3, 4])]
    assert list(spans(Window(0, 40, [66, 66]), 66, 2)) == []


@pytest.mark.parametrize(
    ("form", "subtype", "rate"),
    [("FLAC", "PCM_16", RATE), ("WAV", "PCM_24", RATE), ("OGG", "VORBIS", RATE), ("WAV", "PCM_16", 44_100)],
)
def test_other_files(client: TestClient, form: str, subtype: str, rate: int) -> None:
    tone = (0.3 * np.sin(np.arange(rate) * 2 * np.pi * 440 / rate)).astype(np.float32)
    stereo = np.stack([tone, tone], axis=1)
    answer = post(client, written(stereo, rate, form, subtype), response_format="verbose_json").json()
    assert answer["duration"] == pytest.approx(1, abs=0.01)
    if (form, rate) == ("FLAC", RATE):
        assert (
            answer
            == post(client, written(tone, rate, "WAV", "PCM_16"), response_format="verbose_json").json()
        )


def test_a_prompt_comes_first(service: Service, client: TestClient) -> None:
    samples = noise(0.9, seed=3)
    tokenizer = service.routes.transcriber.tokenizer
    ids = [tokenizer.tokenizer.token_to_id("<|startofprev|>"), *tokenizer.plain("w3 w4")]
    tokens = expected(service, samples, language="en", prompt_ids=ids)
    answer = post(client, written(samples), language="en", prompt="w3 w4").json()
    assert answer["text"] == words(service, tokens)
    long = post(client, written(samples), language="en", prompt="w3 " * 500)
    assert long.status_code == 200


@pytest.mark.parametrize(
    ("data", "fields", "message"),
    [
        (b"", {}, "file: this recording cannot be read"),
        (b"no audio at all", {}, "file: this recording cannot be read"),
        (written(noise(0.5))[:20], {}, "file: this recording cannot be read"),
        (written(noise(0)), {}, "the recording is empty"),
        (written(np.zeros(1), rate=44100), {}, "or shorter than a sample at 16000 a second"),
        (written(np.full(800, np.nan, np.float32)), {}, "not finite numbers"),
        (written(noise(0.1), rate=200), {}, "has 200 samples a second: expected 1000 to 384000"),
        (written(np.zeros(RATE * 11), form="FLAC", subtype="PCM_16"), {}, "longer than 10 seconds"),
        (written(noise(0.5)), {"language": "xx"}, "language 'xx' is not one of this model's"),
        (written(noise(0.5)), {"temperature": "0.5"}, "temperature: speech is transcribed without sampling"),
        (written(noise(0.5)), {"temperature": "7"}, "temperature: Input should be less than or equal to 1"),
        (written(noise(0.5)), {"response_format": "diarized_json"}, "response_format: Input should be"),
        (written(noise(0.5)), {"timestamp_granularities[]": "word"}, "timestamp_granularities"),
        (written(noise(0.5)), {"timestamp_granularities[]": "segment"}, "verbose_json with it"),
        (written(noise(0.5)), {"prompt": "<|en|>"}, "prompt: it names special tokens"),
        (written(noise(0.5)), {"stream": "true"}, "stream: a transcript comes whole"),
        (written(noise(0.5)), {"chunking_strategy": "auto"}, "chunking_strategy: Extra inputs"),
    ],
    # Names without the files, which hold the time: every process has to collect the same.
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_cannot_be_transcribed(
    client: TestClient, data: bytes, fields: dict[str, str], message: str
) -> None:
    answer = post(client, data, **fields)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert "BytesIO" not in answer.text


def test_false_is_no_stream(client: TestClient) -> None:
    assert post(client, written(noise(0.2)), stream="false").status_code == 200


def test_decoding_ends_when_nobody_waits() -> None:
    parts: list[int] = []

    def stopped() -> bool:
        parts.append(1)
        return len(parts) > 2

    with pytest.raises(StoppedError):
        read_samples(written(np.zeros(RATE * 100)), RATE, 200, stopped)
    assert len(parts) == 3


def test_requests_of_another_form(client: TestClient) -> None:
    assert "file: Field required" in client.post(PATH, data={"model": "ears"}).json()["error"]["message"]
    assert client.post(PATH, json={"file": "a"}).status_code == 400
    assert client.post(PATH, data={"file": "text"}).status_code == 400
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert client.post(PATH, content=b"--x\r\nbroken", headers=kind).status_code == 400
    assert post(client, bytes(2**20 + 1)).status_code == 413
    assert post(client, written(noise(0.1)), model="other").status_code == 404


def test_every_byte_of_a_header_may_be_wrong(client: TestClient) -> None:
    """Broken files are refused, or read as what they are now; none is an error of the service."""
    for form, subtype in (("WAV", "PCM_16"), ("FLAC", "PCM_16")):
        data = written(noise(0.05), form=form, subtype=subtype)
        for place in range(60):
            broken = bytearray(data)
            broken[place] ^= 0xFF
            answer = post(client, bytes(broken))
            assert answer.status_code in (200, 400), (form, place, answer.text)


def test_no_form_is_answered_by_an_error_of_the_service(service: Service) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from hypothesis import HealthCheck, given, settings
    from schemathesis.checks import not_a_server_error

    schema = schemathesis.openapi.from_asgi("/openapi.json", service.app)
    (operation,) = [
        found.ok() for found in schema.get_all_operations() if found.ok().path.endswith("transcriptions")
    ]

    @given(case=operation.as_strategy())
    @settings(max_examples=20, suppress_health_check=list(HealthCheck), deadline=None)
    def answered(case: Any) -> None:
        case.call_and_validate(checks=[not_a_server_error])

    answered()


def test_a_soak_of_recordings(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "examples" / "benchmarks")
    import serving_soak

    options = Namespace(requests=24, part=12, clients=3, threads=1, json=tmp_path / "soak.jsonl")
    assert serving_soak.soak(folder, options) == []


def test_text_routes_are_refused(client: TestClient) -> None:
    for path in ("/v1/completions", "/v1/chat/completions", "/translate"):
        answer = client.post(path, json={"prompt": "w1"})
        assert answer.status_code == 400
        assert (
            f"'ears' transcribes speech, and reads no text: use {PATH}" in answer.json()["error"]["message"]
        )
    assert client.get("/health").json() == {"status": "ok", "running": 0, "waiting": 0}
    assert "Transcribe" in client.get("/").text


def test_a_model_of_text_takes_no_audio(llama_folder: Path) -> None:
    text = Service(llama_folder, ServiceSettings("tiny"), num_threads=1)
    answer = post(TestClient(text.app), b"RIFF")
    text.close()
    assert answer.status_code == 400
    assert "'tiny' reads text, not audio" in answer.json()["error"]["message"]


def test_time_runs_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    monkeypatch.setattr(Transcriber, "transcribe", lambda *arguments: told.append(arguments[-1].wait(60)))
    service = Service(folder, ServiceSettings("ears", timeout=0.05), num_threads=1)
    with TestClient(service.app, raise_server_exceptions=False) as client:
        assert post(client, written(noise(9))).status_code == 504
    assert told == [True]  # the work ends when nobody waits for it any more


def test_folders_without_a_feature_extractor(folder: Path, tmp_path: Path) -> None:
    import shutil

    from tbt_compile.storage.checksums import Checks

    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    (bare / "preprocessor_config.json").write_text('{"feature_size": 80}')
    with pytest.raises(FormatError, match="no config of a feature extractor"):
        LogMel.read(bare, MELS)
    (bare / "preprocessor_config.json").unlink()
    with pytest.raises(FormatError, match="has no preprocessor_config.json: save the model's feature"):
        LogMel.read(bare, MELS)
    with pytest.raises(FormatError):
        Service(bare, ServiceSettings(), 1, Checks(False))


def test_the_card_and_the_files_of_a_compiled_folder(folder: Path, tmp_path: Path) -> None:
    card = (folder / "README.md").read_text()
    assert "tbt serve FOLDER" in card
    assert re.search(r"\| recipe \| `Recipe.parse\('[128-]+'\)` \|", card)
    processor = processor_of(folder, train_word_tokenizer(["w1"]))
    assert isinstance(processor, Processor)
    processor.save_pretrained(tmp_path)
    assert LogMel.read(tmp_path, MELS) == LogMel.read(folder, MELS)


def test_the_openai_client_transcribes(folder: Path, service: Service) -> None:
    openai = pytest.importorskip("openai", reason="the openai package is not installed")
    with served(folder, "--name", "ears") as (_, address):
        check_the_client(openai, f"{address}/v1", service)


def check_the_client(openai: Any, address: str, service: Service) -> None:
    client = openai.OpenAI(base_url=address, api_key="none", max_retries=0)
    samples = noise(0.8)
    whole = client.audio.transcriptions.create(
        model="ears", file=("a.flac", written(samples, form="FLAC", subtype="PCM_16"))
    )
    heard = soundfile.read(io.BytesIO(written(samples, form="FLAC", subtype="PCM_16")), dtype="float32")[0]
    assert whole.text == words(service, expected(service, heard))
    verbose = client.audio.transcriptions.create(
        model="ears", file=("a.wav", written(samples)), response_format="verbose_json",
        timestamp_granularities=["segment"], language="de", temperature=0,
    )  # fmt: skip
    assert verbose.language == "german"
    assert verbose.segments[0].end >= verbose.segments[0].start
    text = client.audio.transcriptions.create(
        model="ears", file=("a.wav", written(samples)), response_format="text"
    )
    assert isinstance(text, str) and text.strip()
    with pytest.raises(openai.BadRequestError, match="file: this recording cannot be read"):
        client.audio.transcriptions.create(model="ears", file=("a.wav", b"nothing"))
