"""Samples in, a result dataclass out: how sure a mean is, which method is better, whether a published number holds.

All numbers of one call have the caller's unit. Resampling has a fixed seed: equal input gives equal output.
"""

from study.statistics.families import FamilyComparison, family, family_pairs
from study.statistics.paired import EXACT_UP_TO, PairedComparison, compare_paired
from study.statistics.power import detectable_difference, fewest_pairs
from study.statistics.published import FEWEST_JUDGED, PublishedComparison, compare_with_published
from study.statistics.ranks import FriedmanResult, friedman
from study.statistics.summary import Summary, summarize

__all__ = [
    "EXACT_UP_TO",
    "FEWEST_JUDGED",
    "FamilyComparison",
    "FriedmanResult",
    "PairedComparison",
    "PublishedComparison",
    "Summary",
    "compare_paired",
    "compare_with_published",
    "detectable_difference",
    "family",
    "family_pairs",
    "fewest_pairs",
    "friedman",
    "summarize",
]
