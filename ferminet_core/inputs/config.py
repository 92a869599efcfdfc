"""All settings of a run with defaults and bounds.

Defaults are defined only here, in `start_settings` and in `machine_settings`. The defaults describe
the full-size calculation. `presets.yaml` describes smaller ones. Values come from D. Pfau, J. S.
Spencer, A. G. D. G. Matthews, W. M. C. Foulkes, Phys. Rev. Research 2, 033429 (2020), here "2020",
or from the later JAX code described by J. S. Spencer, D. Pfau, A. Botev, W. M. C. Foulkes,
arXiv:2011.07125, here "JAX code".
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from pydantic import Field, model_validator

from ferminet_core.inputs.machine_settings import CheckpointConfig, RuntimeConfig
from ferminet_core.inputs.setting_fields import (
    COUNT,
    MAX_COUNT,
    RATE,
    STEPS,
    Resume,
    Section,
    Whole,
    resume_rule,
    why,
)
from ferminet_core.inputs.start_settings import ConventionalConfig, PretrainConfig, ReferenceConfig

# Fixed numbers of the stages, which are not settings.
RECORDS_PER_CALL = 10  # records per compiled call; spin and dipole are measured once per call
CHECK_SWEEPS = 10  # sets of walkers over which pretraining averages its criterion's readings

_RECORDS = f"{RECORDS_PER_CALL} records are one compiled call; a hundred million take months"
_WALKERS = "pretraining uses two halves; a GPU holds some ten thousand walkers"
_SINGLE = why("single precision would lose smaller numbers in sums")
_WIDTH = why("the weights of a layer of this width take 400 MB")


# The settings whose default is the network's own, by `network.kind` and dotted key. A network whose
# layers are not registered for KFAC has another default of `optimise.optimiser` here, and KFAC is
# refused for it.
NETWORK_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "ferminet": {},
    # I. von Glehn, J. S. Spencer, D. Pfau, arXiv:2211.13672.
    "psiformer": {"network.inputs": "log", "network.jastrow": True},
}


class NetworkConfig(Section):
    """The wavefunction."""

    kind: Literal["ferminet", "psiformer"] = Field(
        "ferminet",
        description="Network. ferminet: streams of electrons and of pairs (2020). psiformer: "
        "self-attention between electrons (arXiv:2211.13672).",
    )
    layers: Whole = Field(
        4,
        ge=1,
        le=100,
        description="Interaction layers.",
        json_schema_extra=why("published networks have 4, and each layer takes memory and time"),
    )
    one_electron_width: Whole = Field(
        256,
        ge=1,
        le=10_000,
        description="Width of the one-electron stream; of Psiformer's tokens and layers.",
        json_schema_extra=_WIDTH,
    )
    two_electron_width: Whole = Field(
        32,
        ge=1,
        le=10_000,
        description="Width of FermiNet's two-electron stream.",
        json_schema_extra=_WIDTH,
    )
    attention_heads: Whole = Field(
        4,
        ge=1,
        le=1000,
        description="Attention heads in a layer of Psiformer; they share one_electron_width "
        "(paper: 4 of 64).",
        json_schema_extra=why("published networks have 4 to 8"),
    )
    determinants: Whole = Field(
        16,
        ge=1,
        le=10_000,
        description="Number of determinants.",
        json_schema_extra=why("published networks have 16 to 32, and each takes memory and time"),
    )
    determinant_form: Literal["dense", "block"] = Field(
        "dense",
        description="Form of each determinant. dense: one matrix of all electrons (JAX code). "
        "block: spin-up block times spin-down block (2020).",
    )
    envelope: Literal["isotropic", "diagonal", "anisotropic"] = Field(
        "isotropic",
        description="Decay of each orbital away from each nucleus: one rate (JAX code), one per "
        "axis, or a 3x3 matrix (2020).",
    )
    inputs: Literal["plain", "log"] = Field(
        "plain",
        description="Vectors and distances that the streams start from. log: both times "
        "log(1 + r)/r, so that they grow slowly at long bonds (arXiv:2211.13672).",
    )
    bias: bool = Field(True, description="Bias in the hidden layers.")
    orbital_bias: bool = Field(False, description="Bias in the layer of the orbitals.")
    jastrow: bool = Field(False, description="Multiply by an electron-electron cusp factor.")

    @model_validator(mode="after")
    def _equal_heads(self) -> "NetworkConfig":
        if self.kind == "psiformer" and self.one_electron_width % self.attention_heads:
            raise ValueError(
                f"attention_heads is {self.attention_heads}; allowed: a divisor of "
                f"one_electron_width, {self.one_electron_width}; set both"
            )
        return self


class McmcConfig(Section):
    """Sampling of |psi|^2 by all-electron Gaussian moves and moves from atom to atom."""

    walkers: Whole = Field(
        4096,
        ge=2,
        le=10_000_000,
        multiple_of=2,
        description="Number of walkers.",
        json_schema_extra=why(_WALKERS),
    )
    steps: Whole = Field(
        10,
        ge=1,
        le=10_000,
        json_schema_extra=STEPS,
        description="Moves between two updates. In molecules one in ten goes from atom to atom.",
    )
    width: float = Field(
        0.15,
        gt=0,
        le=10,
        json_schema_extra=why("a wider move ends far outside of the molecule"),
        description="Initial width of a move, relative to the electron's distance to the nearest "
        "nucleus.",
    )
    target_acceptance: float = Field(
        0.525, gt=0, lt=1, description="Fraction of accepted moves to which the width is adapted."
    )
    burn_in: Whole = Field(
        200,
        ge=0,
        le=MAX_COUNT,
        description="Moves before the walkers are used.",
        json_schema_extra=COUNT,
    )


# The settings of `optimise` whose default is the optimiser's own, by optimiser. `overrides.resolve`
# fills them in, so that a resolved run holds plain numbers. The defaults of the fields below are
# KFAC's: they also complete specs that lack a key.
OPTIMISER_DEFAULTS: Mapping[str, Mapping[str, float]] = {
    # JAX code.
    "kfac": {"learning_rate": 0.05, "damping": 1e-3, "norm_constraint": 1e-3},
    # D. P. Kingma, J. Ba, arXiv:1412.6980. A step of Adam has the size of the rate in every
    # parameter, whatever the gradient: KFAC's rate would be far too large.
    "adam": {"learning_rate": 1e-3},
    # G. Goldshlager, N. Abrahamsen, L. Lin, arXiv:2401.10190, except for the rate, which the paper
    # tunes for each system: here it is that of the measured atoms (docs/benchmarks.md).
    "spring": {"learning_rate": 0.01, "damping": 1e-3, "norm_constraint": 1e-3},
}
_KFAC = OPTIMISER_DEFAULTS["kfac"]


# Settings that were renamed, {old: new}, by dotted key. The specs inside older files have the old
# names; a system file has to use the new ones.
RENAMED: Mapping[str, str] = {"optimise.singlet_penalty": "optimise.spin_penalty"}


def renamed(settings: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """Settings of an older file with today's names.

    Args:
        settings: Values by dotted key, or by the keys of one section.
        section: That section.
    """
    prefix = f"{section}." if section else ""
    new = {key: RENAMED.get(f"{prefix}{key}", "").removeprefix(prefix) for key in settings}
    return {new[key] or key: value for key, value in settings.items()}


# H2 with 1500 iterations of 256 walkers (mEh above exact at 1.4 and 6 bohr): a share of 0.05 leaves
# 0.33(10) and 0.81(14), 0.2 leaves -0.02(7) and 0.48(8), 0.5 leaves 0.07(6) and 0.49(10).
DELAY_SHARE = 0.2


class OptimiseConfig(Section):
    """Minimising the energy."""

    optimiser: Literal["kfac", "adam", "spring"] = Field(
        "kfac", description="Optimiser; spring: for few walkers (arXiv:2401.10190)."
    )
    iterations: Whole = Field(
        200_000,
        ge=0,
        le=MAX_COUNT,
        description="Iterations.",
        json_schema_extra=resume_rule(Resume.GROW) | COUNT,
    )
    learning_rate: float = Field(
        _KFAC["learning_rate"],
        gt=0,
        le=10,
        json_schema_extra=RATE,
        description="Learning rate at the start (KFAC: JAX code; 2020: 1e-4, of a "
        "program with other units). A preset's value "
        "applies to the preset's own optimiser; another optimiser keeps its default.",
    )
    delay: float | None = Field(
        None,
        gt=0,
        le=1e15,
        description="Iterations after which the rate has fallen to half, with a decay of 1. "
        "Default: a fifth of the iterations (JAX code: 10 000 of 200 000).",
        json_schema_extra=resume_rule(Resume.KEPT)
        | why("for a rate that never falls, set decay to 0"),
    )
    decay: float = Field(
        1.0,
        ge=0,
        le=10,
        description="The rate is learning_rate / (1 + t/delay)^decay at iteration t.",
        json_schema_extra=why("the rate would be zero from the first iterations on"),
    )
    damping: float = Field(
        _KFAC["damping"],
        gt=0,
        le=1e6,
        description="Damping of the curvature; KFAC and SPRING.",
        json_schema_extra=_SINGLE,
    )
    norm_constraint: float = Field(
        _KFAC["norm_constraint"],
        gt=0,
        le=1e6,
        json_schema_extra=RATE,
        description="Bound on the squared norm of the step. KFAC measures the norm by its Fisher "
        "matrix, SPRING in the parameters themselves.",
    )
    momentum: float = Field(
        0.99, ge=0, lt=1, description="Share of its last step that SPRING starts from; 0: MinSR."
    )
    ema_decay: float = Field(0.95, ge=0, lt=1, description="Memory of KFAC's running averages.")
    inverse_period: Whole = Field(
        1,
        ge=1,
        le=MAX_COUNT,
        description="Iterations between inversions in KFAC.",
        json_schema_extra=COUNT,
    )
    spin_penalty: float = Field(
        0.1,
        ge=0,
        le=1e6,
        json_schema_extra=_SINGLE,
        description="Hartree per unit of <S^2> above the wanted S(S + 1); only where the "
        "reference's <S^2> is too high, as in a stretched bond.",
    )
    max_rollbacks: Whole = Field(
        5,
        ge=0,
        le=100,
        json_schema_extra=why("a hundred halvings leave a learning rate of zero"),
        description="How often the optimisation may take back iterations with numbers that are not "
        "finite. Each time it halves the learning rate; after the last it fails.",
    )
    clip: float = Field(
        5.0,
        gt=0,
        le=1e6,
        description="Half-width of the clipping window in mean absolute deviations.",
        json_schema_extra=why("a million deviations clip nothing"),
    )
    clip_centre: Literal["mean", "median"] = Field(
        "mean", description="Centre of the clipping window (JAX code: mean; 2020: median)."
    )

    @model_validator(mode="before")
    @classmethod
    def _of_older_files(cls, given: Any) -> Any:
        return renamed(given, "optimise") if isinstance(given, Mapping) else given

    def planned_delay(self) -> float:
        """`delay`, or its default, which is positive without iterations, too."""
        return DELAY_SHARE * max(1, self.iterations) if self.delay is None else self.delay


class SharingConfig(Section):
    """One wavefunction for several geometries."""

    walkers: Whole = Field(
        64,
        ge=2,
        le=10_000_000,
        multiple_of=2,
        description="Number of walkers of each geometry in the joint stages.",
        json_schema_extra=why(_WALKERS),
    )
    rows: Whole = Field(
        1024,
        ge=2,
        le=100_000,
        description="Largest number of walkers of all geometries in an update. Where a group has "
        "more, each update takes some of its geometries, and all have their turn.",
        json_schema_extra=why("SPRING factors a matrix of this size in each update"),
    )
    heads: bool = Field(
        True,
        description="Whether biases, scales, envelopes and weights of determinants depend on the "
        "geometry.",
    )


POINTS: Mapping[str, int] = {"octahedron": 6, "icosahedron": 12}


class PseudopotentialConfig(Section):
    """Local energies with pseudopotentials; molecules without one do not use it."""

    quadrature: Literal["octahedron", "icosahedron"] = Field(
        "octahedron",
        description="Points around a nucleus for the part of a pseudopotential that depends on the "
        "angular momentum: 6, exact up to degree 3, or 12, up to 5 and twice as expensive. Either "
        "adds noise, but no bias.",
    )


class InferenceConfig(Section):
    """Measurement at fixed parameters."""

    samples: Whole = Field(
        10_000,
        ge=RECORDS_PER_CALL,
        le=MAX_COUNT,
        multiple_of=RECORDS_PER_CALL,
        description="Number of records.",
        json_schema_extra=resume_rule(Resume.GROW) | why(_RECORDS),
    )
    thin: Whole = Field(
        10,
        ge=1,
        le=10_000,
        description="Moves between two records.",
        json_schema_extra=STEPS,
    )
    max_equilibration: Whole = Field(
        2000,
        ge=100,
        le=MAX_COUNT,
        json_schema_extra=why("fewer than a hundred show no drift; a hundred million take months"),
        description="Records after which the measurement starts even if the energy still drifts.",
    )
    accuracy: float = Field(
        1e-3,
        gt=0,
        le=10,
        description="Error of the energy, in hartree, up to which a run counts as converged. "
        "It enters verdicts only.",
        json_schema_extra=resume_rule(Resume.FREE) | why("every run meets it"),
    )
    keep_every: Whole = Field(
        100,
        ge=RECORDS_PER_CALL,
        le=MAX_COUNT,
        multiple_of=RECORDS_PER_CALL,
        json_schema_extra=why(_RECORDS),
        description="Records between two stored sets of walkers.",
    )


class Config(Section):
    """All settings of a run."""

    seed: Whole = Field(
        0,
        ge=0,
        le=2**63 - 1,
        description="Seed of all random numbers of the run.",
        json_schema_extra=why("64 bits"),
    )
    network: NetworkConfig = NetworkConfig()
    reference: ReferenceConfig = ReferenceConfig()
    conventional: ConventionalConfig = ConventionalConfig()
    mcmc: McmcConfig = McmcConfig()
    pretrain: PretrainConfig = PretrainConfig()
    optimise: OptimiseConfig = OptimiseConfig()
    pseudopotential: PseudopotentialConfig = PseudopotentialConfig()
    sharing: SharingConfig = SharingConfig()
    inference: InferenceConfig = InferenceConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()


SECTIONS = tuple(name for name, value in Config() if isinstance(value, Section))


@cache
def setting_keys() -> tuple[str, ...]:
    """Every setting by its dotted key, in order: `seed`, `network.layers`, ..."""
    keys: list[str] = []
    for name, value in Config():
        fields = type(value).model_fields if isinstance(value, Section) else None
        keys.extend(f"{name}.{field}" for field in fields) if fields else keys.append(name)
    return tuple(keys)


def _extra(key: str) -> dict[str, Any]:
    """What a field says beyond its bounds, by its dotted key."""
    section, _, name = key.partition(".")
    owner = type(getattr(Config(), section)) if name else Config
    extra = owner.model_fields[name or section].json_schema_extra
    return extra if isinstance(extra, dict) else {}


@cache
def resume_rules() -> dict[str, Resume]:
    """How a resume may change each setting, by dotted key."""
    return {key: Resume(_extra(key).get("resume") or Resume.NO) for key in setting_keys()}


@cache
def bound_reasons() -> dict[str, str]:
    """The reasons for the bounds of the settings that have one, by dotted key."""
    return {key: _extra(key)["why"] for key in setting_keys() if "why" in _extra(key)}
