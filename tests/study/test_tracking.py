"""What is in W&B's offline folder, read back record by record, is what was logged, and nothing else."""

import json
import os
import pickle
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
import numpy as np
import psutil
import pytest
import torch
import wandb
from avalanche.benchmarks import tensors_benchmark
from avalanche.evaluation.metric_results import AlternativeValues, MetricValue
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.logging import BaseLogger
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from PIL import Image
from torch import nn
from wandb.proto.wandb_internal_pb2 import Record
from wandb.sdk import wandb_setup

from study.tracking import Tracking, TrackingError, WandbLogger, check_tracking

KEY = "0123456789abcdef0123456789abcdef01234567"  # of the form of an API key
ACCURACY = [[0.9, 0.5, 0.5], [0.7, 0.875, 0.5], [0.6, 0.75, 1.0]]
ABOUT = {"run_id": "abc123", "name": "ewc, seed 3", "group": "digits", "job_type": "ewc"}
CONFIG = {"seed": 3, "scenario": "class", "protocol": {"training": {"epochs": 2, "lr": 1e-3}, "hidden": [400, 400]}}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home without account, and a process in which wandb was never used."""
    wandb.teardown()
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    yield tmp_path / "home"
    wandb.teardown()


@pytest.fixture
def tracking(tmp_path: Path) -> Tracking:
    return Tracking(folder=tmp_path / "tracked")


@pytest.fixture
def open_logger(tracking: Tracking) -> Callable[..., WandbLogger]:
    return lambda **changes: WandbLogger(tracking, config=CONFIG, **ABOUT | changes)


def after(logger: WandbLogger, *experiences: int, importance: dict[str, torch.Tensor] | None = None) -> None:
    for k in experiences:
        logger.after_experience(
            k,
            accuracy=ACCURACY[k],
            loss=[0.1 * k, 0.2, 0.3],
            training_loss=0.25,
            seconds={"training": 1.5 + k, "importance": 0.5},
            importance=importance,
        )


class Part:
    """One folder of a run as wandb will send it: its ``.wandb`` file is a log in the format of LevelDB's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (self.file,) = folder.glob("*.wandb")
        self.records = list(self._read(self.file.read_bytes()))
        (self.run,) = self._all("run")
        self.config = {u.key: json.loads(u.value_json) for u in self.run.config.update if u.key != "_wandb"}
        self.steps = [h.step.num or json.loads(self._items(h.item)["_step"]) for h in self._all("history")]
        self.rows = [self._values(h.item) for h in self._all("history")]
        self.summary = {k: v for s in self._all("summary") for k, v in self._values(s.update).items()}
        self.exit_codes = [e.exit_code for e in self._all("exit")]

    def media(self, kind: str) -> Path:
        (path,) = (self.folder / "files" / "media" / kind).iterdir()
        return path

    def _all(self, kind: str) -> list[Any]:
        return [getattr(record, kind) for record in self.records if record.WhichOneof("record_type") == kind]

    @staticmethod
    def _items(items: Any) -> dict[str, str]:
        return {".".join(item.nested_key) or item.key: item.value_json for item in items}

    def _values(self, items: Any) -> dict[str, Any]:
        return {k: json.loads(v) for k, v in self._items(items).items() if not k.startswith("_")}

    @staticmethod
    def _read(data: bytes) -> Iterator[Record]:
        block, header, (full, first, last) = 2**15, 7, (1, 2, 4)
        offset, record = len(b":W&B") + 3, b""
        while offset + header <= len(data):
            if block - offset % block < header:
                offset += block - offset % block
                continue
            length, kind = struct.unpack_from("<HB", data, offset + 4)
            chunk = data[offset + header : offset + header + length]
            record = chunk if kind in (full, first) else record + chunk
            if kind in (full, last):
                yield Record.FromString(record)
            offset += header + length


def parts(tracking: Tracking, run_id: str = "") -> list[Part]:
    wandb.teardown()  # the service may still be writing
    return [Part(folder) for folder in sorted((tracking.folder / "wandb").glob(f"offline-run-*-{run_id}*"))]


# ------------------------------------------------------------------------ what is there


def test_the_record_is_what_was_logged(tracking: Tracking, open_logger: Callable[..., WandbLogger]) -> None:
    logger = open_logger(tags=["a", "b"])
    after(logger, 0, 1, 2)
    logger.finish(outcome="finished", accuracy=ACCURACY, summary={"forgetting": 0.2125, "λ": 100.0})
    (part,) = parts(tracking)
    run = part.run
    assert (run.run_id, run.display_name, run.run_group, run.job_type) == tuple(ABOUT.values())
    assert (run.project, list(run.tags)) == ("clreg", ["a", "b"])
    assert part.config == CONFIG
    assert part.exit_codes == [0]
    assert part.rows[1] == {
        "experience": 1,
        "average_accuracy": (0.7 + 0.875) / 2,
        "training_loss": 0.25,
        **{f"accuracy/experience_{i}": value for i, value in enumerate(ACCURACY[1])},
        **{f"loss/experience_{i}": value for i, value in enumerate([0.1, 0.2, 0.3])},
        "seconds/training": 2.5,
        "seconds/importance": 0.5,
    }
    assert [row["experience"] for row in part.rows[:3]] == part.steps[:3] == [0, 1, 2]
    assert {"outcome": "finished", "forgetting": 0.2125, "λ": 100.0}.items() <= part.summary.items()
    assert part.summary["average_accuracy"] == pytest.approx((0.6 + 0.75 + 1.0) / 3)


def test_the_accuracy_matrix_is_a_table_and_a_picture(
    tracking: Tracking, open_logger: Callable[..., WandbLogger]
) -> None:
    logger = open_logger()
    after(logger, 0, 1, 2)
    logger.finish(outcome="finished", accuracy=ACCURACY, summary={})
    (part,) = parts(tracking)
    table = json.loads(part.media("table").read_text())
    assert table["columns"] == ["after experience", "experience 0", "experience 1", "experience 2"]
    assert table["data"] == [[k, *row] for k, row in enumerate(ACCURACY)]
    with Image.open(part.media("images")) as picture:
        pixels = np.asarray(picture.convert("L"))
    assert part.summary["accuracy_heat_map.path"] == f"media/images/{part.media('images').name}"
    # cells of 60 pixels from (80, 20) on; looked at beside the numbers that are written into them
    shades = [[int(pixels[30 + 60 * k, 90 + 60 * i]) for i in range(3)] for k in range(3)]
    assert np.array_equal(np.argsort(np.ravel(shades), kind="stable"), np.argsort(np.ravel(ACCURACY), kind="stable"))


def test_importance_is_described_by_parameter_and_in_total(
    tracking: Tracking, open_logger: Callable[..., WandbLogger]
) -> None:
    importance = {"a": torch.tensor([[0.0, 4.0], [1.0, 0.0]]), "b.bias": torch.arange(1.0, 7.0)}
    logger = open_logger()
    after(logger, 0)
    after(logger, 1, importance={**importance, "empty": torch.zeros(0)})
    logger.close()
    (part,) = parts(tracking)
    assert not [key for key in part.rows[0] if key.startswith("importance")], "a method without Ω"
    everything = np.concatenate([values.numpy().ravel() for values in importance.values()])
    for name, values in {
        "a": importance["a"].numpy(),
        "b.bias": importance["b.bias"].numpy(),
        "total": everything,
    }.items():
        expected = {
            "mean": values.mean(),
            "max": values.max(),
            "zeros": (values == 0).mean(),
            "median": np.quantile(values, 0.5),
            "quantile_90": np.quantile(values, 0.9),
            "quantile_99": np.quantile(values, 0.99),
        }
        found = {key: part.rows[1].get(f"importance/{name}/{key}") for key in expected}
        assert found == pytest.approx(expected, rel=1e-6), name
    assert sum(key.startswith("importance") for key in part.rows[1]) == 18


def test_quantiles_of_many_importances_come_from_a_sample(
    tracking: Tracking, open_logger: Callable[..., WandbLogger]
) -> None:
    logger = open_logger()
    after(logger, 0, importance={"a": torch.linspace(0, 1, 20_000_001)})  # more than torch's quantile takes
    logger.close()
    row = parts(tracking)[0].rows[0]
    assert row["importance/total/quantile_90"] == pytest.approx(0.9, abs=1e-4)
    assert row["importance/total/max"] == 1.0


# ------------------------------------------------------------------ interrupts, failures


def test_a_resumed_run_goes_on_at_the_next_step(tracking: Tracking, open_logger: Callable[..., WandbLogger]) -> None:
    logger = open_logger()
    after(logger, 0, 1)
    logger.close()
    logger = open_logger()
    after(logger, 2)
    logger.finish(outcome="finished", accuracy=ACCURACY, summary={})
    first, second = parts(tracking)
    assert first.run.run_id == second.run.run_id == "abc123"
    assert first.run.start_time.ToNanoseconds() < second.run.start_time.ToNanoseconds(), "wandb sync sorts by it"
    assert first.steps == [0, 1]
    assert second.steps[0] == second.rows[0]["experience"] == 2
    assert first.exit_codes == [255]
    assert second.exit_codes == [0]


def test_a_run_that_failed_is_shown_as_failed_and_leaves_its_next_row_free(
    tracking: Tracking, open_logger: Callable[..., WandbLogger]
) -> None:
    logger = open_logger()
    after(logger, 0)
    logger.finish(outcome="failed", accuracy=ACCURACY[:1], summary={"error": "out of memory"})
    open_logger(run_id="early").finish(outcome="failed", accuracy=[], summary={})
    part, early = sorted(parts(tracking), key=lambda part: part.run.run_id)
    assert part.exit_codes == early.exit_codes == [1]
    assert part.steps == [0]
    assert part.summary["outcome"] == "failed"
    assert part.summary["error"] == "out of memory"
    assert json.loads(part.media("table").read_text())["data"] == [[0, *ACCURACY[0]]]
    assert early.rows == []


def test_a_dead_service_is_one_warning_and_the_next_run_is_tracked(
    tracking: Tracking, open_logger: Callable[..., WandbLogger]
) -> None:
    logger = open_logger()
    after(logger, 0)
    service = wandb_setup.singleton().ensure_service()._proc._process
    service.kill()
    service.wait(5)
    time.sleep(0.1)  # until the connection is seen to be broken
    with pytest.warns(RuntimeWarning, match="W&B failed, the run goes on without"):
        after(logger, 1)
    after(logger, 2)
    logger.finish(outcome="finished", accuracy=ACCURACY, summary={})
    logger = open_logger(run_id="next")
    after(logger, 0, 1, 2)
    logger.finish(outcome="finished", accuracy=ACCURACY, summary={})
    assert [row["experience"] for row in parts(tracking, "next")[0].rows[:3]] == [0, 1, 2]


def test_a_run_that_cannot_be_opened_is_one_warning(open_logger: Callable[..., WandbLogger]) -> None:
    with pytest.warns(RuntimeWarning, match="W&B failed"):
        logger = open_logger(run_id="no/slashes")
    after(logger, 0)
    logger.finish(outcome="finished", accuracy=ACCURACY, summary={})


def test_an_interrupt_is_not_swallowed(open_logger: Callable[..., WandbLogger], monkeypatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    logger = open_logger()
    monkeypatch.setattr(wandb.Run, "log", interrupted)
    with pytest.raises(KeyboardInterrupt):
        after(logger, 0)
    logger.close()


# ---------------------------------------------------------------------------- Avalanche


def strategy_with(*loggers: WandbLogger) -> tuple[Naive, Any]:
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(8, 4, generator=generator), torch.arange(8) % 2) for _ in range(2)]
    benchmark = tensors_benchmark(train_tensors=data, test_tensors=data, task_labels=[0, 0])
    model = nn.Linear(4, 2)
    evaluator = EvaluationPlugin(
        accuracy_metrics(minibatch=True, experience=True, stream=True), loss_metrics(stream=True), loggers=[*loggers]
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Naive(model=model, optimizer=optimizer, train_mb_size=4, evaluator=evaluator), benchmark


METRICS = [
    "Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp000",
    "Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp001",
    "Top1_Acc_Stream/eval_phase/test_stream/Task000",
    "Loss_Stream/eval_phase/test_stream/Task000",
]


@pytest.mark.parametrize("study", [True, False], ids=["with the study's rows", "by itself"])
def test_avalanches_metrics_are_in_the_row_of_their_experience(
    tracking: Tracking, open_logger: Callable[..., WandbLogger], study: bool
) -> None:
    logger = open_logger()
    assert isinstance(logger, BaseLogger)
    strategy, benchmark = strategy_with(logger)
    strategy.eval(benchmark.test_stream)  # of the untrained model; it has no row
    metrics = []
    for k, experience in enumerate(benchmark.train_stream):
        strategy.train(experience, eval_streams=[])
        metrics.append(strategy.eval(benchmark.test_stream))
        if study:
            after(logger, k)
    logger.close()
    (part,) = parts(tracking)
    assert part.steps == [0, 1]
    for k, row in enumerate(part.rows):
        assert row["experience"] == k
        assert {name: row[name] for name in METRICS} == pytest.approx({name: metrics[k][name] for name in METRICS})
        assert "Top1_Acc_MB/train_phase/train_stream/Task000" in row
        assert ("average_accuracy" in row) == study


def test_numbers_of_every_type_are_logged_and_pictures_are_not(
    tracking: Tracking, open_logger: Callable[..., WandbLogger]
) -> None:
    values = {
        "int": 1,
        "float": 2.5,
        "numpy": np.float32(3.5),
        "tensor": torch.tensor(4.5),
        "picture": Image.new("L", (2, 2)),
        "alternatives": AlternativeValues(Image.new("L", (2, 2)), torch.zeros(2, 2)),
        "matrix": torch.zeros(2, 2),
        "weights": b"...",
        "by class": {"0": 0.25, "1": 0.75},
    }
    logger = open_logger()
    logger.log_metrics([MetricValue(None, name, value, x_plot=17) for name, value in values.items()])
    after(logger, 0)
    logger.close()
    (part,) = parts(tracking)
    logged = {key: value for key, value in part.rows[0].items() if key.split("/")[0] in values}
    assert logged == {"int": 1, "float": 2.5, "numpy": 3.5, "tensor": 4.5, "by class/0": 0.25, "by class/1": 0.75}


# ------------------------------------------------------------------------------- checks


def test_disabled_writes_nothing_and_needs_no_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # its import would fail
    tracking = Tracking("disabled", folder=tmp_path / "tracked")
    check_tracking(tracking)
    logger = WandbLogger(tracking, config=CONFIG, **ABOUT)
    logger.log_single_metric("accuracy", 0.5, 0)
    logger.before_training_exp(SimpleNamespace(experience=SimpleNamespace(current_experience=0)), [])
    after(logger, 0)
    logger.finish(outcome="finished", accuracy=ACCURACY, summary={})
    logger.close()
    assert not tracking.folder.exists()
    assert pickle.loads(pickle.dumps(tracking)) == tracking


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError(f"a connection to {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.usefixtures("no_network")
def test_online_without_a_key_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    online = Tracking("online", folder=tmp_path / "tracked")
    with pytest.raises(TrackingError, match=r"no API key.*`wandb login`.*WANDB_API_KEY.*--wandb offline.*`wandb sync`"):
        check_tracking(online)
    monkeypatch.setenv("WANDB_API_KEY", "too short")
    with pytest.raises(TrackingError, match=r"API key is not valid.*`wandb login`"):
        check_tracking(online)
    check_tracking(Tracking("offline", folder=tmp_path / "tracked"))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("place", ["variable", "netrc", "settings"])
def test_online_with_a_key_is_fine(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    if place == "variable":
        monkeypatch.setenv("WANDB_API_KEY", KEY)
    elif place == "netrc":
        monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
        (home / ".netrc").write_text(f"machine wandb.example.org\n  login user\n  password {KEY}\n")
    else:
        (home / ".config" / "wandb").mkdir(parents=True)
        (home / ".config" / "wandb" / "settings").write_text(f"[default]\napi_key = {KEY}\n")
    check_tracking(Tracking("online", folder=tmp_path / "tracked"))


def test_a_folder_that_cannot_be_written_to_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for mode in ("offline", "online"):
        with pytest.raises(TrackingError, match=re.escape(str(tmp_path / "file" / "tracked")) + ".*cannot be written"):
            check_tracking(Tracking(mode, folder=tmp_path / "file" / "tracked"))


# --------------------------------------------------------------- a process and its wandb


PROGRAM = f"""
import os, signal, sys
from pathlib import Path
from study.tracking import Tracking, WandbLogger, check_tracking

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
