"""The llama.cpp server of the wheel ``xllamacpp``: profile trial's engine.

Decides where that engine is. Its bytes are the wheel's native module; its program is
``engine_provisioner.wheel_server``, run by this interpreter.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path

import msgspec

from contracts.config import TRIAL_WHEEL, Pool
from contracts.pools import Cause
from daemon_core.python_packages import install_hint
from engine_provisioner import wheel_server
from engine_provisioner.errors import ProvisionError
from engine_provisioner.host import Host
from engine_provisioner.providers.native import Found, Program

INSTALL_HINT = install_hint(TRIAL_WHEEL)


class Wheel(msgspec.Struct, frozen=True, kw_only=True):
    """An installed wheel."""

    version: str
    native_module: Path


def installed_wheel() -> Wheel | None:
    """The wheel in this interpreter's environment, found without loading it; None where it is not installed."""
    try:
        version = installed_version(TRIAL_WHEEL)
    except PackageNotFoundError:
        return None
    spec = find_spec(TRIAL_WHEEL)
    folders = (spec.submodule_search_locations or ()) if spec else ()
    modules = sorted(module for folder in folders for module in Path(folder).glob(f"{TRIAL_WHEEL}*.so"))
    return Wheel(version=version, native_module=modules[0]) if modules else None


class WheelSource(Found):
    """Finds the wheel. ``find`` is what finds it."""

    def __init__(self, host: Host, find: Callable[[], Wheel | None] = installed_wheel) -> None:
        self._host = host
        self._find = find

    def locate(self, pool: Pool) -> Program:
        """See Found. Raises ProvisionError where the wheel is missing or is not the configured version."""
        wheel = self._find()
        if wheel is None:
            text = f"the wheel {TRIAL_WHEEL} is not installed"
            raise ProvisionError(Cause.ENGINE_MISSING, text, INSTALL_HINT)
        package = pool.provisioning.package
        wanted = package.version if package else None
        if wanted not in {None, wheel.version}:
            text = f"{TRIAL_WHEEL} {wheel.version} is installed, and the pool asks for {wanted}"
            hint = f"remove provisioning.package.version, or: {install_hint(f'{TRIAL_WHEEL}=={wanted}')}"
            raise ProvisionError(Cause.ENGINE_MISSING, text, hint)
        # By its path and with -P: it starts wherever the engine's working directory is, and finds no module of ours in
        # place of one of the standard library's.
        argv = (str(self._host.python), "-P", str(Path(wheel_server.__file__).resolve()))
        return Program(
            argv=argv,
            digest_of=wheel.native_module,
            engine_version=f"{TRIAL_WHEEL}-{wheel.version}",
            flags=wheel_server.FLAGS,
            missing_hint=INSTALL_HINT,
        )
