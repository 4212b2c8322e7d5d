"""Decides what a preflight says about devices that a container cannot have. Never looks for itself."""

from __future__ import annotations

from container_runtime import cdi
from container_runtime.spec import DeviceRequest
from contracts.engines import Finding

GENERATE = "sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
_WHY = "engines compute on the GPUs of their pool and on nothing else"


def of_cdi(files: tuple[cdi.CdiFile, ...], devices: tuple[DeviceRequest, ...]) -> tuple[Finding, ...]:
    """For a runtime that gives devices by CDI name."""
    missing = cdi.unoffered(files, devices)
    if not missing:
        return ()
    if not files:
        return (_finding("there is no CDI file in /etc/cdi or /var/run/cdi", f"{_TOOLKIT}; {GENERATE}"),)
    found = [
        _finding(f"{file.path} cannot be used: {file.problem}", f"write it anew: {GENERATE}")
        for file in files
        if file.problem is not None
    ]
    offered = sorted({name for file in files for name in file.devices})
    text = f"no CDI file offers {', '.join(missing)}; offered are: {', '.join(offered) or 'none'}"
    return (*found, _finding(text, f"correct the pool's devices, or write the file anew: {GENERATE}"))


def of_hook() -> tuple[Finding, ...]:
    """For a docker that knows neither CDI nor NVIDIA's runtime."""
    text = "docker has no support for NVIDIA GPUs: neither CDI, nor NVIDIA's runtime, nor its hook"
    configure = "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
    return (_finding(text, f"{_TOOLKIT}; {configure}"),)


_TOOLKIT = "install nvidia-container-toolkit from NVIDIA's package repository for your distribution"


def _finding(message: str, hint: str) -> Finding:
    return Finding(check="container-device", message=message, why=_WHY, hint=hint)
