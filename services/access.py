"""What each role may touch at the queue's server: one user a role, written as an ACL file.

A worker takes work of its own queue and lets go on what waited for it in the queues after; the API
puts work into queues and looks at workers. Nobody may empty, configure, stop or watch the server.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from services.messages import digest

Role = Literal["api", "compiler", "runner", "plotter"]
ROLES: tuple[Role, ...] = get_args(Role)


class Access(NamedTuple):
    """The queues, as patterns, that a role works on, and those whose work it may let go on."""

    works: tuple[str, ...]
    feeds: tuple[str, ...]


ACCESS: Mapping[Role, Access] = {
    "api": Access((), ("compile", "measure-*", "draw")),
    "compiler": Access(("compile",), ("measure-*", "draw")),
    "runner": Access(("measure-*",), ("draw",)),
    "plotter": Access(("draw",), ()),
}
# Where work lies on its way, and where its note is.
SHARED = (
    "rq:job:*",
    "rq:queues",
    "rq:ready:*",
    "tilus:note:*",
    "tilus:ended",
    "tilus:took",
    "tilus:devices",
)
FED = ("rq:queue:{}", "rq:deferred:{}", "tilus:waiting:{}")
WORKED = (
    "rq:queue:{}:intermediate*",
    "rq:wip:{}",
    "rq:finished:{}",
    "rq:failed:{}",
    "rq:canceled:{}",
    "rq:scheduled:{}",
    "rq:workers:{}",
    "rq:clean_registries:{}",
)
# What workers keep of themselves and of what they did.
WORKERS = (
    "rq:workers",
    "rq:worker:*",
    "rq:results:*",
    "rq:execution*",
    "rq:group*",
    "rq:rl*",
    "rq:clean_groups",
)
SUSPENDED = "rq:suspended"
SUBMITTING = "tilus:submitting"
SEEN_BY_API = (*WORKERS, "rq:workers:*", "rq:wip:*")
CHANNEL = "&rq:pubsub:*"
COMMANDS = (
    "+@read +@write +@connection +@transaction +@pubsub +eval +evalsha +script|load +script|exists "
    "-@dangerous -@admin +info"
)
# Whoever gives no password may ask whether the server is there.
ANYBODY = "user default on nopass resetkeys resetchannels -@all +ping"


def users(passwords: Mapping[Role, str]) -> str:
    """The ACL file: the server keeps digests, not the passwords."""
    return "\n".join([ANYBODY, *(_user(role, passwords[role]) for role in ROLES)]) + "\n"


def _user(role: Role, password: str) -> str:
    secret = f"#{digest(password.encode())}"
    works, feeds = ACCESS[role]
    fed = _each(FED, feeds)
    own = [*SHARED, *_each((*FED, *WORKED), works)]
    own += [SUBMITTING] if role == "api" else WORKERS
    seen = [*fed, *SEEN_BY_API] if role == "api" else [SUSPENDED]
    keys = " ".join([*(f"~{key}" for key in own), *(f"%W~{key}" for key in fed)])
    # to look and to put without being able to take needs two sets of rights
    look = f"(+@read -@dangerous {' '.join(f'%R~{key}' for key in seen)})"
    return (
        f"user {role} on {secret} resetkeys resetchannels {keys} {CHANNEL} -@all {COMMANDS} {look}"
    )


def _each(patterns: Sequence[str], queues: Sequence[str]) -> list[str]:
    return [pattern.format(queue) for queue in queues for pattern in patterns]
