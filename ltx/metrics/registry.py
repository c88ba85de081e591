"""All protocols by name.

To add a family of metrics, add one file to this folder and one line to `PROTOCOLS`.
"""

from ltx.metrics.information import InformationProtocol
from ltx.metrics.localisation import LocalisationProtocol
from ltx.metrics.ltx_protocol import LtxProtocol
from ltx.metrics.mosaic import MosaicProtocol
from ltx.metrics.per_image import PerImageMetric
from ltx.metrics.protocol import Batch, Protocol, Settings
from ltx.metrics.sensitivity import SensitivityProtocol
from ltx.metrics.stability import StabilityProtocol
from ltx.metrics.standard import StandardProtocol
from ltx.metrics.transfer import TransferProtocol

PROTOCOLS: dict[str, type[Protocol]] = {
    "ltx": LtxProtocol,
    "standard": StandardProtocol,
    "information": InformationProtocol,
    "localisation": LocalisationProtocol,
    "mosaic": MosaicProtocol,
    "sensitivity": SensitivityProtocol,
    "stability": StabilityProtocol,
    "transfer": TransferProtocol,
}

__all__ = ["PROTOCOLS", "Batch", "PerImageMetric", "Protocol", "Settings"]
