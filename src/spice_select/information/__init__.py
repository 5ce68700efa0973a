"""The mathematics of SPICE on tensors: no files, no models, nothing imported from the rest of the project."""

from spice_select.information.certificate import Certificate, guarantee_factor
from spice_select.information.chance import random_draws, subset_information
from spice_select.information.diagnostics import Theorem4, gram_features, half_life, theorem4
from spice_select.information.feature_selection import (
    FeatureSelection,
    choose_rows,
    select_from_features,
)
from spice_select.information.features import FeatureRows, PartOfFeatures, ScaledFeatures, TensorFeatures
from spice_select.information.limits import CostLimit, GroupLimit, Limit, RowLimit
from spice_select.information.objective import information, interaction_bound, random_information
from spice_select.information.principal import principal_directions, principal_gram, principal_rank, projected
from spice_select.information.scaling import Scale, gradient_scales, relative_alpha, scale_gram
from spice_select.information.selection import Selection, largest_norms, select_from_gram, select_in_order
from spice_select.information.survey import Survey, survey
from spice_select.information.validation import GramLike, SelectionInputError

__all__ = [
    "Certificate",
    "CostLimit",
    "FeatureRows",
    "FeatureSelection",
    "GramLike",
    "GroupLimit",
    "Limit",
    "PartOfFeatures",
    "RowLimit",
    "Scale",
    "ScaledFeatures",
    "Selection",
    "SelectionInputError",
    "Survey",
    "TensorFeatures",
    "Theorem4",
    "choose_rows",
    "gradient_scales",
    "gram_features",
    "guarantee_factor",
    "half_life",
    "information",
    "interaction_bound",
    "largest_norms",
    "principal_directions",
    "principal_gram",
    "principal_rank",
    "projected",
    "random_draws",
    "random_information",
    "relative_alpha",
    "scale_gram",
    "select_from_features",
    "select_from_gram",
    "select_in_order",
    "subset_information",
    "survey",
    "theorem4",
]
