"""W&B's offline folder, read back record by record."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from study.run.tracking import Tracking, WandbLogger

KEY = "0123456789abcdef0123456789abcdef01234567"  # of the form of an API key
ACCURACY = [[0.9, 0.5, 0.5], [0.7, 0.875, 0.5], [0.6, 0.75, 1.0]]
ABOUT = {"run_id": "abc123", "name": "ewc, seed 3", "group": "digits", "job_type": "ewc"}
CONFIG = {"seed": 3, "scenario": "class", "protocol": {"training": {"epochs": 2, "lr": 1e-3}, "hidden": [400, 400]}}


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
