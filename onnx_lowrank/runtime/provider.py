"""Where sessions run, and how."""

from __future__ import annotations

from dataclasses import dataclass

NAMES = {  # ours, onnxruntime's
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
CPU_BATCH, GPU_BATCH = 400_000, 4_000_000  # input numbers: what fits a CPU's caches, what keeps a GPU busy
_FEW_RUNS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}


@dataclass(frozen=True)
class Provider:
    """Where sessions run.

    Attributes:
        name: ``cpu``, ``cuda`` or ``tensorrt``.
        threads: threads within an operator; 0 lets onnxruntime decide.
    """

    name: str = "cpu"
    threads: int = 0

    def chain(self, *, deployed: bool) -> list[tuple[str, dict[str, str]]]:
        """onnxruntime's provider names, the preferred one first, CPU last; each with its options.

        Args:
            deployed: as a user runs it. Otherwise as suits a network that is looked at and runs a few times: products
                in whole float32, no algorithms timed against each other, no engines built.
        """
        names = {"cpu": [], "cuda": ["cuda"], "tensorrt": ["tensorrt", "cuda"] if deployed else ["cuda"]}[self.name]
        options = {} if deployed else _FEW_RUNS
        return [(NAMES[name], options if name == "cuda" else {}) for name in (*names, "cpu")]

    @property
    def batch_elements(self) -> int:
        """Input numbers in a forward batch: larger ones take memory and are no faster."""
        return CPU_BATCH if self.name == "cpu" else GPU_BATCH

    @property
    def memory(self) -> str:
        """onnxruntime's name of the memory it works in."""
        return "cpu" if self.name == "cpu" else "cuda"
