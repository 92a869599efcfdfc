"""Oracles need double precision, and two devices show what depends on the number of them.

Executables are kept for the length of the session, because many tests build the same small stage.
Two processes share the tests (pytest-xdist). A process that has finished its part takes tests of
the other, so that both end together.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

# Most tests compile longer than they compute: LLVM's optimisation is left out, which takes a third
# off them. What runs as a scan on Slurm or by .ci/run is compiled as for users.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=2",
        "--xla_backend_optimization_level=0",
    ]
)
# As in the package: its messages on tuning hints are none about results.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax

from ferminet_core.parallel import patches

patches.keep_executables_whole()  # two processes read and write the same folder
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="session", autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of this session's executables, one for all processes of the session."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "compiled"
    folder.mkdir(exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _double_precision_stays() -> Iterator[None]:
    """A test that runs a stage in this process would leave its precision to all later tests."""
    yield
    assert jax.config.read("jax_enable_x64"), "this test left single precision behind"


# --- what a run leaves out ------------------------------------------------------------------------

LEFT_OUT = pytest.StashKey[set[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = set()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    for item in items:
        item.config.stash[LEFT_OUT].add(item.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist sends the list to the process that prints the summary."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        left_out = session.config.stash[LEFT_OUT]
        output["left_out"] = sorted(left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[LEFT_OUT].update(getattr(node, "workeroutput", {}).get("left_out", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests that the marker expression left out, by file."""
    config = terminalreporter.config
    left_out = config.stash[LEFT_OUT]
    if not config.option.markexpr or not left_out:
        return
    terminalreporter.section("left out")
    terminalreporter.write_line(
        f"{len(left_out)} tests do not match -m {config.option.markexpr!r}. Run them with "
        "`make test-all`:"
    )
    files = Counter(name.partition("::")[0] for name in left_out)
    for file, count in sorted(files.items()):
        terminalreporter.write_line(f"  {file}: {count}")
    terminalreporter.write_line(
        "Not part of it: make test-slurm, make test-browser and make test-gpu."
    )
