"""Drills: the disk is full or read-only, or what stands on it is damaged. One host, whose ~/.local is a small disk."""

import pytest

from tests.lab.drills.conftest import Play, each, judge
from tests.lab.drills.drill import Drill, Played

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]

PREPARED = """
hand small-disk 16
configure
prepare
start
"""


def full(played: Played) -> None:
    assert played.stream("stream").end is not None
    assert "POOL_UNAVAILABLE" in played.files["refused"]
    assert "make room in /home/lab/.local/share/llama-orch" in played.files["refused"]
    assert played.files["refused"].endswith("503\n")
    error = played.json("failed")["last_error"]
    assert error["message"] == "cannot write the engine's handle: No space left on device"
    assert error["hint"].startswith("make room on the disk")
    receipts = played.json("receipts")["receipts"]
    assert receipts[0]["content"]["task_id"] in played.files["stream"]
    assert not any("cannot end the engine" in line for line in played.said("pool-managerd"))


def damaged_index(played: Played) -> None:
    assert played.stream("stream").end is not None
    before, after = ({entry["id"] for entry in played.json(name)["models"]} for name in ("before", "after"))
    assert before == after
    assert {"models.json.corrupt-1", "engines.json.corrupt-1"} <= set(played.files["catalog"].split())


def damaged_store(played: Played) -> None:
    assert played.stream("before").end is not None
    assert played.stream("stream").end is not None
    assert "tasks.sqlite3.damaged-" in played.files["data"]
    assert [receipt["content"]["number"] for receipt in played.json("receipts")["receipts"]] == [1]


def read_only(played: Played) -> None:
    assert played.files["results"] == "orchestratord yes\npool-managerd yes\n"
    assert played.stream("stream").end is not None


DRILLS = (
    Drill(
        name="disk-full",
        done="The disk with the task store, the handles and the logs is filled while a stream runs. Then the engine is "
        "killed. At last room is made.",
        client="The stream goes on to its `end`. A new task is refused with `POOL_UNAVAILABLE` (503, retriable), whose "
        "hint names the folder to make room in. The killed engine is not replaced while nothing can be written about "
        "it: `last_error` of its pool says so. As soon as there is room the pool is ready and tasks are let in, with "
        "no restart of anything.",
        journal=(
            "task refused: the task cannot be kept: the task store",
            "cannot be written: database or disk is full; make room in",
            "cannot write the engine's handle: No space left on device",
            "pool gpu0 is ready",
        ),
        left="The end and the receipt of the stream that ended meanwhile are written when there is room. No engine "
        "runs that no handle tells of.",
        script=r"""
ask stream 600
flows stream
cat /dev/zero > ~/.local/filler 2> /dev/null || true
refusal 4 > $here/refused
wait
kill -KILL $(engines)
failed() { health | tee $here/failed | grep -q 'No space left'; }
eventually 20 failed
rm ~/.local/filler
eventually 20 pool_is_ready
[ "$(engines | wc -l)" = 1 ]
receipt() { api /v1/receipts | tee $here/receipts | grep -q "$(task_of stream)"; }
eventually 20 receipt
refusal 4 | grep -q '^202'
""",
        prove=full,
        req=("OP-01", "HP-21", "EP-16", "MP-02"),
    ),
    Drill(
        name="index-damaged",
        done="Both indices of the catalog are cut off in the middle while nothing runs. Then the target is started.",
        client="Nothing: the models are the same as before, and a task is served.",
        journal=(
            "models.json could not be read",
            "kept as models.json.corrupt-1, 1 entries rebuilt",
            "kept as engines.json.corrupt-1",
        ),
        left="The damaged files are kept beside the new ones. No model was fetched or hashed for nothing.",
        script=r"""
api /v1/catalog/models > $here/before
stop_product
for index in models engines; do truncate --size=60 ~/.local/share/llama-orch/catalog/$index.json; done
start
ask stream 20
wait
api /v1/catalog/models > $here/after
ls ~/.local/share/llama-orch/catalog > $here/catalog
""",
        prove=damaged_index,
        req=("CAT-04",),
    ),
    Drill(
        name="store-damaged",
        done="The first pages of the task store are overwritten with noise while nothing runs. Then the target is "
        "started.",
        client="Tasks are served. Those of before are not known any more, and the chain of receipts begins anew.",
        journal=(
            "is damaged: file is not a database; it stands in",
            "the tasks and receipts in it are not known any more",
        ),
        left="The damaged file is kept beside the new one.",
        script=r"""
ask before 20
wait
stop_product
dd if=/dev/urandom of=$HOME/.local/share/llama-orch/tasks.sqlite3 bs=4096 count=2 conv=notrunc 2> /dev/null
start
ask stream 20
wait
ls ~/.local/share/llama-orch > $here/data
receipt() { api /v1/receipts | tee $here/receipts | grep -q "$(task_of stream)"; }
eventually 20 receipt
""",
        prove=damaged_store,
        req=("HP-21",),
    ),
    Drill(
        name="disk-read-only",
        done="The target is started while the disk is read-only, as a file system is after a fault. Then the disk is "
        "mended.",
        client="The port is closed, until the disk is mended: a daemon that could keep nothing that it promises does "
        "not start. Both are tried again by the service manager, and serve by themselves when the disk takes writes.",
        journal=(
            "pool-managerd: cannot use /home/lab/.local",
            "orchestratord: the task store /home/lab/.local/share/llama-orch/tasks.sqlite3 cannot be written",
            "Read-only file system",
            "pool gpu0 is ready",
        ),
        left="Nothing of ours runs meanwhile. All tasks and receipts of before are there afterwards.",
        script=r"""
stop_product
hand read-only
systemctl --user start llama-orch.target || true
tried() { [ "$(property $1 NRestarts)" -ge 1 ]; }
for daemon in orchestratord pool-managerd; do
  eventually 20 tried $daemon
  echo $daemon yes >> $here/results
done
if answers; then exit 1; fi
hand writable
eventually 20 pool_is_ready
ask stream 20
wait
api /v1/receipts | grep -q '"number":2'
""",
        prove=read_only,
    ),
)


@pytest.fixture(scope="module")
def played(drills: Play) -> dict[str, Played]:
    return drills(DRILLS, prepared=PREPARED)


@pytest.mark.parametrize("drill", each(DRILLS))
def test_disk(drill: Drill, played: dict[str, Played]) -> None:
    judge(drill, played)
