"""When an origin experience of an online stream ends."""

from typing import Any

from avalanche.benchmarks import OnlineCLExperience


class OnlineStream:
    """Follows the experiences that an online stream splits into parts.

    ``is_last_subexp`` stays False where the size of the parts divides the experience, so parts are counted.

    Attributes:
        origin: the experience whose parts are being trained on; None outside of one, or where the state of a run that
            stopped within one was loaded.
        index: its number in its stream.
        parts_seen: how many of its parts were trained on; 0 outside of one.
    """

    def __init__(self) -> None:
        self.origin: Any = None
        self.index: int | None = None
        self.parts_seen = 0

    def left_by(self, experience: Any) -> Any:
        """The origin experience that training leaves unfinished by going on to another experience; None if it does not.

        Raises:
            RuntimeError: a resumed run leaves the origin experience in which it stopped, whose data it does not have.
        """
        origin = origin_of(experience)
        index = None if origin is None else origin.current_experience
        if not self.parts_seen or index == self.index:
            return None
        if self.origin is None:
            raise RuntimeError(
                f"training was resumed in the middle of origin experience {self.index}, but goes on with "
                f"{'another experience' if index is None else f'origin experience {index}'}; go on with the rest of "
                f"{self.index}, or call consolidate(strategy, data) first"
            )
        return self.origin

    def enter(self, experience: Any) -> None:
        """Note the origin of the experience to be trained on."""
        origin = origin_of(experience)
        index = None if origin is None else origin.current_experience
        if index != self.index:
            self.parts_seen = 0
        self.origin, self.index = origin, index

    def end_part(self, experience: Any) -> Any:
        """Count a part; the origin experience if it was its last one, else None."""
        self.parts_seen += 1
        with experience.no_attribute_masking():
            parts = experience.sub_stream_length
        return self.origin if self.parts_seen == parts else None

    def end(self) -> None:
        """The origin experience is consolidated."""
        self.origin, self.parts_seen = None, 0

    def resume(self, index: int | None, parts_seen: int) -> None:
        """Continue in the middle of an origin experience, unless it is the current one."""
        if parts_seen and index != self.index:
            self.origin, self.index = None, index
        self.parts_seen = parts_seen

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "origin": None}  # it would drag its dataset along


def origin_of(experience: Any) -> Any:
    """The experience that an online experience is a part of; None for any other, or where there is none."""
    if not isinstance(experience, OnlineCLExperience):
        return None
    with experience.no_attribute_masking():
        return experience.origin_experience
