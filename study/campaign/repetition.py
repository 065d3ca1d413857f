"""Recorded runs performed again, to check that they give the same numbers."""

from dataclasses import dataclass

from study.campaign.one_run import perform_and_record
from study.records.run_record import RunRecord
from study.run.run_environment import RunEnvironment


@dataclass(frozen=True)
class Repetition:
    """A record, and the record of the same run performed again."""

    before: RunRecord
    now: RunRecord

    @property
    def same(self) -> bool:
        """Whether outcome, accuracies and losses are equal to the last bit."""
        return (self.before.outcome, self.before.accuracy, self.before.loss) == (
            self.now.outcome,
            self.now.accuracy,
            self.now.loss,
        )

    @property
    def largest_difference(self) -> float:
        """Of any accuracy, in percentage points; NaN if the numbers of experiences differ."""
        entries = [[value for row in record.accuracy for value in row] for record in (self.before, self.now)]
        if len(entries[0]) != len(entries[1]) or not entries[0]:
            return float("nan")
        return 100 * max(abs(a - b) for a, b in zip(*entries, strict=True))

    @property
    def changed_environment(self) -> list[str]:
        """Versions, machine and code that differ and may change the last bits."""
        found = [
            f"{package} {version}, now {self.now.versions.get(package)}"
            for package, version in self.before.versions.items()
            if version != self.now.versions.get(package)
        ]
        if self.before.hardware != self.now.hardware:
            found.append(f"{_machine(self.before)}, now {_machine(self.now)}")
        if self.before.commit != self.now.commit:
            found.append(f"code {self.before.commit}, now {self.now.commit}")
        return found


def _machine(record: RunRecord) -> str:
    hardware = record.hardware
    return " ".join(filter(None, (hardware.processor, hardware.system, hardware.gpu)))


def perform_again(record: RunRecord, environment: RunEnvironment) -> Repetition:
    """Perform a recorded run again from its start, without storing the result."""
    return Repetition(record, perform_and_record(record.run, environment))
