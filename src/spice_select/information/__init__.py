"""The mathematics of SPICE on tensors: no files, no models, nothing imported from the rest of the project.

What is imported here is what the rest of the project uses.
"""

# pyright: reportUnusedImport=false

from spice_select.information.checks import SelectionInputError
from spice_select.information.choosing import choose_rows
from spice_select.information.coverage import Coverage
from spice_select.information.diagnostics import Theorem4, half_life, theorem4
from spice_select.information.features import FeatureRows, PartOfFeatures, ScaledFeatures, TensorFeatures
from spice_select.information.for_target import TargetedPool, choose_for_target, targeted
from spice_select.information.from_features import select_from_features
from spice_select.information.from_gram import TargetBlocks, select_from_gram, select_in_order, targeted_gram
from spice_select.information.gram import (
    Gram,
    Scale,
    gradient_scales,
    gram_features,
    largest_norms,
    principal_gram,
    principal_rank,
    relative_alpha,
    scale_gram,
)
from spice_select.information.limits import CostLimit, GroupLimit, Limit, RowLimit
from spice_select.information.moments import Moments, moments_of, principal_directions, projected, second_moment
from spice_select.information.objective import information, random_draws, random_information, subset_information
from spice_select.information.selection import Selection
from spice_select.information.target import CheckedTarget, Rule, Target, read_target
