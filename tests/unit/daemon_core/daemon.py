"""A daemon that does nothing, as a program of its own: what run_daemon does can only be seen from outside."""

import asyncio
import sys
import threading

from daemon_core.entry import DaemonContext, run_daemon
from daemon_core.errors import StartupError


def say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


async def serve(context: DaemonContext) -> None:
    context.notifier.ready("ready")
    say("ready")
    match MODE:
        case "startup-error":
            async with asyncio.TaskGroup() as group:
                group.create_task(refuse(context))
        case "bug":
            raise ZeroDivisionError("with Bearer abcdefghij")
        case "never-drains":
            await context.stopping.wait()
            say("draining")
            await context.hurry.wait()
            say("hurried")
            await asyncio.Event().wait()
        case "busy":
            over = threading.Event()
            async with asyncio.TaskGroup() as group:
                for _ in range(40):
                    group.create_task(asyncio.to_thread(over.wait))
                await asyncio.sleep(0)
                await asyncio.to_thread(say, "asked")
                over.set()
        case "reload":
            await context.reload.wait()
            context.reload.clear()
            say("reloaded")
            await context.stopping.wait()
        case _:
            await context.stopping.wait()
            say("drained")


async def refuse(context: DaemonContext) -> None:
    raise StartupError(f"port {context.config.server.bind} is taken, api_key=abc", "choose another", 1)


MODE = sys.argv.pop().removeprefix("mode=") if sys.argv[-1].startswith("mode=") else "good"
if __name__ == "__main__":
    raise SystemExit(run_daemon("testd", None, serve))
