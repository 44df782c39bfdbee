"""Signatures of model folders: Ed25519 (RFC 8032) over the manifest, which holds the checksums of all files.

Keys are PEM files as OpenSSL writes them (PKCS #8, SubjectPublicKeyInfo), and the signature is 64 bytes in a
file of its own, so that OpenSSL can check it too:

    openssl pkeyutl -verify -rawin -in manifest.json -sigfile manifest.sig -pubin -inkey signing.pub
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tbt_compile.errors import FormatError, WriteError
from tbt_compile.extras import require_extra
from tbt_compile.storage.atomic_write import atomic_write
from tbt_compile.storage.os_errors import reading, writing

SIGNATURE = "manifest.sig"
PUBLIC = ".pub"


def make_keys(private: Path) -> Path:
    """Make a pair of keys; the private one is readable by its owner only.

    Args:
        private: file to write; the public key is beside it, with the suffix ".pub".

    Returns:
        The file of the public key.

    Raises:
        WriteError: a file is there already, or the system refuses.
        MissingPackageError: cryptography is not installed.
    """
    with require_extra():
        from cryptography.hazmat.primitives import serialization as form
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public = private.with_suffix(PUBLIC)
    for file in (private, public):
        if os.path.lexists(file) or private == public:
            raise WriteError(f"{file} exists, and a key cannot be made again: choose another name")
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    shown = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    with writing(private):
        private.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(secret)
        public.write_bytes(shown)
    return public


def sign(manifest: Path, private: Path) -> Path:
    """Sign a manifest; returns the file of the signature, beside it.

    Raises:
        FormatError: a file cannot be read, or holds no private key of Ed25519.
        WriteError: the system refuses.
        MissingPackageError: cryptography is not installed.
    """
    with require_extra():
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = _key(private, lambda content: load_pem_private_key(content, None), Ed25519PrivateKey, "private")
    file = manifest.with_name(SIGNATURE)
    with reading(manifest):
        content = manifest.read_bytes()
    with atomic_write(file) as draft:
        draft.write_bytes(key.sign(content))
    return file


def check_signature(folder: Path, manifest: bytes, public: Path) -> None:
    """Check that the holder of a key signed a manifest.

    Args:
        folder: holds the signature.
        manifest: the content of its manifest.
        public: file of the public key.

    Raises:
        FormatError: there is no signature, it is another one's, or the key cannot be read.
        MissingPackageError: cryptography is not installed.
    """
    with require_extra():
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

    key = _key(public, load_pem_public_key, Ed25519PublicKey, "public")
    file = folder / SIGNATURE
    if not file.is_file():
        raise FormatError(f"{folder} is not signed: expected {SIGNATURE}, as `tbt sign` writes it")
    with reading(file):
        signature = file.read_bytes()
    try:
        key.verify(signature, manifest)
    except InvalidSignature as error:
        raise FormatError(
            f"{folder} is not signed by {public}: it was altered or is another one's; get it again from whom "
            "you trust"
        ) from error


def _key(file: Path, read: Any, kind: type[Any], which: str) -> Any:
    if not file.is_file():
        raise FormatError(f"there is no key {file}: `tbt sign --new-key` makes one")
    with reading(file):
        content = file.read_bytes()
    try:
        key = read(content)
    except Exception as error:  # ValueError, TypeError for an encrypted one, or UnsupportedAlgorithm
        raise FormatError(
            f"{file} is no {which} key in PEM ({error}): `tbt sign --new-key` makes one"
        ) from error
    if not isinstance(key, kind):
        raise FormatError(f"{file} is no {which} key of Ed25519: `tbt sign --new-key` makes one")
    return key
