"""What quality means: measures of a network on samples, by name or of the user's own.

| file       | what it does                                                                               |
|------------|--------------------------------------------------------------------------------------------|
| `protocol` | what a metric is given (a predictor, samples) and what it returns                          |
| `registry` | the metrics that have a name                                                               |
| `user`     | functions of the user's as metrics, with clear errors                                       |
| `scores`   | checks what a metric returns                                                               |
| `predictor`| a network as metrics see it                                                                |
| `classes`  | `top1` and `top5`                                                                          |
| `detection`, `average_precision`, `detections/` | `map`: boxes, in the layouts that detectors use       |
| `segmentation` | `miou`                                                                                 |
| `reading`, `ctc` | `cer`                                                                                |
| `embedding` | `cosine` and `recall1`                                                                    |
| `labels/`  | COCO files, masks and tables of texts beside the images                                    |
"""

from onnx_lowrank.metrics.protocol import (
    Measured,
    Metric,
    MetricFunction,
    MetricSamples,
    Placement,
    Predictor,
    PreparedMetric,
    Resampled,
)
from onnx_lowrank.metrics.registry import METRIC_NAMES, as_metric, metric_named

__all__ = [
    "METRIC_NAMES",
    "Measured",
    "Metric",
    "MetricFunction",
    "MetricSamples",
    "Placement",
    "Predictor",
    "PreparedMetric",
    "Resampled",
    "as_metric",
    "metric_named",
]
