"""The `retort` command. Runs a server (`up`), works as a client of one, and does the operator's chores on its data folder."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from app.client import Client, Problem, load_spec, local_files, package_model
from app.domain.errors import DomainError
from app.installation import OperatorError, find_folder, find_server
from app.settings import Settings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Distillation as a service.")
models_app = typer.Typer(invoke_without_command=True, help="The registry: list, import.")
keys_app = typer.Typer(no_args_is_help=True, help="API keys.")
files_app = typer.Typer(no_args_is_help=True, help="Data files.")
app.add_typer(models_app, name="models")
app.add_typer(keys_app, name="keys")
app.add_typer(files_app, name="files")

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Data = Annotated[Path | None, typer.Option("--data", help="Data folder of the installation (RETORT_DATA_DIR; default .retort).")]


@contextmanager
def _explained() -> Iterator[None]:
    """Errors in words, exit code 1; never a traceback for something the user can mend."""
    try:
        yield
    except OperatorError as error:
        _show(error)
        raise typer.Exit(1) from None
    except DomainError as error:
        _show(OperatorError(error.message, error.hint or ""))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _show(error: OperatorError) -> None:
    where = f" [dim]({escape(str(error.param))})[/]" if isinstance(error, Problem) and error.param else ""
    err.print(f"[bold red]error[/] {escape(error.message)}{where}")
    if isinstance(error, Problem):
        for detail in error.details[:20]:
            place = (
                " ".join(f"{k} {detail[k]}" for k in ("line", "column") if detail.get(k) is not None) or detail.get("param") or ""
            )
            err.print(f"  [dim]{escape(str(place))}[/] {escape(str(detail.get('message', detail)))}")
    if error.hint:
        err.print(f"[bold]what to do[/] {escape(error.hint)}")


def settings_of(data: Path | None) -> Settings:
    found = Settings()
    return found.model_copy(update={"data_dir": data}) if data else found


def _anywhere(data: Path | None, settings: Settings) -> bool:
    """No folder was named, so the one that was started last will do."""
    return data is None and "data_dir" not in settings.model_fields_set


def client(data: Path | None) -> Client:
    settings = settings_of(data)
    if settings.base_url and settings.api_key and data is None:
        return Client(settings.base_url, settings.api_key)
    url, key = find_server(settings.data_dir, anywhere=_anywhere(data, settings))
    return Client(settings.base_url if data is None and settings.base_url else url, settings.api_key or key)


# -- server ----------------------------------------------------------------------------------------------------------


@app.command()
def up(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    data: Data = None,
    workers: Annotated[int, typer.Option(min=0, max=64, help="Worker processes; each runs one job at a time.")] = 1,
) -> None:
    """Run everything on one port: API, inference, worker, database, Redis. Ends on Ctrl-C or SIGTERM."""
    with _explained():
        try:
            from app.embedded import up as run
        except ModuleNotFoundError as error:
            raise OperatorError(f"`retort up` needs the package {error.name}.", "pip install 'retort[demo]'") from None
        raise typer.Exit(run(settings_of(data), host, port, workers, lambda line: out.print(escape(line), soft_wrap=True)))


@app.command()
def migrate(data: Data = None) -> None:
    """Bring the database to the newest schema (`retort up` does this by itself)."""
    from migrations import upgrade

    settings = settings_of(data)
    upgrade(settings.database)
    out.print("The database has the newest schema.")


# -- jobs ------------------------------------------------------------------------------------------------------------


@app.command()
def submit(
    spec: Annotated[Path, typer.Argument(help="Job description, JSON or YAML; data files in it may be paths beside it.")],
    watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
    data: Data = None,
) -> None:
    """Upload a job's data files and start it."""
    with _explained():
        api = client(data)
        wanted = load_spec(spec)
        for field, path in local_files(wanted, spec.parent).items():
            wanted["data"] = {**wanted["data"], field: _upload(api, path)["id"]}
        job = api.create_job(wanted)
        for warning in job.get("warnings") or []:
            err.print(f"[yellow]warning[/] {escape(str(warning.get('message', warning)))}")
        out.print(f"job [bold]{job['id']}[/] is {job['status']}")
        if watch:
            raise typer.Exit(_watch(api, job["id"]))
        out.print(f"follow it: retort watch {job['id']}")


@app.command()
def jobs(
    status: Annotated[str | None, typer.Option(help="Only those in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    data: Data = None,
) -> None:
    """The newest jobs."""
    with _explained():
        found = client(data).get("/v1/distillation/jobs", status=status, limit=limit)["data"]
        table = Table(_id(), "name", "status", "phase", "progress", "model", box=None, pad_edge=False)
        for job in found:
            result = job.get("result") or {}
            row = (job["id"], job["name"], job["status"], job.get("phase") or "", _percent(job), result.get("model") or "")
            table.add_row(*(escape(str(cell)) for cell in row))
        out.print(table)


@app.command()
def watch(job_id: str, data: Data = None) -> None:
    """Follow a job to its end; Ctrl-C stops looking, not the job."""
    with _explained():
        raise typer.Exit(_watch(client(data), job_id))


@app.command()
def cancel(job_id: str, data: Data = None) -> None:
    """Stop a job; a running one ends within seconds."""
    with _explained():
        job = client(data).post(f"/v1/distillation/jobs/{job_id}/cancel", {})
        out.print(f"job [bold]{job['id']}[/] is {job['status']}")


def _watch(api: Client, job_id: str) -> int:
    from app.progress import follow

    return follow(api, job_id, out, err)


def _id() -> Column:
    return Column("id", no_wrap=True, min_width=31)  # a cut id is no use


def _percent(job: dict[str, Any]) -> str:
    percent = (job.get("progress") or {}).get("percent")
    return f"{percent:.0f} %" if isinstance(percent, int | float) else ""


# -- files, models, inference, keys ----------------------------------------------------------------------------------


def _upload(api: Client, path: Path) -> dict[str, Any]:
    """The file, its bad rows shown; whether they matter is the job's to say (`data.on_bad_row`)."""
    with err.status(f"uploading {path.name} …"):
        file = api.upload(path)
    report = api.get(f"/v1/files/{file['id']}/validation") if file["status"] != "uploaded" else {}
    if file["status"] == "error":
        problem = OperatorError(f"{path}: {report.get('invalid_rows', '?')} of {report.get('rows', '?')} rows are not valid.")
        _show(problem)
        for row in report.get("errors", [])[:20]:
            err.print(f"  [dim]line {row.get('line')} column {row.get('column')}[/] {escape(str(row.get('message')))}")
    rows = f", {report['rows']} rows" if "rows" in report else ""
    out.print(f"uploaded [bold]{path.name}[/] as {file['id']}{rows}")
    return file


@files_app.command("upload")
def files_upload(paths: list[Path], data: Data = None) -> None:
    """Upload data files and print their ids."""
    with _explained():
        api = client(data)
        for path in paths:
            if not path.is_file():
                raise OperatorError(f"There is no file {path}.")
        uploaded = [_upload(api, path) for path in paths]
        if any(file["status"] == "error" for file in uploaded):
            raise typer.Exit(1)


@files_app.command("list")
def files_list(limit: Annotated[int, typer.Option(min=1, max=100)] = 20, data: Data = None) -> None:
    """The newest data files."""
    with _explained():
        table = Table(_id(), "name", "bytes", "status", box=None, pad_edge=False)
        for file in client(data).get("/v1/files", limit=limit)["data"]:
            table.add_row(file["id"], escape(file["filename"]), f"{file['bytes']:,}", file["status"])
        out.print(table)


@models_app.callback()
def models(ctx: typer.Context, data: Data = None) -> None:
    """Models in the registry."""
    if ctx.invoked_subcommand:
        return
    with _explained():
        api = client(data)
        table = Table("model", "version", "aliases", "kind", "size", "quality", box=None, pad_edge=False)
        for model in api.get("/v1/registry/models", limit=100)["data"]:
            versions = api.get(f"/v1/registry/models/{model['name']}/versions", limit=100)["data"]
            for version in versions:
                quality = (version.get("quality") or {}).get("student")
                table.add_row(
                    escape(model["name"]),
                    str(version["version"]),
                    ", ".join(version.get("aliases") or []),
                    version["kind"],
                    f"{version['bytes'] / 1e6:.1f} MB",
                    f"{quality:.3f}" if isinstance(quality, float) else "",
                )
        out.print(table)


@models_app.command("import")
def models_import(
    name: Annotated[str, typer.Argument(help="Its name in the registry.")],
    package: Annotated[str | None, typer.Option(help="An installed package that carries the model.")] = None,
    path: Annotated[Path | None, typer.Option(help="A folder: config.json, safetensors weights, tokenizer files.")] = None,
    project: Annotated[str, typer.Option(help="The project that gets it.")] = "default",
    data: Data = None,
) -> None:
    """Put a model of this machine into the registry, directly into the installation's database and blob store."""
    with _explained():
        if (package is None) == (path is None):
            raise OperatorError("Say where the model is.", "Give either --package PACKAGE or --path DIR.")
        folder = package_model(package) if package else (path or Path())
        from app.services.registry import import_folder

        settings = settings_of(data)
        if not settings.database_url:
            settings = settings.model_copy(update={"data_dir": find_folder(settings.data_dir, anywhere=_anywhere(data, settings))})
        reference = import_folder(settings, name, folder, project=project, origin=package or folder.name)
        out.print(f"imported [bold]{escape(reference)}[/]")


@app.command()
def infer(
    model: Annotated[str, typer.Argument(help="name, name:version or name@alias")],
    text: Annotated[str, typer.Argument(help="The text; - reads it from standard input.")],
    top_k: Annotated[int, typer.Option("--top-k", min=1, max=100)] = 3,
    embed: Annotated[bool, typer.Option("--embed", help="The text's vector instead of its labels.")] = False,
    raw: Annotated[bool, typer.Option("--json", help="The server's answer as it is.")] = False,
    data: Data = None,
) -> None:
    """Ask a student."""
    with _explained():
        api = client(data)
        given = sys.stdin.read() if text == "-" else text
        if embed:
            answer = api.post("/v1/embeddings", {"model": model, "input": given, "encoding_format": "float"})
        else:
            answer = api.post("/v1/classify", {"model": model, "input": given, "top_k": top_k})
        if raw or embed:
            out.print(json.dumps(answer if raw else answer["data"][0]["embedding"]), soft_wrap=True, markup=False)
            return
        _show_answer(answer["data"][0])


def _show_answer(found: dict[str, Any]) -> None:
    """Labels by probability, entities in their order, or a number."""
    for score in found.get("scores", []):
        out.print(f"{score['score']:7.2%}  {escape(score['label'])}")
    for entity in found.get("entities", []):
        out.print(
            f"{entity['score']:7.2%}  {escape(entity['label'])}  {escape(entity['text'])}  ({entity['start']}-{entity['end']})"
        )
    if "scores" not in found and "entities" not in found:
        out.print(f"{found['score']:g}")


@keys_app.command("create")
def keys_create(
    name: Annotated[str, typer.Option(help="What it is for.")] = "cli",
    scope: Annotated[list[str] | None, typer.Option(help="May be given more than once; default: all that the caller has.")] = None,
    data: Data = None,
) -> None:
    """Make an API key; it is shown this once."""
    with _explained():
        key = client(data).post("/v1/api_keys", {"name": name, **({"scopes": scope} if scope else {})})
        out.print(f"{key['id']}  scopes: {', '.join(key.get('scopes', []))}")
        out.print(key["key"], markup=False)


if __name__ == "__main__":
    app()
