"""Signed folders: taken with the right key, refused with another one, altered or with further files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import golden_folders as golden
import pytest
from typer.testing import CliRunner

pytest.importorskip("cryptography", reason="cryptography is not installed")

import tbt_compile
from tbt_compile.cli.app import app
from tbt_compile.errors import FormatError, MissingPackageError, TbtError
from tbt_compile.storage import model_folder, signatures

COMPILED = golden.FOLDERS / golden.name_of(model_folder.GENERATOR, "x86-64")
FROZEN = golden.FOLDERS / golden.name_of(model_folder.FROZEN)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    signatures.make_keys(tmp_path / "keys" / "signing.pem")
    return tmp_path / "keys" / "signing.pem"


@pytest.fixture
def signed(tmp_path: Path, key: Path) -> Path:
    folder = Path(shutil.copytree(COMPILED, tmp_path / "compiled"))
    model_folder.sign(folder, key)
    return folder


def public(key: Path) -> Path:
    return key.with_suffix(signatures.PUBLIC)


def test_a_signed_folder_is_taken(signed: Path, key: Path) -> None:
    model = tbt_compile.load(signed, public_key=public(key))
    assert golden.answers(model) == golden.answers_of(COMPILED)
    tbt_compile.load(signed)  # whoever has no key takes it as any other
    assert (signed / signatures.SIGNATURE).stat().st_size == 64


def test_frozen_folders_too(tmp_path: Path, key: Path) -> None:
    folder = Path(shutil.copytree(FROZEN, tmp_path / "frozen"))
    with pytest.raises(
        FormatError, match="frozen is not signed: expected manifest.sig, as `tbt sign` writes it"
    ):
        tbt_compile.load(folder, public_key=public(key))
    model_folder.sign(folder, key)
    tbt_compile.load(folder, public_key=public(key))


def test_another_key_and_another_model(signed: Path, key: Path, tmp_path: Path) -> None:
    other = signatures.make_keys(tmp_path / "other.pem")
    with pytest.raises(
        FormatError, match=r"compiled is not signed by .*other.pub: it was altered or is another"
    ):
        tbt_compile.load(signed, public_key=other)
    golden_module = golden.FOLDERS / golden.name_of(model_folder.MODULE, "x86-64")
    shutil.copy(golden_module / model_folder.MANIFEST, signed)
    with pytest.raises(FormatError, match="is not signed by"):
        tbt_compile.load(signed, public_key=public(key))


def test_a_crc_is_not_enough(signed: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = signed / "tensors.bin"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    monkeypatch.setattr("tbt_compile.storage.checksums._crc32", lambda _: "no CRC is asked for")
    with pytest.raises(FormatError, match="tensors.bin was altered"):
        tbt_compile.load(signed, public_key=public(key))


@pytest.mark.parametrize("name", ["chat_template.jinja", "more/words.txt"])
def test_files_that_nothing_vouches_for(signed: Path, key: Path, name: str) -> None:
    (signed / name).parent.mkdir(exist_ok=True)
    (signed / name).write_text("{{ messages }}")
    with pytest.raises(FormatError, match="which its manifest does not list: remove it"):
        tbt_compile.load(signed, public_key=public(key))
    tbt_compile.load(signed)


def test_hidden_files_and_a_changed_card(signed: Path, key: Path) -> None:
    (signed / ".git").mkdir()
    (signed / ".git" / "HEAD").write_text("ref")
    (signed / ".gitattributes").write_text("*.bin filter=lfs")
    tbt_compile.load(signed, public_key=public(key))
    (signed / model_folder.CARD).write_text("other words")
    with pytest.raises(FormatError, match="README.md .*(altered|truncated)"):
        tbt_compile.load(signed, public_key=public(key))


def test_a_save_takes_the_signature_away(signed: Path) -> None:
    tbt_compile.load(signed).save(signed)
    assert not (signed / signatures.SIGNATURE).exists()


def test_a_key_and_no_check_contradict_each_other(signed: Path, key: Path) -> None:
    with pytest.raises(FormatError, match="check=False with the public key"):
        tbt_compile.load(signed, check=False, public_key=public(key))


def test_files_that_are_no_keys(signed: Path, key: Path, tmp_path: Path) -> None:
    (tmp_path / "words").write_text("no key")
    for file in (tmp_path / "words", key):
        with pytest.raises(FormatError, match="is no public key in PEM"):
            tbt_compile.load(signed, public_key=file)
    with pytest.raises(FormatError, match="is no private key"):
        model_folder.sign(signed, public(key))
    with pytest.raises(FormatError, match="there is no key .*nowhere: `tbt sign --new-key` makes one"):
        model_folder.sign(signed, tmp_path / "nowhere")


def test_a_key_is_not_made_twice(key: Path) -> None:
    before = key.read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FormatError, match="exists, and a key cannot be made again"):
        signatures.make_keys(key)
    assert key.read_bytes() == before


def test_a_damaged_folder_is_not_signed(signed: Path, key: Path) -> None:
    (signed / "model.so").write_bytes(b"")
    with pytest.raises(FormatError, match="is truncated"):
        model_folder.sign(signed, key)


def test_the_command(tmp_path: Path) -> None:
    folder, key = Path(shutil.copytree(COMPILED, tmp_path / "compiled")), tmp_path / "signing.pem"
    run = CliRunner().invoke
    done = run(app, ["sign", str(folder), "--key", str(key), "--new-key"])
    assert done.exit_code == 0, done.output
    tbt_compile.load(folder, public_key=public(key))
    assert run(app, ["sign", str(folder), "--key", str(key)]).exit_code == 0
    again = run(app, ["sign", str(folder), "--key", str(key), "--new-key"])
    assert isinstance(again.exception, TbtError)
    refused = run(app, ["run", str(FROZEN), "--public-key", str(public(key)), "a text"])
    assert isinstance(refused.exception, TbtError)


def test_openssl_agrees(signed: Path, key: Path) -> None:
    """The command of docs/formats.md, where OpenSSL 3 is installed."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    command = [
        program,
        "pkeyutl",
        "-verify",
        "-rawin",
        "-in",
        str(signed / model_folder.MANIFEST),
        "-sigfile",
    ]
    command += [str(signed / signatures.SIGNATURE), "-pubin", "-inkey", str(public(key))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (signed / model_folder.MANIFEST).write_text("{}")
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_without_the_package(signed: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'tbt-compile\[sign\]'"):
        tbt_compile.load(signed, public_key=public(key))


def test_a_service_takes_signed_folders_only(key: Path) -> None:
    pytest.importorskip("fastapi", reason="fastapi is not installed")
    from tbt_compile.serving.service import Service
    from tbt_compile.serving.settings import ServiceSettings
    from tbt_compile.storage.checksums import Checks

    with pytest.raises(FormatError, match="is not signed: expected manifest.sig"):
        Service(COMPILED, ServiceSettings(), 1, Checks.of(public_key=public(key)))
