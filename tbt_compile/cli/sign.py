"""`tbt sign`: sign a packed or compiled folder, so that others can tell it from any other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tbt_compile.cli.console import out


def sign(
    folder: Annotated[Path, typer.Argument(help="Folder that `tbt lower` or `save` wrote.")],
    key: Annotated[Path, typer.Option(help="File of the private key.")],
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Make the key first, and its public key beside it (.pub).")
    ] = False,
) -> None:
    """Sign a folder by Ed25519; who has the public key can then refuse every other folder.

    The signature covers the manifest, and the manifest the SHA-256 of every file. Keep the private key to
    yourself, and hand out the public one on another way than the folder.

    Examples:

        tbt sign compiled --key signing.pem --new-key

        tbt run compiled --public-key signing.pub "The text."
    """
    from tbt_compile.storage import model_folder, signatures

    if new_key:
        model_folder.read_manifest(folder)
        public = signatures.make_keys(key)
        out.print(f"{key} is the private key, {public} the public one", highlight=False, soft_wrap=True)
    model_folder.sign(folder, key)
    out.print(f"{folder} is signed", highlight=False, soft_wrap=True)
