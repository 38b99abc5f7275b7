"""All seeded faults."""

from __future__ import annotations

from host import (
    mutants_activation,
    mutants_channel_statistics,
    mutants_dists,
    mutants_gram,
    mutants_lpips,
    mutants_pointwise,
)

ROOMS = (mutants_activation, mutants_channel_statistics, mutants_dists, mutants_gram, mutants_lpips, mutants_pointwise)
MUTANTS = [mutant for room in ROOMS for mutant in room.MUTANTS]
