"""TensorBoard's event files, written in the thread that calls.

The library's own writer does it in a thread that dies of a full disk, after which the run would wait for it forever.
"""

import time
from pathlib import Path

import numpy as np
from jaxtyping import UInt8


class EventFile:
    """An event file of TensorBoard in a directory."""

    def __init__(self, directory: Path, *, resume_step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        self._make, self._session = event_pb2.Event, event_pb2.SessionLog
        self._writer = EventsWriter(str(directory / "events"))
        if resume_step:
            self.rewind(resume_step)
        self._writer.flush()

    def rewind(self, step: int) -> None:
        """Ends the curves of an earlier process, or of this one, after a step.

        Raises:
          OSError: if that cannot be written.
        """
        started = self._session(status=self._session.START)
        self._writer.write_event(self._make(step=step + 1, session_log=started, wall_time=time.time()))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Records numbers.

        Raises:
          OSError: if they cannot be written.
        """
        from tensorboardX import summary

        for name, value in values.items():
            self._write(step, summary.scalar(name, value))
        self._writer.flush()

    def image(self, name: str, step: int, image: UInt8[np.ndarray, "h w c"]) -> None:
        """Records a picture.

        Raises:
          OSError: if it cannot be written.
        """
        from tensorboardX import summary

        self._write(step, summary.image(name, image, dataformats="HWC"))
        self._writer.flush()

    def close(self) -> None:
        """Ends the file.

        Raises:
          OSError: if what is left cannot be written.
        """
        self._writer.close()

    def _write(self, step: int, content: object) -> None:
        self._writer.write_event(self._make(step=step, summary=content, wall_time=time.time()))
