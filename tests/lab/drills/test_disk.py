"""Drills: the disk is full or read-only, or what stands on it is damaged. One host, whose ~/.local is a small disk."""

import pytest

from tests.lab.drills.conftest import Play, chosen, each, judge
from tests.lab.drills.drill import Drill, Played, well

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

PREPARED = """
hand small-disk 16
configure
prepare
start
"""


def full(played: Played) -> None:
    well(played.stream("stream"))
    assert '"code":"POOL_UNAVAILABLE"' in played.files["refused"]
    assert '"retriable":true' in played.files["refused"]
    assert "make room in /home/lab/.local/share/llama-orch" in played.files["refused"]
    assert played.files["refused"].endswith("503\n")
    assert not played.json("failed")["ready"]
    error = played.json("failed")["last_error"]
    assert error["message"] == "cannot write the engine's handle: No space left on device"
    assert error["hint"].startswith("make room on the disk")
    assert "stream" in played.ended()
    assert not any("cannot end the engine" in line for line in played.said("pool-managerd"))


def damaged_index(played: Played) -> None:
    well(played.stream("stream"))
    before, after = ({entry["id"] for entry in played.json(name)["models"]} for name in ("before", "after"))
    assert before
    assert before == after
    assert not any("computing the digest" in line for line in played.said("pool-managerd"))
    assert {"models.json.corrupt-1", "engines.json.corrupt-1"} <= set(played.files["catalog"].split())


def damaged_store(played: Played) -> None:
    well(played.stream("before"))
    well(played.stream("stream"))
    assert "tasks.sqlite3.damaged-" in played.files["data"]
    assert played.files["forgotten"] == "404"
    assert [receipt["number"] for receipt in played.receipts()] == [1]


def read_only(played: Played) -> None:
    well(played.stream("before"))
    assert played.files["kept"] == played.files["before"]
    well(played.stream("stream"))
    kept = played.receipts("receipts.before")
    assert played.receipts()[: len(kept)] == kept
    assert played.ended() == ["before", "stream"]


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
        left="The receipt of the stream that ended meanwhile is written when there is room. One engine runs, and its "
        "handle tells of it.",
        script=r"""
daemons="$(main_pid orchestratord) $(main_pid pool-managerd)"
halt
ask stream 300
hold stream
fill() { cat /dev/zero >> ~/.local/filler 2> /dev/null || true; }
fill
# What is let in while there is room in a file that is there already, fills it.
refused() { refusal 4 > $here/refused; grep -q '^503' $here/refused; }
eventually 30 refused
let_go
wait
# A handle that is removed makes room for the next one: whoever is quick enough is killed once more.
failed() {
  fill
  if pool_is_ready; then kill -KILL $(engines); fi
  health | tee $here/failed | grep -q 'No space left'
}
kill -KILL $(engines)
eventually 30 failed
rm ~/.local/filler
eventually 30 pool_is_ready
receipt stream
refusal 4 | grep -q '^202'
handle=$(grep -o '"pid": *[0-9]*' ~/.local/state/llama-orch/handles/gpu0.json)
same "engine, and its handle" "$(engines)" "${handle##*[: ]}"
same daemons "$(main_pid orchestratord) $(main_pid pool-managerd)" "$daemons"
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
        left="The damaged files are kept beside the new ones. The model is not hashed again.",
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
        client="Tasks are served. Those of before are not known any more (404), and the chain of receipts begins anew.",
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
curl --silent --output /dev/null --write-out '%{http_code}' -H "Authorization: Bearer $token" \
  "$url/v1/tasks/$(task_of before)" > $here/forgotten
ask stream 20
wait
ls ~/.local/share/llama-orch > $here/data
receipt stream
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
        left="No engine runs meanwhile. Tasks and receipts of before are there afterwards.",
        script=r"""
ask before 20
wait
receipt before
mv $here/receipts $here/receipts.before
stop_product
hand read-only
systemctl --user start --no-block llama-orch.target
tried() { [ "$(property $1 NRestarts)" -ge 1 ]; }
for daemon in orchestratord pool-managerd; do eventually 30 tried $daemon; done
not answers
same engines "$(scoped)" ""
hand writable
eventually 60 pool_is_ready
read_task before kept
ask stream 20
wait
receipt stream
""",
        prove=read_only,
    ),
)


@pytest.fixture(scope="module")
def played(drills: Play, request: pytest.FixtureRequest) -> dict[str, Played]:
    return drills(chosen(DRILLS, request), prepared=PREPARED)


@pytest.mark.parametrize("drill", each(DRILLS))
def test_disk(drill: Drill, played: dict[str, Played]) -> None:
    judge(drill, played)
