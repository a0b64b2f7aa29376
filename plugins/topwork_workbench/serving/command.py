"""The command `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from topwork import UsageError, require_model_folder


def serve(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="A model folder, saved or exported.")],
    host: Annotated[str, typer.Option(help="Address to listen on; the default is reached from this machine only.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    batch_size: Annotated[int, typer.Option(min=1, help="Most rows that are predicted together.")] = 32,
    wait: Annotated[float, typer.Option(min=0, help="Milliseconds that a request waits for others.")] = 5.0,
    max_body: Annotated[float, typer.Option(min=0.001, help="Megabytes of one request.")] = 10.0,
    max_rows: Annotated[int, typer.Option(min=1, help="Rows of one request.")] = 64,
    max_pixels: Annotated[int, typer.Option(min=1, help="Pixels of one image.")] = 25_000_000,
    max_audio: Annotated[float, typer.Option(min=0.001, help="Seconds of one clip.")] = 600.0,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds until the predictions must be there.")] = 30.0,
    max_connections: Annotated[int, typer.Option(min=1, help="Connections that are open at the same time.")] = 256,
    trust: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that lies beside the weights.")
    ] = False,
) -> None:
    """Serve a model over HTTP, in the shape of the Hub's inference API, with a page to try it by hand.

    Example: topwork serve runs/reviews-1/model
    """
    require_model_folder(model)
    try:
        import uvicorn

        from topwork_workbench.serving.app import make_app
    except ImportError as error:
        raise UsageError(
            f"the service needs a package that is not installed: {error}",
            place="serve",
            hint="pip install 'topwork[serve]'",
        ) from error
    import topwork
    from topwork_workbench.serving.connections import settings
    from topwork_workbench.serving.limits import Limits

    work = topwork.load(model, plugins=context.obj.plugins, trust_remote_code=trust)
    limits = Limits(int(max_body * 1e6), max_rows, max_pixels, max_audio, timeout, connections=max_connections)
    hosts = ("127.0.0.1", "localhost") if host in ("127.0.0.1", "localhost") else ("*",)
    app = make_app(work, limits, batch_size=batch_size, wait=wait / 1000, hosts=hosts)
    typer.echo(f"{work.task.name} on http://{host}:{port} (ctrl-c ends it)", err=True)
    uvicorn.run(app, host=host, port=port, **settings(limits))
