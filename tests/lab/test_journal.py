"""What the daemons say, read where operators read it: the user's journal, kept by the real journald."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.lab.host import Lab, Outcome
from tests.lab.journal_probe import LINES, LONG

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

Entry = dict[str, Any]

PRODUCT = r"""
. "$CHECKOUT/tests/lab/product.sh"
start_product > ~/started
asked() {
  api /v1/tasks -H 'X-Correlation-Id: corr-lab' "$@" --data \
    '{"task_id": "'"$id"'", "model_ref": "'"$model"'", "prompt": "A haiku about snow:", "max_tokens": 16, "seed": 1}'
}
logged() { [ "$(journalctl --user --quiet --output=cat "$@" | wc -l)" -ge 1 ]; }

id=t-lab asked > ~/accepted
eventually 30 logged LLAMA_ORCH_TASK_ID=t-lab LLAMA_ORCH_TOKENS_OUT=16
eventually 30 logged LLAMA_ORCH_SOURCE=engine LLAMA_ORCH_CORRELATION_ID=corr-lab
# A secret of this machine in what is refused, and so in what is logged.
model=$token id=t-refused asked > /dev/null || true
eventually 30 logged LLAMA_ORCH_CODE=MODEL_UNAVAILABLE
# Another task of the same request; then lines as JSON, from a reload on.
id=t-other asked > /dev/null
eventually 30 logged LLAMA_ORCH_TASK_ID=t-other LLAMA_ORCH_TOKENS_OUT=16
printf '\nlogging: {format: json}\n' >> "$config"
systemctl --user reload orchestratord pool-managerd
eventually 30 logged --unit=orchestratord CODE_FUNC=follow_reloads
eventually 30 logged --unit=pool-managerd CODE_FUNC=follow_reloads
id=t-json asked > /dev/null
eventually 30 logged LLAMA_ORCH_TASK_ID=t-json LLAMA_ORCH_TOKENS_OUT=16
api /v1/pools/trial/drain -H 'X-Correlation-Id: corr-lab' --data '{}' > /dev/null
eventually 30 logged LLAMA_ORCH_POOL=trial LLAMA_ORCH_STATE=stopped

lo="$PREFIX/bin/llama-orch"
"$lo" logs --task t-lab > ~/of-the-task
"$lo" logs --pool trial --engine --json -n 3 > ~/of-the-engine
"$lo" logs --pool trail 2> ~/refused && exit 1
# Who follows sees what comes, and leaves nobody behind.
"$lo" logs --follow --lines 1 > ~/followed &
follower=$!
eventually 30 test -s ~/followed
id=t-late asked > /dev/null || true # refused by now: its pool was drained
eventually 30 grep "pool 'trial' is stopped" ~/followed
kill $follower
wait $follower || true
no_reader() { ! pgrep -x journalctl; }
eventually 30 no_reader

systemctl --user stop llama-orch.target
# A mistake in the configuration: said by a program that is gone a moment later.
sed -i 's/^profile:.*/profile: holiday/' "$config"
systemctl --user start orchestratord || true
of_the_daemon="_SYSTEMD_USER_UNIT=orchestratord.service PRIORITY=3"
told_why() { journalctl --user --quiet --output=cat $of_the_daemon | grep holiday; }
eventually 30 told_why

echo "$token" > ~/token
for name in accepted of-the-task of-the-engine refused followed token; do echo "== $name"; cat ~/$name; echo; done
echo "== journal"
journalctl --user --quiet --all --output=json --unit=orchestratord --unit=pool-managerd
"""

PROBE = r"""
install_units /bin
daemon=orchestratord
mkdir -p ~/.config/systemd/user/$daemon.service.d
printf '%s\n' '[Service]' Type=oneshot WatchdogSec=0 Restart=no ExecStart= \
  "Environment=PYTHONPATH=$CHECKOUT" \
  "ExecStart=\"$PYTHON\" \"$CHECKOUT/tests/lab/journal_probe.py\" s3cr3t-of-the-probe" \
  > ~/.config/systemd/user/$daemon.service.d/probe.conf
systemctl --user daemon-reload
systemctl --user start $daemon
# Not grep -q: it would leave while journalctl still writes, which fails the pipe.
# The last of each of the two ways.
ended() { [ "$(journalctl --user --quiet --unit=$daemon --output=cat | grep -cE '^(  hint: none|burst 1499)$')" = 2 ]; }
eventually 30 ended
journalctl --user --quiet --all --output=json --unit=$daemon
"""


class Seen:
    """What a host has left, by name, and the entries of its journal."""

    def __init__(self, outcome: Outcome) -> None:
        self.parts: dict[str, list[str]] = {}
        name = "journal"
        for line in outcome.stdout.splitlines():
            if line.startswith("== "):
                name = line.removeprefix("== ")
            elif line:
                self.parts.setdefault(name, []).append(line)
        self.text = "\n".join(self.parts["journal"])
        self.entries: list[Entry] = [json.loads(line) for line in self.parts["journal"] if line.startswith("{")]

    def where(self, **fields: str) -> list[Entry]:
        """The entries that have these values, in any of the values of a field."""

        def has(entry: Entry, name: str, value: str) -> bool:
            found = entry.get(name, ())
            return value in found if isinstance(found, list) else value == found

        return [each for each in self.entries if all(has(each, name, value) for name, value in fields.items())]


@pytest.fixture(scope="module")
def seen(lab: Lab) -> Seen:
    return Seen(lab.check(PRODUCT, limit_s=600))


@pytest.mark.req("HP-25")
def test_an_admission_is_a_sentence_with_the_fields_that_one_asks_for(seen: Seen) -> None:
    (entry,) = seen.where(LLAMA_ORCH_TASK_ID="t-lab", CODE_FUNC="admitted")
    accepted = json.loads(seen.parts["accepted"][0])
    assert entry["MESSAGE"] == "task t-lab admitted at position 0, start predicted in 0 ms"
    assert (entry["SYSLOG_IDENTIFIER"], entry["PRIORITY"]) == ("orchestratord", "6")
    assert entry["_SYSTEMD_USER_UNIT"] == "orchestratord.service"
    fields = {name: entry[f"LLAMA_ORCH_{name}"] for name in ("QUEUE_POSITION", "PREDICTED_START_MS", "REPLICA_ID")}
    assert fields == {
        "QUEUE_POSITION": str(accepted["queue_position"]),
        "PREDICTED_START_MS": str(accepted["predicted_start_ms"]),
        "REPLICA_ID": "trial-0",
    }
    assert (entry["LLAMA_ORCH_ENGINE"], entry["LLAMA_ORCH_POOL"]) == ("llamacpp", "trial")
    assert entry["LLAMA_ORCH_ENGINE_VERSION"].startswith("xllamacpp-")


@pytest.mark.req("HP-22")
def test_one_correlation_id_finds_both_daemons_and_the_engines_work(seen: Seen) -> None:
    found = seen.where(LLAMA_ORCH_CORRELATION_ID="corr-lab")
    speakers = {(each["_SYSTEMD_USER_UNIT"], each["SYSLOG_IDENTIFIER"]) for each in found}
    assert speakers == {
        ("orchestratord.service", "orchestratord"),
        ("pool-managerd.service", "pool-managerd"),
        ("pool-managerd.service", "engine-trial"),
    }
    assert any("print_timing" in each["MESSAGE"] for each in found)
    (asked,) = seen.where(LLAMA_ORCH_CORRELATION_ID="corr-lab", LLAMA_ORCH_METHOD="pool.drain")
    assert asked["LLAMA_ORCH_POOL"] == "trial"


def test_a_pool_finds_what_both_say_of_it_and_what_its_engine_prints(seen: Seen) -> None:
    manager = seen.where(LLAMA_ORCH_POOL="trial", SYSLOG_IDENTIFIER="pool-managerd")
    assert "pool trial: ready (probing -> ready)" in [each["MESSAGE"] for each in manager]
    assert seen.where(LLAMA_ORCH_POOL="trial", LLAMA_ORCH_STATE="ready", SYSLOG_IDENTIFIER="pool-managerd")
    engine = seen.where(LLAMA_ORCH_POOL="trial", LLAMA_ORCH_SOURCE="engine")
    assert any("model loaded" in each["MESSAGE"] for each in engine)
    assert {(each["LLAMA_ORCH_ENGINE"], each["LOGGER"]) for each in engine} == {
        ("llamacpp", "pool_managerd.engine_log")
    }


@pytest.mark.req("HP-25", "OP-01")
def test_from_a_reload_on_messages_are_json_and_each_comes_once(seen: Seen) -> None:
    for daemon in ("orchestratord", "pool-managerd"):
        (read,) = seen.where(SYSLOG_IDENTIFIER=daemon, CODE_FUNC="follow_reloads")
        assert json.loads(read["MESSAGE"])["service"] == daemon
    (entry,) = seen.where(LLAMA_ORCH_TASK_ID="t-json", CODE_FUNC="admitted")
    line = json.loads(entry["MESSAGE"])
    assert (line["task_id"], line["queue_position"], line["level"]) == ("t-json", 0, "info")
    assert entry["LLAMA_ORCH_QUEUE_POSITION"] == "0"


@pytest.mark.req("ORCH-3811", "EP-13")
def test_the_token_is_nowhere_in_the_journal(seen: Seen) -> None:
    (token,) = seen.parts["token"]
    (refused,) = seen.where(LLAMA_ORCH_CODE="MODEL_UNAVAILABLE", LLAMA_ORCH_CORRELATION_ID="corr-lab")[:1]
    assert "***" in refused["MESSAGE"]
    assert len(token) > 20
    assert token not in seen.text


@pytest.mark.req("OP-01")
def test_why_a_daemon_does_not_start_is_an_error_of_its_unit(seen: Seen) -> None:
    said = [each["MESSAGE"] for each in seen.where(_SYSTEMD_USER_UNIT="orchestratord.service", PRIORITY="3")]
    assert any("holiday" in each for each in said)


def test_the_command_shows_a_task_with_its_engine_and_follows(seen: Seen) -> None:
    of_the_task = "\n".join(seen.parts["of-the-task"])
    assert "INFO     orchestratord: task t-lab admitted at position 0" in of_the_task
    assert "INFO     engine trial: " in of_the_task
    assert "t-other" not in of_the_task
    printed = [json.loads(line) for line in seen.parts["of-the-engine"]]
    assert [(each["service"], each["pool_id"]) for each in printed] == [("engine", "trial")] * 3
    assert seen.parts["refused"] == ["llama-orch: there is no pool 'trail'", "  hint: did you mean 'trial'?"]


@pytest.fixture(scope="module")
def probed(lab: Lab) -> Seen:
    return Seen(lab.check(PROBE, limit_s=600))


@pytest.mark.req("HP-25", "ORCH-3811")
def test_inside_the_sandbox_every_line_arrives_whole_in_order_and_without_secrets(probed: Seen) -> None:
    ours = probed.where(SYSLOG_IDENTIFIER="probe")
    priorities = {each["MESSAGE"]: each["PRIORITY"] for each in ours if each["MESSAGE"].startswith("level ")}
    assert [priorities[f"level {name}"] for name in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")] == [*"76432"]
    (failed,) = probed.where(LLAMA_ORCH_POOL="probe")
    assert failed["MESSAGE"].startswith("it failed with ***\nTraceback")
    assert failed["MESSAGE"].endswith("ValueError: ***")
    assert (failed["LLAMA_ORCH_HIDDEN"], failed["LLAMA_ORCH_SEVERAL"]) == ("***", ["harmless", "***"])
    assert [each["MESSAGE"][-5:] for each in ours if len(each["MESSAGE"]) > LONG] == ["x ***"]
    burst = [each["MESSAGE"] for each in ours if each["MESSAGE"].startswith("burst ")]
    assert burst == [f"burst {number}" for number in range(LINES)]
    assert {each["_SYSTEMD_USER_UNIT"] for each in ours} == {"orchestratord.service"}
    last = [each for each in probed.entries if each["MESSAGE"] in {"probe: the end", "  hint: none"}]
    assert [each["PRIORITY"] for each in last] == ["3", "3"]
    # The probe got it as an argument, which the journal notes of every process.
    for each in probed.entries:
        assert "s3cr3t" not in "".join(str(value) for name, value in each.items() if name != "_CMDLINE")
