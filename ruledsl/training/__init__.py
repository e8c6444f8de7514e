"""Training: `train(read_config(settings=["rule=kolen_pollack", "data.name=mnist"]))`."""

from ruledsl.training.config import Config
from ruledsl.training.loop import Epoch, Listener
from ruledsl.training.outcome import Interrupted, Run, TrainingDiverged
from ruledsl.training.settings import read_config
from ruledsl.training.train import resume, train

__all__ = ["Config", "Epoch", "Interrupted", "Listener", "Run", "TrainingDiverged", "read_config", "resume", "train"]
