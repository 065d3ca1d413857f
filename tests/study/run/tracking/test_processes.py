"""What a process of its own leaves behind, sends, and syncs."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
import psutil
import pytest
import wandb

from study.run.tracking import Tracking, WandbLogger
from tests.study.run.tracking.offline import ABOUT, ACCURACY, CONFIG, KEY, after, parts

PROGRAM = f"""
import os, signal, sys
from pathlib import Path
from study.run.tracking import Tracking, WandbLogger, check_tracking

for module in ("torch", "avalanche", "wandb"):
    assert module not in sys.modules, module
hooks = sys.exit, sys.excepthook
handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
tracking = Tracking(folder=Path(sys.argv[1]))
check_tracking(tracking)
logger = WandbLogger(tracking, config={CONFIG!r}, **{ABOUT!r})
print("printed by the program")
for k, accuracy in enumerate({ACCURACY!r}):
    logger.after_experience(k, accuracy=accuracy, loss=accuracy, training_loss=1, seconds={{}}, importance=None)
assert hooks == (sys.exit, sys.excepthook)
assert handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
if sys.argv[2] == "killed":
    import time
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)
logger.finish(outcome="finished", accuracy={ACCURACY!r}, summary={{}})
"""


def run_program(tracking: Tracking, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tracking.folder), *arguments],
        env={**os.environ, "MPLCONFIGDIR": mpl.get_cachedir(), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def server() -> Iterator[SimpleNamespace]:
    """As much of W&B's server as a sync needs: it keeps the histories that it is sent."""
    state = SimpleNamespace(requests=[], history=[])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            state.requests.append(self.path)
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            answer: dict[str, Any] = {}
            if self.path == "/graphql":
                answer = {"data": self.graphql(json.loads(body))}
            elif self.path.endswith("/file_stream"):
                for name, chunk in (json.loads(body).get("files") or {}).items():
                    if name == "wandb-history.jsonl":
                        state.history[chunk["offset"] :] = [json.loads(line) for line in chunk["content"]]
            text = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_PUT = do_POST

        def graphql(self, request: dict[str, Any]) -> dict[str, Any]:
            variables = request.get("variables", {})
            project = {"id": "p", "name": "clreg", "entity": {"id": "e", "name": "someone"}}
            bucket = {"id": "b", "name": variables.get("name"), "displayName": "", "project": project, "config": "{}"}
            bucket |= {"historyLineCount": len(state.history), "logLineCount": 0, "eventsLineCount": 0, "tags": []}
            bucket |= {"historyTail": json.dumps([json.dumps(row) for row in state.history[-1:]]), "eventsTail": "[]"}
            bucket |= {"summaryMetrics": "{}", "wandbConfig": '{"t": 1}'}
            if "query RunResumeStatus" in request["query"]:
                return {"model": {**project, "bucket": bucket if state.history else None}}
            if "mutation UpsertBucket" in request["query"]:
                return {"upsertBucket": {"bucket": bucket, "inserted": not state.history}}
            if "mutation CreateRunFiles" in request["query"]:
                files = [{"name": name, "uploadUrl": f"{state.url}/{name}"} for name in variables["files"]]
                return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
            return {}

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state.url = f"http://127.0.0.1:{http.server_port}"
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield state
        http.shutdown()


SECRETS = {"WANDB_API_KEY": KEY, "OTHER_TOKEN": "s3cr3t-of-another-service"}


def assert_nothing_leaked(tracking: Tracking) -> None:
    files = [path for path in tracking.folder.rglob("*") if path.is_file()]
    assert len(files) >= 5
    for path in files:
        for secret in [KEY, "s3cr3t", "printed by the program"]:
            assert secret.encode() not in path.read_bytes(), f"{secret} in {path}"
    (part,) = parts(tracking)
    assert [path.name for path in (part.folder / "files").iterdir()] == ["media"], "no metadata, requirements, code"


def test_secrets_are_in_no_file(
    tracking: Tracking,
    open_logger: Callable[..., WandbLogger],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["program", "--token=s3cr3t-on-the-command-line"])
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    logger = open_logger()
    print("printed by the program")
    after(logger, 0, 1, 2)
    logger.finish(outcome="finished", accuracy=ACCURACY, summary={})
    wandb.teardown()
    assert capfd.readouterr() == ("printed by the program\n", "")
    assert_nothing_leaked(tracking)


@pytest.mark.slow
def test_an_offline_process_sends_nothing_and_writes_nowhere_else(
    tracking: Tracking, home: Path, server: SimpleNamespace
) -> None:
    result = run_program(tracking, "--token=s3cr3t-on-the-command-line", WANDB_BASE_URL=server.url, **SECRETS)
    assert result.returncode == 0, result.stderr
    assert (result.stdout, result.stderr) == ("printed by the program\n", "")
    assert server.requests == []
    assert [path.name for path in home.iterdir()] in ([], [".avalanche"])
    assert_nothing_leaked(tracking)
    assert [row["experience"] for row in parts(tracking)[0].rows[:3]] == [0, 1, 2]


@pytest.mark.slow
def test_a_killed_process_keeps_its_rows_and_takes_the_service_along(tracking: Tracking) -> None:
    before = {process.pid for process in psutil.process_iter() if process.name() == "wandb-core"}
    assert run_program(tracking, "killed").returncode == -signal.SIGKILL
    (part,) = parts(tracking)
    assert [row["experience"] for row in part.rows] == [0, 1, 2]
    assert part.exit_codes == []
    new = [process for process in psutil.process_iter() if process.name() == "wandb-core" and process.pid not in before]
    _, alive = psutil.wait_procs(new, timeout=10)
    assert alive == []


@pytest.mark.slow
def test_a_killed_run_goes_on_where_a_parent_uses_wandb(tracking: Tracking, tmp_path: Path) -> None:
    """The environment names the parent's service, which outlives the killed process and its run."""
    with wandb.init(mode="offline", dir=tmp_path, reinit="create_new"):
        assert os.environ["WANDB_SERVICE"]
        run_program(tracking, "killed")
        resumed = run_program(tracking, "finished")
    assert "W&B failed" not in resumed.stderr
    assert [part.exit_codes for part in parts(tracking)] == [[], [0]]


@pytest.mark.slow
def test_wandb_sync_joins_the_parts_of_a_resumed_run(
    tracking: Tracking, open_logger: Callable[..., WandbLogger], server: SimpleNamespace
) -> None:
    logger = open_logger()
    after(logger, 0, 1)
    logger.close()
    logger = open_logger()
    after(logger, 2)
    logger.close()
    wandb.teardown()
    result = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", "--yes"],
        cwd=tracking.folder,
        env={**os.environ, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "WANDB_ERROR_REPORTING": "false"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    rows = [(row["_step"], row["experience"], row["average_accuracy"]) for row in server.history[:3]]
    assert rows == [(k, k, pytest.approx(sum(ACCURACY[k][: k + 1]) / (k + 1))) for k in range(3)], result.stderr
