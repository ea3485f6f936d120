"""How tiles lie over the threads, where the program leaves that open."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import prod

from tilus.errors import TilusError
from tilus.ir import Do, Program, Register, Tensor, ThreadGroup, inner_bodies
from tilus.isa.base import Body, Inst, Known
from tilus.layout import Layout
from tilus.passes.rewrite import remade, site


def infer_layouts(program: Program) -> Program:
    """A layout for every tile whose layout is open, from what its instructions say.

    First what they demand, in program order, with all that follows from it; then, as long as
    something is open, what is preferred for the largest of the open tiles, the first of them, with
    all that follows. `TilusError` where two instructions ask for different layouts of one tile, or
    where nobody says anything.
    """
    search = Search(sites_of(program.body, program.threads))
    if not search.open_tiles():
        return program
    for one in search.sites:
        search.learn(one, lambda site: site.inst.demands(search.of(site), site.threads))
        search.relate()
    while tiles := search.open_tiles():
        search.learn_preference(tiles)
        search.relate()
    return replace(program, body=remade(program.body, lambda inst, do: closed(inst, do, search)))


@dataclass(frozen=True)
class Site:
    """An instruction and where it is performed."""

    inst: Inst
    do: Do
    threads: int  # that perform it

    @property
    def registers(self) -> dict[str, Register]:
        """The tiles that it takes and gives, by the names that it knows them by."""
        tiles: list[tuple[str, Tensor | object]] = [(t.name, t) for t in self.inst.operands]
        tiles.append(("", self.do.out))
        return {name: t for name, t in tiles if isinstance(t, Register)}


def sites_of(body: Body, threads: int) -> list[Site]:
    """Every instruction of `body`, in program order."""
    found: list[Site] = []
    for statement in body:
        match statement:
            case Do(Inst() as inst):
                found.append(Site(inst, statement, threads))
            case ThreadGroup(count=count, body=inner):
                found += sites_of(inner, count)
            case _:
                for inner in inner_bodies(statement):
                    found += sites_of(inner, threads)
    return found


@dataclass
class Search:
    """The layouts that are known, and by which instruction."""

    sites: list[Site]
    known: Known = field(default_factory=dict)
    cause: dict[str, Site] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for one in self.sites:
            out = one.do.out
            if isinstance(out, Register) and not out.layout.is_open:
                self.known[out.name], self.cause[out.name] = out.layout, one

    def open_tiles(self) -> list[Register]:
        outs = [one.do.out for one in self.sites]
        return [t for t in outs if isinstance(t, Register) and t.name not in self.known]

    def of(self, site: Site) -> Known:
        """What is known, as the instruction names it."""
        tiles = site.registers
        return {name: self.known[t.name] for name, t in tiles.items() if t.name in self.known}

    def relate(self) -> None:
        """All that follows from what is known."""
        while sum(self.learn(one, lambda s: s.inst.relates(self.of(s))) for one in self.sites):
            pass

    def learn(self, site: Site, ask: Callable[[Site], Known]) -> bool:
        """Whether an instruction says something new; `TilusError` if it is not what is known."""
        tiles, news = site.registers, False
        try:
            said = ask(site)
        except TilusError as why:
            raise TilusError(f"{there(site)}: {why}") from why
        for name, layout in said.items():
            tile = tiles[name].name
            if self.known.get(tile, layout) != layout:
                raise self.conflict(tile, site, layout)
            news = news or tile not in self.known
            self.known[tile] = layout
            self.cause.setdefault(tile, site)
        return news

    def learn_preference(self, tiles: list[Register]) -> None:
        """The first preference for a largest open tile."""
        names = {t.name for t in tiles}
        preferences = [
            (site, {name: layout})
            for site in self.sites
            for name, layout in site.inst.prefers(site.threads).items()
            if site.registers[name].name in names
        ]
        if not preferences:
            raise TilusError(
                f"nothing says how {tiles[0].name}, a tile {tiles[0].shape}, is to lie over the"
                " threads: give one of the tiles that it is computed with a layout"
            )
        site, preferred = max(preferences, key=lambda p: prod(next(iter(p[1].values())).shape))
        self.learn(site, lambda _: preferred)

    def conflict(self, tile: str, site: Site, layout: Layout) -> TilusError:
        return TilusError(
            f"{tile} cannot lie in two ways:\n"
            f"  {there(self.cause[tile])} asks for {self.known[tile]}\n"
            f"  {there(site)} asks for {layout}\n"
            "store it to shared memory and load it again in the other layout"
        )


def there(one: Site) -> str:
    return site(one.do)


def closed(inst: Inst, do: Do, search: Search) -> Inst:
    """`inst` with the layout of its result in place of an open one."""
    fields = {
        name: search.known[do.out.name]
        for name, value in vars(inst).items()
        if isinstance(value, Layout) and value.is_open and isinstance(do.out, Register)
    }
    return replace(inst, **fields) if fields else inst  # type: ignore[type-var]
