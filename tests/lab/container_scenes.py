"""Plays one scene with a real container runtime and prints what happened, as JSON: container_scenes.py RUNTIME SCENE.

Runs on the throw-away host, against the product's own classes. $DIGEST is the digest of the image in $IMAGE, which has
a shell and busybox's tools, and nothing else.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from container_runtime.base import ContainerRuntime
from container_runtime.choose import runtime_named
from container_runtime.errors import ContainerError
from container_runtime.spec import (
    LABELS,
    ContainerHandle,
    ContainerSpec,
    DeviceRequest,
    ImageIdentity,
    ImageReference,
    Limits,
    Mount,
    PortMapping,
)
from daemon_core.redaction import Redactor
from tests.support.waiting import until

IMAGE = os.environ["IMAGE"]
DIGEST = os.environ["DIGEST"]
KEY = "sesame-open-4711"
REGISTRY_FILES = Path("/var/lib/registry/docker/registry/v2/blobs/sha256")
LOCKED = IMAGE.replace(":5000", ":5002")
NO_DIGEST = f"sha256:{'0' * 64}"
THIS = ImageReference(image=IMAGE, digest=DIGEST)

Answers = dict[str, Any]


def spec(name: str, script: str | None = None, **parts: Any) -> ContainerSpec:  # noqa: ANN401 - any field of it
    """A container of the image that runs this shell script."""
    command = {"args": ("/bin/sh", "-c", script)} if script is not None else {}
    labels = dict.fromkeys(LABELS, name)
    return ContainerSpec(**({"name": name, "image": IMAGE, "digest": DIGEST, "labels": labels} | command | parts))


async def outcome(awaitable: Awaitable[object]) -> str:
    """The cause of the error that it raises, with its message."""
    try:
        return f"no error: {await awaitable}"
    except ContainerError as error:
        sys.stderr.write(f"{error.cause}: {error.message}\n  {error.hint}\n{error.output}\n\n")
        return str(error.cause) if error.hint else f"{error.cause} without a hint"


async def containers() -> int:
    """How many there are, whoever made them and however they are."""
    program = sys.argv[1]
    done = await asyncio.create_subprocess_exec(program, "ps", "--all", "--quiet", stdout=asyncio.subprocess.PIPE)
    stdout, _ = await done.communicate()
    return len(stdout.split())


async def text_of(
    runtime: ContainerRuntime, handle: ContainerHandle, *, follow: bool = False, tail: int | None = None
) -> list[str]:
    async with contextlib.aclosing(runtime.logs(handle, follow=follow, tail=tail)) as lines:
        return [line async for line in lines]


async def line_with(runtime: ContainerRuntime, handle: ContainerHandle, *wanted: str) -> None:
    """Waits until the container has printed each of these."""
    open_ones = set(wanted)
    async with contextlib.aclosing(runtime.logs(handle, follow=True)) as lines:
        async for line in lines:
            open_ones = {words for words in open_ones if words not in line}
            if not open_ones:
                return


# --- scenes ----------------------------------------------------------------------------------------------------------


async def images(runtime: ContainerRuntime) -> Answers:
    said: list[str] = []
    silent = said.append
    none = ImageReference(image=IMAGE, digest=NO_DIGEST)
    by_tag = ImageReference(image=IMAGE, tag="1")
    answers: Answers = {
        "before": await runtime.present(THIS),
        "no such digest": await outcome(runtime.pull(none, silent)),
        "no such tag": await outcome(runtime.pull(ImageReference(image=IMAGE, tag="none"), silent)),
        "no such image": await outcome(runtime.pull(ImageReference(image=f"{IMAGE}-none"), silent)),
        "no registry": await outcome(runtime.pull(ImageReference(image="127.0.0.1:5001/engine"), silent)),
        "no login": await outcome(runtime.pull(ImageReference(image=LOCKED, tag="1"), silent)),
    }
    with changed(largest_blob(), lambda data: data[:5000] + b"changed" + data[5007:]):
        answers["tampered layer"] = await outcome(runtime.pull(THIS, silent))
    with changed(largest_blob(), lambda data: data[:5000]):
        answers["cut layer"] = await outcome(runtime.pull(THIS, silent))
    with changed(blob(DIGEST), lambda data: data.replace(b'"size":', b'"size": ')):
        answers["tampered manifest"] = await outcome(runtime.pull(THIS, silent))
    answers["after failures"] = await runtime.present(THIS)
    said.clear()
    answers["pulled"] = (await runtime.pull(THIS, silent)).digest == DIGEST
    answers["by digest"] = list(said)
    answers["present"] = await runtime.present(THIS) == ImageIdentity(image=IMAGE, tag=None, digest=DIGEST)
    answers["other digest"] = await runtime.present(none)
    said.clear()
    answers["by tag"] = await runtime.pull(by_tag, silent) == ImageIdentity(image=IMAGE, tag="1", digest=DIGEST)
    answers["warning"] = said[-1].replace(DIGEST, "DIGEST")
    log_in()
    answers["logged in"] = (await runtime.pull(ImageReference(image=LOCKED, tag="1"), silent)).digest == DIGEST
    return answers


async def twins(runtime: ContainerRuntime) -> Answers:
    """One image under two digests, of which the registry has lost one: a tag stands for the other one."""
    other = ImageReference(image=IMAGE, tag="other")
    for command in (["pull", THIS.text], ["push", "--format=v2s2", "--digestfile=twin", THIS.text, other.text]):
        subprocess.run(["podman", *command], check=True, capture_output=True, cwd=Path.home())
    twin = (Path.home() / "twin").read_text()
    both = [await runtime.pull(reference, lambda _line: None) for reference in (THIS, other)]
    with lost(DIGEST):
        by_other = await runtime.pull(other, lambda _line: None)
    with lost(twin):
        by_tag = await runtime.pull(ImageReference(image=IMAGE, tag="1"), lambda _line: None)
    return {
        "differ": twin != DIGEST,
        "known": {identity.digest for identity in both} <= {DIGEST, twin},
        "other": by_other.digest == twin,
        "tag": by_tag.digest == DIGEST,
        "by either": all([await runtime.present(ImageReference(image=IMAGE, digest=text)) for text in (DIGEST, twin)]),
    }


@contextlib.contextmanager
def lost(digest: str) -> Iterator[None]:
    """The registry has no image of this digest for a while."""
    number = digest.removeprefix("sha256:")
    link = REGISTRY_FILES.parents[1] / f"repositories/lab/engine/_manifests/revisions/sha256/{number}/link"
    link.rename(link.with_name("lost"))
    try:
        yield
    finally:
        link.with_name("lost").rename(link)


def log_in() -> None:
    """As the operator does; what it writes is for the runtime alone to read."""
    command = [sys.argv[1], "login", "--username", "user", "--password-stdin", LOCKED.partition("/")[0]]
    subprocess.run(command, input=b"pass", check=True, capture_output=True)


def blob(digest: str) -> Path:
    number = digest.removeprefix("sha256:")
    return REGISTRY_FILES / number[:2] / number / "data"


def largest_blob() -> Path:
    return max(REGISTRY_FILES.rglob("data"), key=lambda path: path.stat().st_size)


@contextlib.contextmanager
def changed(path: Path, change: Callable[[bytes], bytes]) -> Iterator[None]:
    """The registry's file is another one for a while."""
    data = path.read_bytes()
    path.write_bytes(change(data))
    try:
        yield
    finally:
        path.write_bytes(data)


INSIDE = """
id -u
grep -E 'Cap(Eff|Bnd)|NoNewPrivs' /proc/self/status
cat /models/model && touch /models/x
touch /cache/x && echo cache can be written
touch /x
touch /run/x
touch /tmp/x && echo tmp can be written
ls /dev | grep nvidia
grep -E ' /dev/shm ' /proc/mounts
echo mode=$MODE home=$HOME key=$ENGINE_KEY token=$LLORCH_API_TOKEN proxy=$https_proxy notify=$NOTIFY_SOCKET
echo served > /tmp/index.html
sleep 1000 &
exec httpd -f -p 8000 -h /tmp
"""


async def run(runtime: ContainerRuntime) -> Answers:
    models, cache = Path.home() / "models", Path.home() / "cache"
    models.mkdir(mode=0o700)
    cache.mkdir(mode=0o700)
    (models / "model").write_text("weights\n")
    (models / "model").chmod(0o600)
    await runtime.pull(THIS, lambda _line: None)
    wanted = spec(
        "engine-a",
        INSIDE,
        env={"MODE": "quick", "HOME": "/tmp/home"},
        key_env="ENGINE_KEY",
        devices=(DeviceRequest.gpu(1),),
        ports=(PortMapping(container=8000),),
        model_mount=Mount(source=str(models), target="/models"),
        mounts=(Mount(source=str(cache), target="/cache", writable=True),),
        tmpfs=("/tmp",),
        limits=Limits(shm_bytes=3 << 20, memory_bytes=1 << 30, pids=200),
    )
    findings = await runtime.preflight(wanted)
    handle = await runtime.run(wanted, KEY)
    port = handle.ports[0].host
    body = await asyncio.to_thread(served, port)
    # The last of each output: they come on ways of their own.
    await line_with(runtime, handle, "mode=quick", "touch: /run/x")
    state = await runtime.inspect(handle)
    commands = [command_of(pid) for pid in state.pids]
    env = await runtime.environment(handle)
    answers: Answers = {
        "findings": findings,
        "body": body,
        "listens on": listening(port),
        "log": await text_of(runtime, handle),
        "cache": sorted(path.name for path in cache.iterdir()),
        "owner": (cache / "x").stat().st_uid == os.getuid(),
        "commands": commands,
        "running": (state.running, state.exit_code, state.started_at is not None),
        "key in environment": env["ENGINE_KEY"] == KEY,
        "key in an argv": any(KEY in command_of(int(p.name)) for p in Path("/proc").iterdir() if p.name.isdigit()),
        "handle": (handle.runtime, handle.name, handle.image_digest == DIGEST, len(handle.container_id)),
        "found": await runtime.find(wanted.labels) == (handle,),
        "found by others": await runtime.find(wanted.labels | {LABELS[0]: "other"}),
        "taken name": await outcome(runtime.run(wanted, KEY)),
        "still there": len(await runtime.find(wanted.labels)),
    }
    answers["inspected"] = await inspected(handle)
    await runtime.stop(handle, timeout_ms=1000)
    answers["gone"] = await outcome(runtime.inspect(handle))
    await runtime.stop(handle, timeout_ms=1000)
    answers["left"] = (await containers(), [pid for pid in state.pids if Path("/proc", str(pid)).exists()])
    return answers


def served(port: int) -> str:
    """What is served there, from when on it is: until then the runtime's own proxy answers, and breaks off."""
    due = time.monotonic() + 60
    while True:
        try:
            return read(port)
        except OSError:
            if time.monotonic() > due:
                raise


def read(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/index.html", timeout=60) as response:
        return str(response.read().decode())


def listening(port: int) -> list[str]:
    """The addresses, as the kernel writes them, on which somebody listens to this port."""
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            address, number = line.split()[1].split(":")
            if int(number, 16) == port and line.split()[3] == "0A":
                found.append(address)
    return found


def command_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path("/proc", str(pid), "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return ""


async def inspected(handle: ContainerHandle) -> Answers:
    """What the runtime itself says it was asked for."""
    done = await asyncio.create_subprocess_exec(
        handle.runtime, "container", "inspect", handle.container_id, stdout=asyncio.subprocess.PIPE
    )
    stdout, _ = await done.communicate()
    host_config = json.loads(stdout)[0]["HostConfig"]
    wanted = ("Memory", "ShmSize", "PidsLimit", "ReadonlyRootfs", "AutoRemove")
    return {name: host_config[name] for name in wanted} | {"log": host_config["LogConfig"]["Type"]}


async def ends(runtime: ContainerRuntime) -> Answers:
    await runtime.pull(THIS, lambda _line: None)
    stubborn = await runtime.run(spec("stubborn", "trap '' TERM; echo deaf; while true; do sleep 0.1; done"), None)
    await line_with(runtime, stubborn, "deaf")
    state = await runtime.inspect(stubborn)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(outcome(runtime.wait(stubborn)))
        await runtime.stop(stubborn, timeout_ms=500)
    # Its own end, by KILL, or that it is gone, where the removal came first.
    killed = "exit_code=137" in waiting.result() or waiting.result() == "container_gone"

    polite = spec("polite", "trap 'echo bye > /said/x; exit 0' TERM; echo ready; while true; do sleep 0.1; done")
    said = Path.home() / "said"
    said.mkdir()
    mount = Mount(source=str(said), target="/said", writable=True)
    handle = await runtime.run(msgspec.structs.replace(polite, mounts=(mount,)), None)
    await line_with(runtime, handle, "ready")
    await runtime.stop(handle, timeout_ms=20_000)

    over = await runtime.run(spec("over", "echo out; echo err >&2; exit 3"), None)
    ended = await runtime.wait(over)
    again = await runtime.inspect(over)
    found = await runtime.find(over.labels)
    await runtime.stop(over, timeout_ms=1000)
    return {
        "stubborn": killed,
        "processes": [pid for pid in state.pids if Path("/proc", str(pid)).exists()],
        "polite": sorted(path.name for path in said.iterdir()),
        "ended": (ended.running, ended.exit_code, ended.oom_killed, ended.pids, ended == again),
        "found": [handle.name for handle in found],
        "left": await containers(),
    }


async def logs(runtime: ContainerRuntime) -> Answers:
    await runtime.pull(THIS, lambda _line: None)
    script = """
echo first Bearer abcdefghijklmnop
echo $ENGINE_KEY >&2
i=0; line=x; while [ $i -lt 15 ]; do line=$line$line; i=$((i + 1)); done
echo $line$line$line
printf 'no end of line'
"""
    handle = await runtime.run(spec("talker", script, key_env="ENGINE_KEY"), KEY)
    followed = await text_of(runtime, handle, follow=True)
    await runtime.stop(handle, timeout_ms=1000)
    # The last lines come alone: podman cuts lines where one of its reads ends, and counts the second half as a line.
    flood = f"i=0; while [ $i -lt 14000 ]; do i=$((i + 1)); echo $i {'x' * 1000}; done; sleep 1; echo a; echo b; echo c"
    handle = await runtime.run(spec("flood", flood), None)
    await runtime.wait(handle)
    kept = await text_of(runtime, handle)
    last = await text_of(runtime, handle, tail=3)
    await runtime.stop(handle, timeout_ms=1000)

    # It falls silent while there is a file halt, and says so with a file halted.
    gate = Path.home() / "gate"
    gate.mkdir()
    script = """
i=0
while true; do
  i=$((i + 1))
  echo $i
  sleep 0.1
  while [ -e /gate/halt ]; do touch /gate/halted; sleep 0.1; done
done
"""
    mount = Mount(source=str(gate), target="/gate", writable=True)
    endless = await runtime.run(spec("endless", script, mounts=(mount,)), None)
    numbers: list[int] = []
    async with contextlib.aclosing(runtime.logs(endless, follow=True)) as lines:
        async for line in lines:
            numbers.append(int(line))
            if len(numbers) == 3:
                for pid in followers():
                    os.kill(pid, signal.SIGKILL)
            if numbers[-1] > 10:
                break
    left = followers()
    # Podman looks for the last lines, and then for those that come: one that comes in between is seen by neither.
    (gate / "halt").touch()
    await until((gate / "halted").exists)
    async with contextlib.aclosing(runtime.logs(endless, follow=True, tail=2)) as lines:
        later = [int(await anext(lines)) for _ in range(2)]
        (gate / "halt").unlink()
        later += [int(await anext(lines)) for _ in range(8)]
    whole: list[int] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(follow(runtime, endless, whole))
        await until(lambda: whole[-1:] > [later[-1]])
        await runtime.stop(endless, timeout_ms=0)
    return {
        "followed": [line if len(line) < 100 else len(line) for line in followed],
        "kept": len(kept),
        "last": last,
        "from the last on": later == list(range(later[0], later[0] + 10)) and later[0] > 1,
        "goes on": numbers == sorted(set(numbers)),
        "followers left": left,
        "to the end": len(whole) > 10,
        "of nobody": await outcome(text_of(runtime, handle)),
        "left": await containers(),
    }


async def follow(runtime: ContainerRuntime, handle: ContainerHandle, numbers: list[int]) -> None:
    """Appends what it prints, to the end."""
    async with contextlib.aclosing(runtime.logs(handle, follow=True)) as lines:
        async for line in lines:
            numbers.append(int(line))  # noqa: PERF401 - each is looked at when it has come


def followers() -> list[int]:
    """The processes that follow a log."""
    return [pid for pid in pids() if re.match(r"\S*(podman|docker) logs", command_of(pid))]


def pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


async def failures(runtime: ContainerRuntime) -> Answers:
    absent = msgspec.structs.replace(spec("absent", "true"), digest=NO_DIGEST)
    await runtime.pull(THIS, lambda _line: None)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = PortMapping(container=80, host=taken.getsockname()[1])
        mount = Mount(source="/nothere", target="/x")
        bad = spec("bad", "true", ports=(port,), mounts=(mount,), devices=(DeviceRequest.gpu(0), DeviceRequest.gpu(7)))
        answers: Answers = {
            "no image": await outcome(runtime.run(absent, None)),
            "no digest": await outcome(runtime.run(spec("tag", "true", digest=None, tag="1"), None)),
            "port taken": await outcome(runtime.run(spec("port", "sleep 100", ports=(port,)), None)),
            "no mount": await outcome(runtime.run(spec("mount", "true", mounts=(mount,)), None)),
            "no program": await outcome(runtime.run(spec("program", None, args=("nothere",)), None)),
            "no entrypoint": await outcome(runtime.run(spec("entry", None, entrypoint="/nothere"), None)),
            "preflight": [finding.check for finding in await runtime.preflight(bad)],
        }
    answers["no device"] = await outcome(runtime.run(spec("device", "sleep 1", devices=(DeviceRequest.gpu(7),)), None))
    answers["after failures"] = await containers()
    hurried = 0
    for delay_ms in (1, 20, 40, 80, 160, 320, 5_000):
        handle = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_ms / 1000):
                handle = await runtime.run(spec(f"hurried-{delay_ms}", "sleep 100"), None)
        if handle is None:
            hurried += 1
        else:
            await runtime.stop(handle, timeout_ms=0)
    answers["after hurry"] = (hurried > 0, await containers())
    return answers


async def crash(runtime: ContainerRuntime) -> Answers:
    """A manager that was killed with -9 leaves an engine; the next one finds it and adopts it, or stops it."""
    await runtime.pull(THIS, lambda _line: None)
    reader, writer = os.pipe()
    manager = await asyncio.create_subprocess_exec(
        sys.executable, __file__, sys.argv[1], "manager", stdout=writer, pass_fds=()
    )
    os.close(writer)
    with os.fdopen(reader) as said:
        port = int(await asyncio.to_thread(said.readline))
        manager.send_signal(signal.SIGKILL)
        await manager.wait()
    found = await runtime.find({LABELS[0]: "left"})
    body = await asyncio.to_thread(served, port)
    state = await runtime.inspect(found[0])
    env = await runtime.environment(found[0])
    await runtime.stop(found[0], timeout_ms=500)
    return {
        "found": [(handle.name, handle.ports[0].host == port) for handle in found],
        "body": body,
        "running": state.running,
        "processes": len(state.pids),
        "key": env["ENGINE_KEY"] == KEY,
        "left": await containers(),
    }


async def manager(runtime: ContainerRuntime) -> Answers:
    """Starts an engine, says its port, and waits to be killed."""
    script = "echo served > /tmp/index.html; exec httpd -f -p 8000 -h /tmp"
    ports = (PortMapping(container=8000),)
    wanted = spec("left", script, key_env="ENGINE_KEY", ports=ports, tmpfs=("/tmp",))
    handle = await runtime.run(wanted, KEY)
    await asyncio.to_thread(served, handle.ports[0].host)
    sys.stdout.write(f"{handle.ports[0].host}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()
    return {}


async def gpus(runtime: ContainerRuntime) -> Answers:
    identity = await runtime.pull(THIS, lambda _line: None)
    uuid = "GPU-00000000-0000-0000-0000-00000000000"
    return {
        "first": await runtime.visible_gpus(identity, (DeviceRequest.gpu(0),)),
        "second by uuid": await runtime.visible_gpus(identity, (DeviceRequest.gpu(f"{uuid}1"),)),
        "both": await runtime.visible_gpus(identity, (DeviceRequest.gpu(0), DeviceRequest.gpu(1))),
        "none": await outcome(runtime.visible_gpus(identity, ())),
        "left": await containers(),
    }


async def without_gpus(runtime: ContainerRuntime) -> Answers:
    """On a host that has no GPU to give."""
    identity = await runtime.pull(THIS, lambda _line: None)
    wanted = spec("gpu", "sleep 100", devices=(DeviceRequest.gpu(0),))
    return {
        "run": await outcome(runtime.run(wanted, None)),
        "gpus": await outcome(runtime.visible_gpus(identity, wanted.devices)),
        "preflight": [finding.check for finding in await runtime.preflight(wanted)],
        "left": await containers(),
    }


SCENES = (images, twins, run, ends, logs, failures, crash, manager, gpus, without_gpus)


def main() -> None:
    redactor = Redactor((KEY,))
    environ = {**os.environ, "LLORCH_API_TOKEN": "not-for-engines", "NOTIFY_SOCKET": "/run/notify"}
    runtime = runtime_named(sys.argv[1], environ | {"https_proxy": "http://user:word@127.0.0.1:1"}, redactor.text)
    scene = next(scene for scene in SCENES if scene.__name__ == sys.argv[2])
    json.dump(asyncio.run(scene(runtime)), sys.stdout, default=str)


if __name__ == "__main__":
    main()
