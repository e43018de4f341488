"""A device's memory: how much is held, the highest, and less of it than there is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness import GB, memory


class DeviceMemory:
    """Highest and held memory of a device in GB: torch's allocations there, or what is resident
    where the device is the CPU."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.cuda = device.type == "cuda"

    def reset(self) -> None:
        """Begin a new peak (a process cannot take its own back)."""
        if self.cuda:
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)

    def read(self) -> dict[str, float]:
        """`held_gb` and `peak_gb`."""
        if not self.cuda:
            found = memory()
            return {"held_gb": found["rss"], "peak_gb": found["peak_rss"]}
        import torch

        return {
            "held_gb": torch.cuda.memory_allocated(self.device) / GB,
            "peak_gb": torch.cuda.max_memory_allocated(self.device) / GB,
        }

    @contextmanager
    def limited(self, running: Any, tokens: int) -> Iterator[None]:
        """Memory for half of the states of a batch and not for all of them: a limit of torch's for
        a card; for a processor, batches beyond it fail as a card's do."""
        import torch

        if not self.cuda:
            whole = running._embed_pieces

            def small(texts: Any, beginning: Any) -> Any:
                if len(texts) * max(len(text.ids) for text in texts) > tokens // 2:
                    raise torch.OutOfMemoryError("CUDA out of memory (forced)")
                return whole(texts, beginning)

            running._embed_pieces = small
            try:
                yield
            finally:
                del running._embed_pieces
            return
        torch.cuda.empty_cache()
        held = torch.cuda.memory_allocated(self.device)
        states = torch.cuda.max_memory_allocated(self.device) - held
        total = torch.cuda.get_device_properties(self.device).total_memory
        torch.cuda.set_per_process_memory_fraction((held + 0.6 * states) / total, self.device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, self.device)


def name_of(device: Any) -> str:
    """What the device is."""
    if device.type == "cpu":
        return "CPU"
    import torch

    return str(torch.cuda.get_device_name(device))
