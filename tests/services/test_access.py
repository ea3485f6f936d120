"""A server that others can reach: who may touch what, and whose work is done."""

import json
import secrets
import socket
import subprocess
import sys
import zlib

import pytest
from pydantic import SecretStr
from redis.exceptions import NoPermissionError, RedisError

from services.access import ROLES, users
from services.api.events import QUEUES, Watch
from services.batch import FleetJob, Piece
from services.driver.compose import make_secrets
from services.driver.processes import pings, redis_server
from services.fleet import Fleet
from services.notes import Note
from services.queue import (
    COMPILE,
    DRAW,
    FleetQueue,
    connect,
    fetch,
    measure_queue,
    reason,
    standings,
    submit,
)
from services.settings import ROOT, environment, load
from services.signing import Forged, Plain, Signed, Unsigned, serializer
from services.store import Folder
from services.worker import FleetWorker
from tests.services.fake import spec

KEY = "the key of this fleet"
BUILD = "services.compiler.jobs.build"
PASSWORDS = {role: secrets.token_urlsafe(8) for role in ROLES}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """host:port of a server on loopback that knows a user for each role."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "users.acl").write_text(users(PASSWORDS))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [redis_server(), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    command += ["--aclfile", str(folder / "users.acl"), "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            while not pings(f"redis://127.0.0.1:{port}"):
                assert server.poll() is None, "the server stopped"
            yield f"127.0.0.1:{port}"
        finally:
            server.terminate()


@pytest.fixture
def people(address):
    """A connection for each role, to a server without work."""
    found = {role: connect(f"redis://{role}@{address}", PASSWORDS[role]) for role in ROLES}
    yield found
    for connection in found.values():
        connection.close()


@pytest.fixture
def house(tmp_path, address, people):
    """A store, the API's end of the queue, and a compile worker on both."""

    class House:
        store = Folder(tmp_path / "store")
        log = tmp_path / "builds"
        queue = FleetQueue(COMPILE, people["api"], Signed(KEY))

        def work(self, key=KEY):
            settings = load().model_copy(update={"store": tmp_path / "store"})
            url = f"redis://compiler@{address}"
            command = [sys.executable, "-m", "tests.services.fake", url, str(self.log), "burst"]
            command += [PASSWORDS["compiler"], key]
            return subprocess.run(
                command,
                cwd=ROOT,
                env=environment(settings),
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )

        def submit(self, one, queue=None, after=()):
            piece = Piece(one.key(), one.model_dump(mode="json"))
            submit(queue or self.queue, BUILD, [piece], title="fake", seconds=60, after=after)

        def note(self, one) -> Note:
            [standing] = standings(self.queue, [one.key()])
            return standing.note

    return House()


def only_job(house) -> FleetJob:
    [job] = fetch(house.queue, house.queue.get_job_ids())
    return job


def test_signed_work_is_done_over_a_network_by_users_of_few_rights(house):
    one, after = spec(n=1), spec(n=2)
    house.submit(one)
    house.submit(after, after=[one.key()])
    done = house.work()
    assert done.returncode == 0, done.stderr
    denied = [line for line in done.stderr.splitlines() if "ermission" in line]
    assert denied == []
    assert house.note(one).state == house.note(after).state == "done"
    assert house.store.get_manifest(one.key()) is not None


def test_work_that_was_changed_on_its_way_is_refused_and_said_to_be(house):
    asked, wanted = spec(n=11), spec(n=12)
    house.submit(asked)
    job = only_job(house)
    text = json.dumps([BUILD, None, [[[asked.key(), wanted.model_dump(mode="json")]], 60], {}])
    mark = job.data.partition(b" ")[0]
    forged = zlib.compress(mark + b" " + text.encode())
    house.queue.connection.hset(job.key, "data", forged)
    house.work()
    note = house.note(asked)
    assert (note.state, note.cause) == ("failed", "house")
    assert "does not bear the mark of this fleet's key" in note.reason
    assert not house.log.exists() and list(house.store.every_key()) == []


@pytest.mark.promise(8)
@pytest.mark.parametrize("written", [Plain(), Signed("another key")], ids=["unsigned", "other"])
def test_work_that_this_fleet_did_not_sign_is_refused(house, people, written):
    one = spec(n=13, by=type(written).__name__)
    house.submit(one, FleetQueue(COMPILE, people["api"], written))
    identity = only_job(house).id
    house.work()
    [job] = fetch(house.queue, [identity])
    assert job.get_status() == "failed" and "no worker runs this" in reason(job)
    assert not house.log.exists()


def test_a_worker_on_a_network_without_a_key_does_not_start(house):
    done = house.work(key="")
    assert done.returncode != 0 and "TILUS_QUEUE_KEY" in done.stderr


def test_a_private_socket_needs_no_key_and_a_network_does():
    assert isinstance(serializer("unix:///run/redis.sock", ""), Plain)
    assert isinstance(serializer("unix:///run/redis.sock", KEY), Signed)
    assert isinstance(serializer("rediss://elsewhere", KEY), Signed)
    with pytest.raises(Unsigned, match="TILUS_QUEUE_KEY"):
        serializer("redis://elsewhere", "")


@pytest.mark.parametrize("place", range(0, 80, 7))
def test_no_byte_of_signed_work_can_be_changed(place):
    data = bytearray(Signed(KEY).dumps([BUILD, None, [[["a", {}]], 60], {}]))
    assert Signed(KEY).loads(bytes(data))[0] == BUILD
    data[place] ^= 1
    with pytest.raises(Forged):
        Signed(KEY).loads(bytes(data))


@pytest.mark.promise(9)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "command",
    [
        "FLUSHALL",
        "FLUSHDB",
        "CONFIG GET dir",
        "KEYS *",
        "SHUTDOWN NOSAVE",
        "ACL LIST",
        "MONITOR",
        "SAVE",
        "REPLICAOF 127.0.0.1 1",
        "GET somebody-elses",
        "SET somebody-elses 1",
        "SCRIPT FLUSH",
        "MODULE LIST",
    ],
)
def test_nobody_rules_the_server_or_touches_what_is_not_the_fleets(people, role, command):
    with pytest.raises(NoPermissionError):
        people[role].execute_command(*command.split())


PUSH, TAKE = "RPUSH rq:queue:{} job", "LMOVE rq:queue:{0} rq:queue:{0}:intermediate LEFT RIGHT"
GPU = measure_queue("nvidia-h200")


@pytest.mark.promise(9)
@pytest.mark.parametrize(
    ("role", "command", "allowed"),
    [
        ("api", PUSH.format(COMPILE), True),
        ("api", PUSH.format(GPU), True),
        ("api", TAKE.format(COMPILE), False),
        ("api", TAKE.format(GPU), False),
        ("api", f"LPOP rq:queue:{DRAW}", False),
        ("api", f"LRANGE rq:queue:{DRAW} 0 -1", True),
        ("compiler", f"LRANGE rq:queue:{DRAW} 0 -1", False),
        ("api", "HSET rq:worker:one state busy", False),
        ("api", "SMEMBERS rq:workers", True),
        ("compiler", TAKE.format(COMPILE), True),
        ("compiler", TAKE.format(GPU), False),
        ("compiler", PUSH.format(GPU), True),
        ("compiler", "DEL tilus:submitting", False),
        ("runner", TAKE.format(GPU), True),
        ("runner", PUSH.format(COMPILE), False),
        ("runner", PUSH.format(DRAW), True),
        ("plotter", TAKE.format(DRAW), True),
        ("plotter", PUSH.format(COMPILE), False),
        ("plotter", PUSH.format(GPU), False),
        ("plotter", "GET tilus:note:one", True),
    ],
)
def test_a_role_touches_its_own_queue_and_those_after(people, role, command, allowed):
    try:
        people[role].execute_command(*command.split())
        reached = True
    except NoPermissionError:
        reached = False
    people["api"].delete(f"rq:queue:{COMPILE}", f"rq:queue:{GPU}", f"rq:queue:{DRAW}")
    assert reached is allowed


def test_who_has_no_password_may_only_ask_whether_the_server_is_there(address):
    stranger = connect(f"redis://{address}")
    assert stranger.ping()
    for command in ("INFO", "GET tilus:note:one", "HGETALL rq:job:one"):
        with pytest.raises(NoPermissionError):
            stranger.execute_command(*command.split())
    with pytest.raises(RedisError):
        connect(f"redis://api@{address}", "a guess").ping()


def test_the_file_has_no_password_in_it():
    text = users(PASSWORDS)
    assert not any(password in text for password in PASSWORDS.values())
    assert text.count("nopass") == 1 and text.startswith("user default")


def test_secrets_are_made_once_and_the_servers_file_fits_them(tmp_path):
    folder = tmp_path / "secrets"
    for _ in range(2):
        make_secrets(folder)
        found = {path.name: path.read_text() for path in folder.iterdir()}
    make_secrets(folder)
    assert found == {path.name: path.read_text() for path in folder.iterdir()}
    assert found["redis_users"] == users({role: found[f"redis_{role}"] for role in ROLES})
    alone = {"queue_key", "redis_users", "store_token", "token"}
    assert set(found) == {*alone, *(f"redis_{role}" for role in ROLES)}
    assert len(set(found.values())) == len(found) and all(found.values())
    assert folder.stat().st_mode & 0o077 == 0


def test_the_api_may_look_at_all_that_its_page_shows(house, people, tmp_path):
    house.submit(spec(n=31))
    queue = FleetQueue(COMPILE, people["compiler"], Signed(KEY))
    worker = FleetWorker([queue], connection=people["compiler"], serializer=queue.serializer)
    worker.register_birth()
    settings = load().model_copy(
        update={
            "state": tmp_path / "state",
            "redis_url": "redis://somewhere",
            "queue_key": SecretStr(KEY),
        }
    )
    said = Watch(Fleet(settings, house.store, people["api"], {})).look()[QUEUES]
    worker.register_death()
    compiling = next(one for one in said["queues"] if one["name"] == COMPILE)
    assert said["problem"] is None and compiling["waiting"] >= 1
    assert [one["batch"] for one in compiling["workers"]] == [None]
