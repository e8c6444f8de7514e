"""The layers on which every backend is compared with the reference."""

from ruledsl.verification.geometries import *  # noqa: F403
