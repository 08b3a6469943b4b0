"""Nothing that reached the disk is lost, nothing else is believed, and there is one writer."""

import asyncio
import errno
import json
import os
import random
import subprocess
import sys
from dataclasses import replace

import pytest

from routerlab.collect.calls import CallError, Reply, Scope
from routerlab.collect.ledger import Ledger, Row
from routerlab.collect.ledger_format import HEADER, LedgerError, encode, scan

REPLY = Reply("42", "stop", 10, 2, 0.5)


def about(key):
    return {"model": "m", "query": key, "sample": 0}


async def one(ledger, key, usd=0.25, outcome=REPLY, final=True):
    attempt = await ledger.intent(key, 1.0, about(key))
    if isinstance(outcome, str):
        outcome = CallError(outcome, Scope.ROW if final else Scope.RETRY)
    await ledger.result(key, attempt, usd, outcome)


def filled(path, keys=12):
    async def session():
        with Ledger.open(path) as ledger:
            for i in range(keys):
                outcome = ("timeout", "context_length", REPLY)[i % 3]
                await one(ledger, f"k{i}", 0.25, outcome, final=i % 3 == 1)
            await ledger.intent("open", 1.0, about("open"))

    asyncio.run(session())
    return path.read_bytes()


def state(ledger):
    return (ledger.results, ledger.errors, ledger.unknown, round(ledger.spent_usd, 9))


def replayed(lines):
    """The state after these whole lines, worked out without the ledger's code: an intent is open until its result; an
    error is final if it says so; a timeout is charged to the run and not to its row.
    """
    results, errors, unknown, spent = {}, {}, {}, 0.0
    for record in (json.loads(line[9:]) for line in lines[1:]):
        key, number, usd = record["key"], record["n"], record["usd"]
        if record["t"] == "intent":
            fields = {"key": key, "usd": usd, "model": "m", "query": key, "sample": 0, "attempt": number}
            unknown[key, number], spent = fields, spent + usd
            continue
        spent += usd - unknown.pop((key, number))["usd"]
        reply = Reply(**record["reply"]) if "reply" in record else None
        row = Row(0.0 if record.get("error") == "timeout" else usd, reply, record.get("error"))
        (results if reply or record["final"] else errors)[key] = row
    return results, errors, list(unknown.values()), round(spent, 9)


def test_what_is_written_is_read_again(tmp_path):
    filled(tmp_path / "l")
    ledger = Ledger.read(tmp_path / "l")
    assert ledger.results["k2"].reply == REPLY
    assert ledger.results["k2"].usd == 0.25
    assert ledger.results["k1"].error == "context_length"
    assert ledger.errors["k0"].error == "timeout"
    assert ledger.errors["k0"].usd == 0, "nobody knows whether a timeout was billed"
    assert [u["key"] for u in ledger.unknown] == ["open"]
    assert ledger.unknown_usd == 1.0
    assert ledger.spent_usd == pytest.approx(12 * 0.25 + 1.0)
    assert str(ledger.recovery) == "25 records"


def test_a_retry_adds_up(tmp_path):
    async def session():
        with Ledger.open(tmp_path / "l") as ledger:
            await one(ledger, "k", 0.1, "empty_choices", final=False)
            await one(ledger, "k", 0.9, "timeout", final=False)
            await one(ledger, "k", 0.2)
            assert "k" not in ledger.errors
            return ledger.results["k"]

    row = asyncio.run(session())
    assert (row.usd, row.reply, row.error) == (pytest.approx(0.3), REPLY, None)


def test_a_cut_at_every_byte_leaves_exactly_the_whole_records(tmp_path):
    whole = filled(tmp_path / "l")
    for cut in range(len(whole) + 1):
        path = tmp_path / "cut"
        path.write_bytes(whole[:cut])
        lines = whole[:cut].splitlines(keepends=True)
        kept = [line for line in lines if line.endswith(b"\n")]
        with Ledger.open(path, sync=lambda _: None) as ledger:
            assert state(ledger) == replayed(kept)
            assert ledger.recovery.torn_bytes == cut - sum(map(len, kept))
        assert path.read_bytes() == (b"".join(kept) or HEADER)


@pytest.mark.parametrize("flips", [2000])
def test_no_flipped_bit_goes_unseen(tmp_path, flips):
    whole = filled(tmp_path / "l", 30)
    assert count_unseen(whole, flips, tmp_path / "flip", random.Random(1)) == 0


def count_unseen(whole, flips, path, rng):
    """How many single-bit flips leave every line believed, or a line believed that was never written."""
    lines, unseen = set(whole.splitlines(keepends=True)), 0
    for _ in range(flips):
        bad = bytearray(whole)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        try:
            found = scan(path)
        except LedgerError:
            continue
        unseen += not (found.bad or found.torn) or not set(found.good) <= lines
    return unseen


def test_a_damaged_line_is_set_aside_and_its_call_stays_charged(tmp_path):
    whole = filled(tmp_path / "l")
    lines = whole.splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if b'"result"' in line and b'"k2"' in line)
    (tmp_path / "l").write_bytes(whole.replace(lines[at], lines[at].replace(b"42", b"43")))
    with Ledger.open(tmp_path / "l") as ledger:
        assert "k2" not in ledger.results
        assert {u["key"] for u in ledger.unknown} == {"k2", "open"}
        assert "1 damaged lines were set aside" in str(ledger.recovery)
    assert b'"43"' in (tmp_path / "l.bad").read_bytes()
    assert (tmp_path / "l").read_bytes() == whole.replace(lines[at], b"")
    assert Ledger.read(tmp_path / "l").recovery.bad_lines == 0


def test_no_flipped_bit_takes_money_out_of_the_account(tmp_path):
    """Every single one: only in the very last line, which no later sum vouches for, may a charge be lost."""
    whole, path = filled(tmp_path / "l", 6), tmp_path / "flip"
    spent, last = Ledger.read(tmp_path / "l").spent_usd, len(whole.splitlines(keepends=True)[-1])
    for at in range(len(whole) - last - 1):
        bad = bytearray(whole)
        bad[at] ^= 1 << at % 8
        path.write_bytes(bad)
        ledger = Ledger.read(path)
        assert ledger.spent_usd >= spent - 1e-12
        accounted = ledger._settled / 10**12 + ledger.unknown_usd + ledger.lost_usd
        assert accounted == pytest.approx(ledger.spent_usd)


def test_a_lost_intent_stays_charged_until_its_result_comes(tmp_path):
    whole = filled(tmp_path / "l", 3)
    lines = whole.splitlines(keepends=True)
    (tmp_path / "l").write_bytes(whole.replace(lines[5], b"x" * 9 + b"\n"))  # the intent of k2
    assert b'"k2"' in lines[5]
    assert Ledger.read(tmp_path / "l").lost_usd == 0, "its result settles it"
    (tmp_path / "l").write_bytes(whole.replace(lines[5] + lines[6], b"x" * 9 + b"\n"))
    with Ledger.open(tmp_path / "l") as ledger:
        assert ledger.lost_usd == pytest.approx(0.25), "both are gone, and what they charged is not"
        asyncio.run(one(ledger, "k2"))
    again = Ledger.read(tmp_path / "l")
    assert again.lost_usd == pytest.approx(0.25)
    assert again.spent_usd == pytest.approx(3 * 0.25 + 1.0 + 0.25)


def test_half_a_surrogate_pair_loses_no_paid_answer(tmp_path):
    async def session():
        with Ledger.open(tmp_path / "l") as ledger:
            await one(ledger, "k", outcome=Reply("cut \ud83d", "length", 1, 1, 0.1))
            await one(ledger, "whole", outcome=Reply("\ud83d\ude00", "stop", 1, 1, 0.1))

    asyncio.run(session())
    ledger = Ledger.read(tmp_path / "l")
    assert ledger.results["k"].reply.text == "cut \ufffd"
    assert ledger.results["whole"].reply.text == "\U0001f600"


def test_a_writer_that_was_cancelled_is_in_the_index(tmp_path):
    async def session():
        with Ledger.open(tmp_path / "l") as ledger:
            asked = asyncio.ensure_future(ledger.intent("k", 1.0, about("k")))
            await asyncio.sleep(0)
            asked.cancel()
            await ledger.intent("other", 1.0, about("other"))
            return state(ledger)

    assert asyncio.run(session()) == state(Ledger.read(tmp_path / "l"))


def test_a_result_without_its_intent_is_refused(tmp_path):
    with Ledger.open(tmp_path / "l") as ledger, pytest.raises(LedgerError, match="write it before"):
        asyncio.run(ledger.result("k", 1, 0.1, REPLY))


@pytest.mark.parametrize("text", ["my thesis\nchapter one\n", "my thesis, on one line"])
def test_a_file_that_is_no_ledger_is_left_alone(tmp_path, text):
    (tmp_path / "l").write_text(text)
    with pytest.raises(LedgerError, match="is not a ledger"):
        Ledger.open(tmp_path / "l")
    assert (tmp_path / "l").read_text() == text
    (tmp_path / "v").write_bytes(encode({"t": "ledger", "v": "ledger/99"}))
    with pytest.raises(LedgerError, match="version"):
        Ledger.open(tmp_path / "v")
    with pytest.raises(LedgerError, match="no ledger at"):
        Ledger.read(tmp_path / "nowhere")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("part", [0.0, 0.5])
def test_a_full_or_broken_disk_stops_cleanly_at_every_write(tmp_path, code, part):
    cure = {errno.ENOSPC: "free some space", errno.EIO: "check the disk"}[code]
    for k in range(9):
        path, count = tmp_path / f"{code}-{part}-{k}", 0

        def write(file, data, k=k):
            nonlocal count
            count += 1
            if count > k:
                if part:
                    os.write(file, data[: int(len(data) * part)])
                raise OSError(code, "disk")
            return os.write(file, data)

        async def session(path=path, write=write):
            with Ledger.open(path, write=write) as ledger:
                for i in range(4):
                    await one(ledger, f"k{i}")

        with pytest.raises(LedgerError, match=cure):
            asyncio.run(session())
        with Ledger.open(path) as ledger:
            believed = len(ledger.results) * 2 + len(ledger.unknown)
            assert believed == max(0, k - 1), "exactly the writes that succeeded"


def test_after_a_failure_nothing_more_is_written(tmp_path):
    def sync(_):
        if broken:
            raise OSError(errno.EIO, "disk")

    async def session():
        with Ledger.open(tmp_path / "l", sync=sync) as ledger:
            broken.append(1)
            done = await asyncio.gather(*(one(ledger, f"k{i}") for i in range(5)), return_exceptions=True)
            assert all(isinstance(d, LedgerError) for d in done)
            broken.clear()
            with pytest.raises(LedgerError):
                await one(ledger, "later")

    broken = []
    asyncio.run(session())
    assert Ledger.read(tmp_path / "l").recovery.records == 0, "what was not synced is not believed"


def test_whatever_breaks_a_write_everyone_hears_of_it(tmp_path):
    def write(file, data):
        if broken:
            raise RuntimeError("no OSError")
        return os.write(file, data)

    async def session():
        with Ledger.open(tmp_path / "l", write=write) as ledger:
            broken.append(1)
            with pytest.raises(LedgerError, match="RuntimeError"):
                await asyncio.wait_for(one(ledger, "k"), 5)

    broken = []
    asyncio.run(session())


def test_opening_syncs_before_it_believes(tmp_path):
    filled(tmp_path / "l", 1)
    synced = []
    Ledger.open(tmp_path / "l", sync=synced.append).close()
    assert synced


def test_a_torn_end_is_cut_off_in_place(tmp_path):
    """A full disk has no room for a second copy of the ledger."""
    whole = filled(tmp_path / "l", 1)
    (tmp_path / "l").write_bytes(whole + b"torn")
    inode = (tmp_path / "l").stat().st_ino
    Ledger.open(tmp_path / "l").close()
    assert (tmp_path / "l").read_bytes() == whole
    assert (tmp_path / "l").stat().st_ino == inode


def test_writers_at_the_same_time_share_an_fsync(tmp_path):
    syncs = []

    async def session():
        with Ledger.open(tmp_path / "l", sync=lambda f: (syncs.append(1), os.fsync(f))) as ledger:
            await asyncio.gather(*(one(ledger, f"k{i}") for i in range(200)))
            return len(ledger.results)

    assert asyncio.run(session()) == 200
    assert len(syncs) < 20


def test_the_second_writer_is_refused_by_name_and_a_reader_is_not(tmp_path):
    code = (
        "import sys; from routerlab.collect.ledger import Ledger\n"
        "with Ledger.open(sys.argv[1]): print('open', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "l")]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(LedgerError, match=f"process {holder.pid} on .*wait until it ends"):
            Ledger.open(tmp_path / "l")
        assert Ledger.read(tmp_path / "l").results == {}
    finally:
        holder.communicate("")
    Ledger.open(tmp_path / "l").close()


def test_a_charge_above_its_reservation_can_be_corrected(tmp_path):
    """What a provider reports may be absurd: after a look at its bill the reservation is charged, to the last unit."""

    async def session(ledger):
        own, priced, billed = replace(REPLY, usd=1e8), REPLY, CallError("empty_choices", Scope.RETRY, tokens=(9, 0, 9))
        await one(ledger, "tried", 0.25, CallError("conflict", Scope.RETRY, tokens=(1, 0, 1)))
        for key, outcome in {"own": own, "priced": priced, "billed": billed, "tried": own}.items():
            attempt = await ledger.intent(key, 0.5, about(key))
            await ledger.result(key, attempt, 1e8, outcome)
        await one(ledger, "usual")
        assert {(c["key"], c["usd"], c["charged"]) for c in ledger.over} >= {("own", 0.5, 1e8), ("billed", 0.5, 1e8)}
        for call in ledger.over:
            await ledger.correct(call["key"], call["attempt"])

    with Ledger.open(tmp_path / "l") as ledger:
        asyncio.run(session(ledger))
    for after in (ledger, Ledger.read(tmp_path / "l")):
        assert not after.over
        assert (after.spent_usd, after.lost_usd) == (0.25 + 4 * 0.5 + 0.25, 0)
        assert {key: row.usd for key, row in after.results.items()} == {
            "own": 0.5,
            "priced": 0.5,
            "tried": 0.75,
            "usual": 0.25,
        }
        assert after.errors["billed"].usd == 0.5
        assert after.results["own"].reply.text == REPLY.text
