"""Choose the part of an instruction pool worth fine-tuning on: gradient information with a conflict penalty (SPICE).

from spice_select import select
result = select("pool.jsonl", budget="10%", output="chosen")
"""

from spice_select.api import RunResult, select
from spice_select.config import RunConfig
from spice_select.errors import SpiceSelectError
from spice_select.information import Selection, select_from_gram
from spice_select.output.trainers import training_dataset

__all__ = ["RunConfig", "RunResult", "Selection", "SpiceSelectError", "select", "select_from_gram", "training_dataset"]
