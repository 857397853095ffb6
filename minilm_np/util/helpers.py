"""Small helpers of sentence_transformers.util: logging beside progress bars, and batches on a device."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class LoggingHandler(logging.Handler):
    """Print log records without breaking a progress bar of tqdm.

    Examples
    --------
    >>> import logging
    >>> from minilm_np import LoggingHandler
    >>> logger = logging.Logger("example")
    >>> logger.addHandler(LoggingHandler())
    >>> logger.warning("%d texts", 3)
    3 texts
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record's message."""
        from tqdm import tqdm

        try:
            tqdm.write(self.format(record))
            self.flush()
        except Exception:
            self.handleError(record)


@contextmanager
def disable_logging(highest_level: int = logging.CRITICAL) -> Iterator[None]:
    """Drop log records of `highest_level` and below, of every logger, within a `with` block.

    Examples
    --------
    >>> import logging
    >>> from minilm_np import util
    >>> with util.disable_logging():
    ...     logging.getLogger().isEnabledFor(logging.ERROR)
    False
    """
    before = logging.root.manager.disable
    logging.disable(highest_level)
    try:
        yield
    finally:
        logging.disable(before)


def batch_to_device(batch: dict[str, Any], target_device: Any) -> dict[str, Any]:
    """Move the Tensors of a batch to a device, in place, and return the batch.

    Other values stay as they are. An array is on the CPU: for another device, it raises ValueError.

    Examples
    --------
    >>> from minilm_np import util
    >>> util.batch_to_device({"input_ids": [101, 102], "modality": "text"}, "cpu")
    {'input_ids': [101, 102], 'modality': 'text'}
    """
    for name, value in batch.items():
        if hasattr(value, "detach") and hasattr(value, "to"):
            batch[name] = value.to(target_device)
        elif hasattr(value, "__array__") and str(target_device) != "cpu":
            raise ValueError(f"target_device: expected 'cpu' for the array {name!r}, got {str(target_device)!r}")
    return batch
