"""`tbt serve`: a compiled folder behind OpenAI's HTTP interface."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from tbt_compile.cli.console import CheckOption, PublicKeyOption, err, out, spinner
from tbt_compile.errors import TbtError
from tbt_compile.storage.checksums import Checks

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    folder: Annotated[Path, typer.Argument(help="Folder that `tbt lower` wrote, with a tokenizer.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8000,
    name: Annotated[str | None, typer.Option(help="The model's name (default: that of the folder).")] = None,
    rows: Annotated[int, typer.Option(help="Outputs that are written at a time.", min=1)] = 16,
    queue: Annotated[int, typer.Option(help="Outputs that may wait; more are answered 429.", min=0)] = 256,
    threads: Annotated[int | None, typer.Option(help="Threads of a step (default: all CPUs).", min=1)] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens of a prompt or source.", min=1)] = 4096,
    prompt_cache: Annotated[
        int, typer.Option(help="MiB of prompts that are kept, to read what begins alike once; 0: off.", min=0)
    ] = 256,
    timeout: Annotated[float, typer.Option(help="Seconds that an answer may take.", min=0.001)] = 300.0,
    max_audio: Annotated[float, typer.Option(help="Seconds of a recording.", min=0.001)] = 1800.0,
    max_body: Annotated[
        int | None, typer.Option(help="Bytes of a request.  [default: 1 MiB; 25 of audio]", min=1)
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="Key that clients have to send.", envvar="TBT_API_KEY")
    ] = None,
    check: CheckOption = True,
    public_key: PublicKeyOption = None,
) -> None:
    """Serve a compiled model over HTTP, for OpenAI's clients: completions, chat, streams, transcriptions.

    Requests share the steps of one running batch; what is written for one does not depend on the others.
    GET / shows a page to try the model, /openapi.json the interface, /metrics counters for Prometheus.

    Examples:

        tbt serve compiled

        tbt serve compiled --port 9000 --rows 32 --threads 4

        TBT_API_KEY=secret tbt serve compiled --host 0.0.0.0
    """
    import asyncio

    with _installed():
        import uvicorn

        from tbt_compile.serving.service import Service
        from tbt_compile.serving.settings import ServiceSettings
    if api_key is not None and not (api_key and api_key.isascii()):
        raise TbtError("--api-key is empty or not ASCII: give one that clients can send, or leave it out")
    listening = _listening(host, port)
    if host not in _LOOPBACK and api_key is None:
        err.print(
            f"warning: {host} is reachable from other machines, and no --api-key is set", style="yellow"
        )
    settings = ServiceSettings(
        name=name or folder.resolve().name,
        most_rows=rows,
        most_waiting=queue,
        most_bytes=max_body,
        most_tokens=max_tokens,
        most_seconds=max_audio,
        prompt_bytes=prompt_cache * 2**20,
        timeout=timeout,
        api_key=api_key,
    )
    with spinner(f"loading {folder}"), _installed():
        service = Service(folder, settings, threads, Checks.of(check, public_key))
    server = uvicorn.Server(
        uvicorn.Config(
            service.app,
            host=host,
            port=port,
            log_level="warning",
            timeout_graceful_shutdown=max(1, int(timeout)),
        )
    )

    async def run() -> None:
        serving = asyncio.create_task(server.serve([listening]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if server.started:
            taken = listening.getsockname()[1]
            out.print(
                f"serving {service.model.label} at http://{host}:{taken}", highlight=False, soft_wrap=True
            )
        await serving

    asyncio.run(run())


@contextmanager
def _installed() -> Iterator[None]:
    """Say which package the block needs, if one is missing.

    Raises:
        TbtError: in place of a ModuleNotFoundError.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise TbtError(
            f"{error.name} is not installed: serving needs it; `pip install 'tbt-compile[serve]'`"
        ) from error


def _listening(host: str, port: int) -> socket.socket:
    """A socket bound to an address.

    Raises:
        TbtError: the address is taken, or not of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise TbtError(
            f"cannot listen on {host}:{port} ({error.strerror or error}): name another --port or --host"
        ) from error
    return bound
