"""The optimisers of the energy as parameters of tests."""

import pytest

from ferminet_core.vmc.optimisers.choice import OPTIMISERS

# All but KFAC, whose tests also set its period of inversions. Adam's one step is optax's, so the
# quick tests leave it out.
OTHER_OPTIMISERS = [
    pytest.param(name, marks=pytest.mark.campaign if name == "adam" else ())
    for name in OPTIMISERS
    if name != "kfac"
]
