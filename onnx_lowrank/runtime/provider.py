"""The execution provider of onnxruntime that sessions run on, and its options."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_lowrank.runtime.plugin import Plugin

EXECUTION_PROVIDERS = {  # onnxruntime's name by ours
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
# Numbers in a batch of inputs: as many as fit a CPU's caches, as many as keep a GPU busy.
CPU_BATCH_ELEMENTS, GPU_BATCH_ELEMENTS = 400_000, 4_000_000
_CUDA_OPTIONS_FOR_FEW_RUNS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}


@dataclass(frozen=True)
class Provider:
    """Where sessions run.

    Attributes:
        name: ``cpu``, ``cuda`` or ``tensorrt``; for a plugin what the user calls it.
        threads: threads within an operator; 0 lets onnxruntime decide.
        plugin: the provider of a library of its own, which takes the place of the others; None for those that
            onnxruntime brings.
    """

    name: str = "cpu"
    threads: int = 0
    plugin: Plugin | None = None

    @property
    def label(self) -> str:
        """The name, and the version where that is not onnxruntime's own."""
        return f"{self.name} {self.plugin.version}".strip() if self.plugin else self.name

    @property
    def on_cpu(self) -> bool:
        """Whether it runs on the CPU."""
        return self.plugin.kind == "cpu" if self.plugin else self.name == "cpu"

    @property
    def kernels(self) -> str:
        """Whose kernels run, ``cpu`` or ``cuda``: any GPU counts as ``cuda``, also a plugin's."""
        return "cpu" if self.on_cpu else "cuda"

    def chain(self, *, deployed: bool) -> list[tuple[str, dict[str, str]]]:
        """Return onnxruntime's provider names, the preferred one first, CPU last; each with its options.

        Without a plugin, which a session gets by its device.

        Args:
            deployed: as a user runs a network. Otherwise as suits one that runs a few times: products in full float32
                instead of TF32, no search for the fastest algorithms, no engines built.
        """
        own = "cpu" if self.plugin else self.name
        names = {"cpu": [], "cuda": ["cuda"], "tensorrt": ["tensorrt", "cuda"] if deployed else ["cuda"]}[own]
        options = {} if deployed else _CUDA_OPTIONS_FOR_FEW_RUNS
        return [(EXECUTION_PROVIDERS[name], options if name == "cuda" else {}) for name in (*names, "cpu")]

    @property
    def batch_elements(self) -> int:
        """Numbers in the inputs of a forward batch: larger batches take more memory and are no faster."""
        return CPU_BATCH_ELEMENTS if self.memory == "cpu" else GPU_BATCH_ELEMENTS

    @property
    def memory(self) -> str:
        """onnxruntime's name of the memory that tensors are in; a plugin copies them to its own by itself."""
        return "cpu" if self.plugin or self.name == "cpu" else "cuda"
