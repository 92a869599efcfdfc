"""Sizes of a network from its settings: widths of its layers and numbers of parameters."""

from typing import NamedTuple

import numpy as np

from ferminet_core.chemistry.symmetry import MOST_DETERMINANTS, operations
from ferminet_core.inputs.config import NetworkConfig
from ferminet_core.inputs.molecule import Molecule

SIGMA_SIZE = {"isotropic": 1, "diagonal": 3, "anisotropic": 9}  # numbers of an envelope's width
# Of `wavefunction.adaptation`, which loads JAX.
MOST_COMPONENTS, FEATURES_OF_PAIR = 4, 5
# Share of the valence electrons that are near enough to a nucleus for its pseudopotential to count
# (`vmc.pseudopotentials.LEAST_POTENTIAL`). Counted with ccECP at Hartree-Fock's walkers: 0.5 for N
# in N2, 0.8 for Cl, 0.9 for Al in AlH.
NEAR_SHARE = 0.75


class Dense(NamedTuple):
    """x W + b, applied to `rows` vectors of a walker."""

    rows: int
    inputs: int
    outputs: int
    bias: bool

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return (self.inputs + self.bias) * self.outputs

    @property
    def factors(self) -> int:
        """Numbers of its two Kronecker factors."""
        return (self.inputs + self.bias) ** 2 + self.outputs**2


class Layer(NamedTuple):
    """Input widths of an interaction layer, and its dense maps; the last has none for pairs."""

    one_in: int
    two_in: int
    one: Dense
    two: Dense | None

    @property
    def dense(self) -> list[Dense]:
        """All dense maps."""
        return [self.one] if self.two is None else [self.one, self.two]


class AttentionLayer(NamedTuple):
    """The dense maps of a layer of Psiformer, and its attention heads.

    maps: to queries, keys and values, and from what attention found; one: the perceptron
    """

    maps: tuple[Dense, ...]
    one: Dense
    heads: int

    @property
    def dense(self) -> list[Dense]:
        """All dense maps."""
        return [*self.maps, self.one]


class Network(NamedTuple):
    """Sizes of a wavefunction.

    kind: `network.kind`; embedding: Psiformer's map of the inputs
    spins: electrons of each spin present; orbitals: the maps to the orbitals of each
    sigma: numbers of an envelope's width; jastrow: lengths of the cusp factor
    parities: that the optimisation may have to keep, at most
    components: of the coordinates that the heads of a group's wavefunction multiply; 0 for a run
    moved: evaluations with one electron moved that a local energy takes for pseudopotentials
    """

    kind: str
    nuclei: int
    spins: tuple[int, ...]
    embedding: Dense | None
    layers: tuple[Layer, ...] | tuple[AttentionLayer, ...]
    determinants: int
    orbitals: tuple[Dense, ...]
    sigma: int
    jastrow: int
    parities: int
    components: int = 0
    moved: float = 0.0

    @property
    def electrons(self) -> int:
        """Of both spins."""
        return sum(self.spins)

    @property
    def dense(self) -> list[Dense]:
        """All dense maps."""
        first = [self.embedding] if self.embedding else []
        return [*first, *(d for layer in self.layers for d in layer.dense), *self.orbitals]

    @property
    def envelope(self) -> int:
        """Weights of the envelopes."""
        return self.nuclei * sum(o.outputs for o in self.orbitals)

    @property
    def orbital_values(self) -> int:
        """Values of all orbitals at the electrons of a walker."""
        return sum(o.rows * o.outputs for o in self.orbitals)

    @property
    def parameters(self) -> int:
        """Number of optimised parameters, heads included."""
        shared = sum(d.parameters for d in self.dense) + self.diagonal
        return shared + self.components * self.head

    @property
    def head(self) -> int:
        """Numbers of the heads for one component (`adaptation.heads`)."""
        scales = sum(layer.one.outputs for layer in self.layers)
        biases = sum(d.outputs for d in self.dense if d.bias)
        return scales + biases + self.envelope * (1 + self.sigma) + self.determinants

    @property
    def diagonal(self) -> int:
        """Number of parameters outside of dense maps: envelopes, determinant weights, cusps."""
        return self.envelope * (1 + self.sigma) + self.determinants + self.jastrow

    @property
    def curvature(self) -> int:
        """Numbers of KFAC's factors, the diagonal blocks included."""
        return sum(d.factors for d in self.dense) + self.diagonal


def most_components(geometries: int, nuclei: int) -> int:
    """The most coordinates that a group can have (`adaptation.coordinates`).

    Those that hardly vary over the group are left out there.
    """
    features = FEATURES_OF_PAIR * nuclei * (nuclei - 1) // 2
    return min(MOST_COMPONENTS, geometries - 1, features)


def _layers(config: NetworkConfig, nuclei: int, spins: tuple[int, ...]) -> tuple[Layer, ...]:
    """The layers of a FermiNet (`ferminet.init`)."""
    n, n_spins = sum(spins), len(spins)
    one, two = 4 * nuclei, 4
    layers = []
    for index in range(config.layers):
        inputs = one * (1 + n_spins) + two * n_spins
        wide = Dense(n, inputs, config.one_electron_width, config.bias)
        last = index == config.layers - 1
        pair = None if last else Dense(n * n, two, config.two_electron_width, config.bias)
        layers.append(Layer(one, two, wide, pair))
        one, two = config.one_electron_width, config.two_electron_width
    return tuple(layers)


def _attention_layers(
    config: NetworkConfig, nuclei: int, spins: tuple[int, ...]
) -> tuple[AttentionLayer, ...]:
    """The layers of a Psiformer (`psiformer.init`)."""
    del nuclei
    n, width = sum(spins), config.one_electron_width
    maps = (Dense(n, width, width, False),) * 4
    one = Dense(n, width, width, config.bias)
    return (AttentionLayer(maps, one, config.attention_heads),) * config.layers


def network(
    config: NetworkConfig, molecule: Molecule, components: int = 0, points: int = 0
) -> Network:
    """The sizes that `networks.init` gives a wavefunction of the molecule.

    Args:
        config: settings of the network
        molecule: its nuclei and electrons
        components: of the coordinates of a group (`adaptation.start`)
        points: of the quadrature of pseudopotentials
    """
    spins = tuple(n for n in molecule.electrons if n > 0)
    n, n_spins, n_nuclei = sum(spins), len(spins), len(molecule.symbols)
    attends = config.kind == "psiformer"
    make = _attention_layers if attends else _layers
    one, k = config.one_electron_width, config.determinants
    columns = [n] * n_spins if config.determinant_form == "dense" else list(spins)
    return Network(
        kind=config.kind,
        nuclei=n_nuclei,
        spins=spins,
        embedding=Dense(n, 4 * n_nuclei + 1, one, False) if attends else None,
        layers=make(config, n_nuclei, spins),
        determinants=k,
        orbitals=tuple(
            Dense(rows, one, k * orbitals, config.orbital_bias)
            for rows, orbitals in zip(spins, columns, strict=True)
        ),
        sigma=SIGMA_SIZE[config.envelope],
        jastrow=2 if config.jastrow else 0,
        parities=_parities(molecule),
        components=components,
        moved=points * NEAR_SHARE * _valence(molecule),
    )


def _valence(molecule: Molecule) -> float:
    """Valence electrons of the nuclei whose pseudopotentials are not local."""
    semilocal = {p.symbol for p in molecule.pseudopotentials if p.channels}
    pairs = zip(molecule.symbols, molecule.charges, strict=True)
    return sum(charge for symbol, charge in pairs if symbol in semilocal)


def _parities(molecule: Molecule) -> int:
    """The permutations of equal nuclei by operations that are their own inverse.

    Each has made a further determinant of the reference, if it has a parity.
    """
    group = operations(np.asarray(molecule.positions), np.asarray(molecule.atomic_numbers, float))
    twice = [o for o in group if np.allclose(o.matrix @ o.matrix, np.eye(3), atol=1e-6)]
    different = {tuple(o.permutation.tolist()) for o in twice if o.moves}
    return min(len(different), MOST_DETERMINANTS - 1)
