"""Serve a measured configuration with vLLM's OpenAI-compatible server, with the engine options that were measured.

Runs until Ctrl-C or SIGTERM. With --smoke it asks what was asked when the configuration was measured, prints what differs and
ends: exit code 0 when nothing does, 1 otherwise.
"""

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from entrypoints import _options as opt

if TYPE_CHECKING:
    from slim.serving.target import Target


@click.command(help=__doc__)
@click.option(
    "--model",
    required=True,
    help="What to serve: `<name>@<alias>` or `<name>/<version>` of the registry, a checkpoint's id (m-...), or a configuration's run id.",
)
@click.option("--host", type=opt.TEXT, default="", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=opt.Optional(click.IntRange(1, 65535)), default="", help="Port to listen on.  [default: 8000]")
@click.option("--smoke", **opt.FLAG, help="Compare the server's answers with the recorded ones, and end.")
@click.option("--python", "interpreter", type=opt.TEXT, default="", help="Python interpreter with vLLM.  [default: this one]")
@click.option("--trust-remote-code", **opt.FLAG, help="Run code that comes with the model.")
@click.option("--dry-run", **opt.FLAG, help="Print the server's command; start nothing.")
@click.option(
    "--tracking-uri", type=opt.TEXT, default="", help="MLflow tracking store.  [default: MLFLOW_TRACKING_URI, else ./mlflow.db]"
)
@opt.entry_point
def main(
    *,
    model: str,
    host: str | None,
    port: int | None,
    smoke: bool,
    interpreter: str | None,
    trust_remote_code: bool,
    dry_run: bool,
    tracking_uri: str | None,
) -> None:
    """Parse, find, start, print."""
    from slim import provenance, support
    from slim.errors import ConfigError
    from slim.serving import server, target
    from slim.store import registered

    host, port = host or "127.0.0.1", port or 8000
    found = registered.find(model, tracking_uri)
    # The GPUs that it will take, which are those that it was measured on.
    environment = provenance.probe(interpreter, target.measured_options(found.params).tensor_parallel_size)
    to_serve = target.resolve(found, environment, support.read_machine(), trust_remote_code=trust_remote_code)
    if smoke and not to_serve.answers:
        raise ConfigError(
            f"--smoke: no answers were recorded for {to_serve.title}; run its evaluate or profile stage again with --rerun to have some"
        )
    known = to_serve.configuration is None or to_serve.configuration in to_serve.title
    click.echo(to_serve.title if known else f"{to_serve.title}, measured as {to_serve.configuration}")
    for note in to_serve.notes:
        click.echo(f"Note: {note}.")
    command = server.command(to_serve, host=host, port=port, interpreter=interpreter)
    click.echo(server.shown(command))
    if dry_run:
        opt.explain_joined_run("A dry run: nothing was started.")
        return
    server.check_port(host, port)
    opt.explain_joined_run(f"Serves {to_serve.title}; nothing is logged.")
    if host not in ("127.0.0.1", "::1", "localhost"):
        click.echo(f"Note: whoever reaches {host} may use it; set VLLM_API_KEY to ask for a key.")
    url = server.address(host, port)
    sys.exit(_smoke(command, url, to_serve) if smoke else _serve(command, url, to_serve))


def _serve(command: list[str], url: str, to_serve: "Target") -> int:
    """Serve until told to end, or until the server ends by itself."""
    from slim.serving import server

    try:
        with server.running(command, url=url) as process:
            click.echo(f"Serving {to_serve.name} at {url}/v1; Ctrl-C ends it.")
            status = process.wait()
    except KeyboardInterrupt:
        click.echo("The server has ended.")
        return 0
    click.echo(f"Error: the server ended by itself with status {status}", err=True)
    return 1


def _smoke(command: list[str], url: str, to_serve: "Target") -> int:
    """Compare a server's answers with the recorded ones."""
    from slim.serving import server, smoke

    with tempfile.TemporaryDirectory() as directory, server.running(command, url=url, log=Path(directory) / "server.log"):
        replies = smoke.ask_all(url, to_serve.name, to_serve.answers)
    for reply in replies:
        verdict = "same" if reply.is_same else "DIFFERS"
        place = "" if reply.is_same or reply.same_tokens is None else f" after {reply.same_tokens} equal tokens"
        click.echo(f"{verdict}{place}: {reply.recorded.asked}{f' ({reply.note})' if reply.note else ''}")
        if not reply.is_same:
            click.echo(f"  recorded: {reply.recorded.text!r}\n  now:      {reply.text!r}")
    same = sum(reply.is_same for reply in replies)
    click.echo(f"{same} of {len(replies)} answers are those that were recorded.")
    return 0 if same == len(replies) else 1


if __name__ == "__main__":
    main()
