"""Settings: defaults, presets, round trips, and an error line for everything that is wrong."""

import json
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import ValidationError

from ferminet_core.errors import InputError
from ferminet_core.inputs import overrides
from ferminet_core.inputs.config import (
    NETWORK_DEFAULTS,
    OPTIMISER_DEFAULTS,
    Config,
    McmcConfig,
    OptimiseConfig,
    bound_reasons,
    setting_keys,
)
from ferminet_core.inputs.machine_settings import RuntimeConfig
from ferminet_core.inputs.overrides import flatten, presets, resolve
from ferminet_core.inputs.start_settings import ConventionalConfig, PretrainConfig, ReferenceConfig


def where(key: str) -> str:
    return f"h2.yaml: overrides.{key}"


def test_round_trip_through_json() -> None:
    config = resolve("smoke", {"conventional.methods": ["fci"], "runtime.chunk": 16}, where)
    assert Config.model_validate_json(config.model_dump_json()) == config
    assert Config.model_validate(json.loads(json.dumps(config.model_dump(mode="json")))) == config


def test_defaults_fill_in_settings_that_are_not_stored() -> None:
    stored = resolve("small", {}, where).model_dump(mode="json")
    del stored["optimise"]["clip_centre"]
    del stored["runtime"]
    config = Config.model_validate(stored)
    assert config.optimise.clip_centre == OptimiseConfig().clip_centre
    assert config.runtime == RuntimeConfig()
    assert config.optimise.iterations == stored["optimise"]["iterations"]


def test_every_setting_is_described() -> None:
    config = Config()
    for key in setting_keys():
        section, _, name = key.partition(".")
        fields = type(getattr(config, section)).model_fields if name else Config.model_fields
        assert fields[name or section].description, key


def test_every_bound_that_is_not_obvious_has_a_reason() -> None:
    obvious = {("minimum", 0), ("minimum", 1), ("exclusiveMinimum", 0), ("exclusiveMaximum", 1)}
    for key in setting_keys():
        section, _, name = key.partition(".")
        owner = type(getattr(Config(), section)) if name else Config
        schema = owner.model_json_schema()["properties"][name or section]
        numbers = next((s for s in schema.get("anyOf", ()) if s["type"] != "null"), schema)
        bounds = {
            (kind, numbers[kind])
            for kind in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
            if kind in numbers
        }
        assert (bounds <= obvious) or bound_reasons()[key], key
        # Without an upper bound, a slip of the keyboard starts what never ends.
        if numbers.get("type") in ("integer", "number"):
            assert {"maximum", "exclusiveMaximum"} & set(numbers), key


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        McmcConfig().walkers = 3  # type: ignore[misc]


def test_paper_preset_is_the_default() -> None:
    assert resolve("paper", {}, where) == Config()


@pytest.mark.parametrize("name", ["paper", "pfau2020"])
def test_the_rates_of_a_full_calculation_are_many_steps_of_imaginary_time(name: str) -> None:
    """exp(-2 gap time) with a gap of 0.1 hartree and a sum of 100 per hartree is 2e-9."""
    config = resolve(name, {}, where).optimise
    time = np.arange(config.iterations)
    rates = config.learning_rate / (1 + time / config.planned_delay()) ** config.decay
    assert rates.sum() > 100


@pytest.mark.parametrize("name", ["smoke", "small", "gpu", "paper", "pfau2020"])
def test_presets_resolve_and_only_name_what_they_change(name: str) -> None:
    config = resolve(name, {}, where)
    default = Config().model_dump()
    for key in presets()[name]:
        section, _, setting = key.partition(".")
        assert getattr(getattr(config, section), setting) != default[section][setting], key


def test_presets_get_smaller() -> None:
    names = ("smoke", "small", "gpu", "paper")
    found = [resolve(name, {}, where) for name in names]
    for sizes in ([c.optimise.iterations for c in found], [c.mcmc.walkers for c in found]):
        assert sizes == sorted(set(sizes))


def test_the_preset_gpu_has_the_published_network() -> None:
    assert resolve("gpu", {}, where).network == Config().network


def test_overrides_beat_the_preset() -> None:
    config = resolve("smoke", {"network.layers": 5, "seed": 3}, where)
    assert (config.network.layers, config.seed) == (5, 3)
    assert config.network.determinants == presets()["smoke"]["network.determinants"]


def test_each_optimiser_has_its_own_defaults() -> None:
    chosen = {
        name: resolve("small", {"optimise.optimiser": name}, where).optimise
        for name in OPTIMISER_DEFAULTS
    }
    for name, defaults in OPTIMISER_DEFAULTS.items():
        found = chosen[name].model_dump()
        assert defaults.items() <= found.items()
    assert chosen["kfac"] == resolve("small", {}, where).optimise
    assert chosen["adam"].learning_rate < chosen["spring"].learning_rate


def test_the_delay_follows_the_iterations_unless_it_is_set() -> None:
    delays = [
        resolve("small", {"optimise.iterations": n}, where).optimise.planned_delay()
        for n in (1000, 3000)
    ]
    assert delays[1] == pytest.approx(3 * delays[0])
    given = {"optimise.iterations": 1000, "optimise.delay": 7.0}
    assert resolve("small", given, where).optimise.planned_delay() == 7.0


def test_a_preset_speaks_of_its_own_optimiser_and_an_override_always_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rate = 0.02
    with_rate = {"optimise.learning_rate": rate, "optimise.clip_centre": "median"}
    chosen = {**presets(), "own": with_rate}
    monkeypatch.setattr(overrides, "presets", lambda: chosen)
    assert resolve("own", {}, where).optimise.learning_rate == rate
    kfac = resolve("own", {"optimise.optimiser": "kfac"}, where)
    assert kfac.optimise.learning_rate == rate
    other = {"optimise.optimiser": "adam"}
    adam = resolve("own", other, where).optimise
    assert adam.learning_rate == OPTIMISER_DEFAULTS["adam"]["learning_rate"] != rate
    assert adam.clip_centre == "median"
    for preset in presets():
        given = {**other, "optimise.learning_rate": 0.3}
        assert resolve(preset, given, where).optimise.learning_rate == 0.3


def test_every_optimiser_has_defaults_among_the_settings() -> None:
    names = get_args(OptimiseConfig.model_fields["optimiser"].annotation)
    assert set(OPTIMISER_DEFAULTS) == set(names)
    for values in OPTIMISER_DEFAULTS.values():
        assert values.keys() <= OptimiseConfig.model_fields.keys()


def test_each_network_has_its_own_defaults() -> None:
    for kind, defaults in NETWORK_DEFAULTS.items():
        given = resolve("small", {"network.kind": kind}, where)
        for key, value in defaults.items():
            section, _, name = key.partition(".")
            assert getattr(getattr(given, section), name) == value
    plain = {"network.kind": "psiformer", "network.inputs": "plain", "network.jastrow": False}
    psiformer = resolve("small", plain, where).network
    assert (psiformer.inputs, psiformer.jastrow) == ("plain", False)
    assert resolve("small", {}, where).network.jastrow is False


def test_attention_heads_share_the_width() -> None:
    given = {"network.attention_heads": 5, "network.one_electron_width": 64}
    assert resolve("small", given, where).network.attention_heads == 5  # FermiNet has none
    with pytest.raises(InputError, match=r"attention_heads is 5; allowed: a divisor of .*, 64"):
        resolve("small", {**given, "network.kind": "psiformer"}, where)


def test_a_network_without_registrations_is_optimised_by_spring(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = {**NETWORK_DEFAULTS, "psiformer": {"optimise.optimiser": "spring"}}
    monkeypatch.setattr(overrides, "NETWORK_DEFAULTS", own)
    kind = {"network.kind": "psiformer"}
    found = resolve("small", kind, where).optimise
    assert found.optimiser == "spring"
    assert found.learning_rate == OPTIMISER_DEFAULTS["spring"]["learning_rate"]
    with pytest.raises(InputError, match="not registered for it; try spring"):
        resolve("small", {**kind, "optimise.optimiser": "kfac"}, where)
    adam = resolve("small", {**kind, "optimise.optimiser": "adam"}, where)
    assert adam.optimise.optimiser == "adam"
    assert resolve("small", {}, where).optimise.optimiser == "kfac"


def test_nested_and_dotted_overrides_are_the_same() -> None:
    nested = {"network": {"layers": 2, "bias": False}, "seed": 1}
    dotted = {"network.layers": 2, "network.bias": False, "seed": 1}
    mixed = {"network": {"layers": 2}, "network.bias": False, "seed": 1}
    assert flatten(nested, where) == flatten(dotted, where) == flatten(mixed, where) == dotted


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ({"network": {"layer": 3}}, "network.layer: unknown setting; did you mean 'layers'?"),
        ({"network.layer": 3}, "network.layer: unknown setting; did you mean 'layers'?"),
        ({"netwrk": {"layers": 3}}, "netwrk: unknown setting; did you mean 'network'?"),
        ({"netwrk.layers": 3}, "unknown setting; did you mean 'network.layers'?"),
        ({"walkers": 3}, "walkers: unknown setting; did you mean 'mcmc.walkers'?"),
        ({"network.heads": 3}, "unknown setting; did you mean 'network.attention_heads'?"),
        ({"optimise.walkers": 3}, "unknown setting; did you mean 'mcmc.walkers'?"),
        (
            {"nonsense": 3},
            "nonsense: unknown setting; allowed: checkpoint, conventional, inference, mcmc",
        ),
        ({"network.layers.x": 3}, "network.layers.x: unknown setting"),
        ({3: 4}, "3: unknown setting"),
        ({"network": 3}, "network: found 3; allowed: a mapping; its settings: attention_heads"),
        ({"network": None}, "network: found None; allowed: a mapping"),
        ({"network": {"layers": 2}, "network.layers": 2}, "network.layers: given twice"),
        ({"mcmc.walkers": 0}, "mcmc.walkers: found 0; allowed: at least 2"),
        ({"mcmc.walkers": "many"}, "mcmc.walkers: found 'many'; allowed: a valid integer"),
        ({"mcmc.walkers": "64"}, "mcmc.walkers: found '64'; allowed: a valid integer"),
        ({"mcmc.walkers": 1.5}, "mcmc.walkers: found 1.5; allowed: a valid integer"),
        ({"mcmc.walkers": True}, "mcmc.walkers: found True; allowed: a valid integer"),
        ({"mcmc.walkers": None}, "mcmc.walkers: found None; allowed: a valid integer"),
        ({"mcmc.walkers": [1]}, "mcmc.walkers: found [1]; allowed: a valid integer"),
        ({"mcmc.width": 0}, "mcmc.width: found 0; allowed: more than 0"),
        ({"mcmc.width": float("nan")}, "mcmc.width: found nan; allowed: a finite number"),
        ({"optimise.clip": float("inf")}, "optimise.clip: found inf; allowed: a finite number"),
        ({"mcmc.target_acceptance": 1}, "target_acceptance: found 1; allowed: less than 1"),
        ({"network.bias": "yes"}, "network.bias: found 'yes'; allowed: true or false"),
        ({"network.bias": 1}, "network.bias: found 1; allowed: true or false"),
        ({"reference.basis": 6}, "reference.basis: found 6; allowed: a valid string"),
        ({"reference.basis": ""}, "reference.basis: found ''"),
        ({"reference.method": "rhff"}, "found 'rhff'; did you mean 'rhf'? allowed: auto, rhf"),
        (
            {"optimise.optimiser": "KFAC"},
            f"found 'KFAC'; did you mean 'kfac'? allowed: {', '.join(sorted(OPTIMISER_DEFAULTS))}",
        ),
        ({"conventional.methods": "fci"}, "methods: found 'fci'; allowed: a list"),
        (
            {"conventional.methods": ["ccsd"]},
            "methods[0]: found 'ccsd'; did you mean 'ccsd(t)'?",
        ),
        ({"conventional.methods": ["fci", "fci"]}, "methods: 'fci' is given twice; keep one"),
        (
            {"conventional.basis": ["cc-pvdz", "ccpVDZ"]},
            "conventional.basis: 'ccpVDZ' is given twice; keep one",
        ),
        ({"conventional.basis": []}, "conventional.basis: found []"),
        ({"conventional.basis": "cc-pvdz"}, "basis: found 'cc-pvdz'; allowed: a list"),
        ({"runtime.precision": "double"}, "found 'double'; allowed: float32, float64"),
        ({"seed": -1}, "seed: found -1; allowed: at least 0"),
        ({"runtime.chunk": 0}, "runtime.chunk: found 0; allowed: at least 1"),
    ],
)
def test_each_wrong_override_has_its_line(overrides: dict[Any, Any], line: str) -> None:
    with pytest.raises(InputError) as caught:
        flatten(overrides, where)
    text = str(caught.value)
    assert text.startswith("h2.yaml: overrides.")
    assert line in text
    assert "\n" not in text


def test_several_problems_have_a_line_each() -> None:
    with pytest.raises(InputError) as caught:
        flatten({"mcmc": {"walkers": 0, "steps": 0}, "seed": "x"}, where)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "overrides.seed",
        "overrides.mcmc.walkers",
        "overrides.mcmc.steps",
    ]


def test_whole_floats_are_integers() -> None:
    assert resolve("paper", {"optimise.iterations": 2e4}, where).optimise.iterations == 20_000


def test_settings_that_do_not_fit_together_are_found_once_all_are_known() -> None:
    """One level may lower the maximum and another the minimum."""
    assert flatten({"pretrain.max_iterations": 10}, where) == {"pretrain.max_iterations": 10}
    with pytest.raises(InputError, match="pretrain: min_iterations is 200; allowed: at most"):
        resolve("paper", {"pretrain.max_iterations": 10}, where)
    both = {"pretrain.max_iterations": 10, "pretrain.min_iterations": 5}
    assert resolve("paper", both, where).pretrain == PretrainConfig(
        max_iterations=10, min_iterations=5
    )


def test_unknown_preset() -> None:
    with pytest.raises(InputError, match="preset: unknown preset 'smal'; did you mean 'small'"):
        resolve("smal", {}, lambda key: f"h2.yaml: {key}")


def test_methods_take_a_list() -> None:
    config = ConventionalConfig.model_validate({"methods": ["fci", "ccsd(t)"]})
    assert config.methods == ("fci", "ccsd(t)")
    assert hash(config) == hash(ConventionalConfig(methods=("fci", "ccsd(t)")))
    assert get_args(ReferenceConfig.model_fields["method"].annotation)[0] == "auto"


@pytest.mark.parametrize(
    "basis",
    [
        ["cc-pvdz", "cc-pvtz"],
        ["sto-3g", "aug-cc-pVTZ", "augccpvqz"],
        ["cc-pcv5z", "cc-pcv6z"],
        ["cc-pwcvdz", "cc-pwcvtz"],
    ],
)
def test_neighbours_of_one_family_give_a_limit(basis: list[str]) -> None:
    flat = {"conventional.basis": basis, "conventional.extrapolate": True}
    assert resolve("smoke", flat, where).conventional.extrapolate


@pytest.mark.parametrize(
    "basis",
    [
        ["cc-pvtz"],
        ["cc-pvdz", "cc-pvqz"],
        ["cc-pvqz", "cc-pvtz"],
        ["cc-pvtz", "aug-cc-pvqz"],
        ["cc-pvtz", "cc-pcvqz"],
        ["cc-pcvtz", "cc-pwcvqz"],
        ["def2-tzvp", "def2-qzvp"],
        ["cc-pvtz", "cc-pvqz", "sto-3g"],
    ],
)
def test_other_basis_sets_give_none(basis: list[str]) -> None:
    flat = {"conventional.basis": basis, "conventional.extrapolate": True}
    # The level that sets one of the two may leave the other to another level.
    assert flatten(flat, where) == flat
    with pytest.raises(InputError) as caught:
        resolve("smoke", flat, where)
    text = str(caught.value)
    assert text.startswith("h2.yaml: overrides.conventional: extrapolate is true with basis ['")
    assert "in one of Dunning's families; try [cc-pvtz, cc-pvqz], or with the " in text
    assert "\n" not in text
