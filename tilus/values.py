"""What is known of scalars before the program runs: what divides them, and how large they get.

A name may have several values, in turns of a loop or because it is set again. What is said of it
here holds of all of them. Sizes are compared as polynomials in what the launch decides.
"""

from collections import defaultdict
from collections.abc import Set as AnySet
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import product
from math import floor, gcd, prod

from tilus.ir import (
    GRID,
    UNBOUNDED,
    Binary,
    For,
    Let,
    Program,
    Scalar,
    Set,
    Var,
    binary,
    divisor,
    variables,
    walk,
)

Polynomial = dict[tuple[Scalar, ...], Fraction]  # monomials, their factors sorted, and coefficients
MOST_BOUNDS = 8  # that are tried for one scalar
LONGEST = 32  # terms, and factors of one, of a polynomial that is worked out


@dataclass(frozen=True)
class Values:
    """The scalars of a program: parameters, what `assigned` gives, what runs through `ranges`."""

    order: list[str]  # all names, in program order
    promised: dict[str, int]  # what divides each parameter
    assigned: dict[str, list[Scalar]]
    ranges: dict[str, tuple[Scalar, Scalar]]
    changing: frozenset[str]

    @cached_property
    def divisors(self) -> dict[str, int]:
        """A number that divides each variable."""
        found = self.promised | dict.fromkeys([*self.assigned, *self.ranges], 0)
        changed = True
        while changed:
            changed = False
            for name, before in found.items():
                values = [v for v in self.first_and_next(name) if v != 0]
                found[name] = gcd(*(divisor(v, found) for v in values))
                changed = changed or found[name] != before
        return {name: of or UNBOUNDED for name, of in found.items()}

    def first_and_next(self, name: str) -> list[Scalar]:
        """Values of a variable, of which all others are multiples where these are."""
        if name in self.assigned:
            return self.assigned[name]
        if name in self.ranges:
            start, stop = self.ranges[name]
            return [start] if runs_once(start, stop) else [start, 1]
        return [self.promised[name]]

    @cached_property
    def never_negative(self) -> frozenset[str]:
        """The variables of which no value is negative."""
        found = {*self.promised, *self.assigned, *self.ranges}
        changed = True
        while changed:
            changed = False
            for name in [n for n in self.order if n in found]:
                if not all(self.positive(v, found) for v in self.first_and_next(name)):
                    found.remove(name)
                    changed = True
        return frozenset(found)

    def positive(self, e: Scalar, known: AnySet[str]) -> bool:
        """Whether `e` is never negative, where no variable of `known` is."""
        match e:
            case int():
                return e >= 0
            case Var(name):
                return name in known
            case Binary("-", a, b):
                return self.covered(minus(self.exact(a), self.exact(b)), known)
            case Binary("max", a, b):
                return self.positive(a, known) or self.positive(b, known)
            case Binary(_, a, b):
                return self.positive(a, known) and self.positive(b, known)
        return False

    def covered(self, p: Polynomial, known: AnySet[str]) -> bool:
        """Whether `p` has no negative part."""
        return all(k >= 0 and all(self.positive(x, known) for x in m) for m, k in p.items())

    def inside(self, at: Scalar, extent: int, size: Scalar) -> bool:
        """Whether for sure 0 <= at and at + extent <= size."""
        known, room = self.never_negative, minus(self.exact(size), constant(extent))
        return self.positive(at, known) and any(
            self.covered(minus(room, most), known) for most in self.bounds(at)
        )

    @cached_property
    def polynomials(self) -> dict[str, Polynomial]:
        """The variables that always have the value which their definition would have now."""
        found: dict[str, Polynomial] = {}
        fixed = {*self.promised, *self.ranges}
        for name in self.order:
            values = self.assigned.get(name, [])
            if name not in self.changing and all(variables(v) <= fixed for v in values):
                fixed.add(name)
                if values:
                    found[name] = self.exact(values[0], found)
        return found

    def exact(self, e: Scalar, known: dict[str, Polynomial] | None = None) -> Polynomial:
        """`e` as a polynomial, in which what is not one stands for itself."""
        found = self.polynomial(e, self.polynomials if known is None else known)
        return itself(e) if max(len(found), *map(len, found), 0) > LONGEST else found

    def polynomial(self, e: Scalar, known: dict[str, Polynomial]) -> Polynomial:
        match e:
            case int():
                return constant(e)
            case Var(name) if name in known:
                return known[name]
            case Binary("+", a, b):
                return plus(self.exact(a, known), self.exact(b, known))
            case Binary("-", a, b):
                return minus(self.exact(a, known), self.exact(b, known))
            case Binary("*", a, b):
                return times(self.exact(a, known), self.exact(b, known))
            case Binary("//", a, int(c)) if c > 0:
                quotient = self.quotient(self.exact(a, known), c)
                return itself(e) if quotient is None else quotient
        return itself(e)

    def quotient(self, p: Polynomial, c: int) -> Polynomial | None:
        """p // c, where all terms but the constant are multiples of c."""
        parts = {m: k / c for m, k in p.items()}
        last = parts.pop((), Fraction(0))
        for m, k in parts.items():
            if (k * prod(divisor(x, self.divisors) for x in m)).denominator != 1:
                return None
        return plus(parts, constant(floor(last)))

    @cached_property
    def most(self) -> dict[str, list[Polynomial]]:
        """Bounds of variables that follow from their ranges or values."""
        found: dict[str, list[Polynomial]] = {}
        for name in self.order:
            if name in self.ranges and not variables(self.ranges[name][1]) & self.changing:
                stops = self.bounds(self.ranges[name][1], found)
                found[name] = [minus(bound, constant(1)) for bound in stops]
            elif name in self.polynomials:
                found[name] = self.bounds(self.assigned[name][0], found)
        return found

    def bounds(
        self, e: Scalar, known: dict[str, list[Polynomial]] | None = None
    ) -> list[Polynomial]:
        """Polynomials than which `e` is never larger, the one that says most of launches first."""
        derived = self.derived(e, self.most if known is None else known)
        return [*derived[: MOST_BOUNDS - 1], self.exact(e)]

    def derived(self, e: Scalar, known: dict[str, list[Polynomial]]) -> list[Polynomial]:
        good = self.never_negative

        def of(a: Scalar) -> list[Polynomial]:
            return self.bounds(a, known)

        match e:
            case Var(name):
                return known.get(name, [])
            case Binary("+", a, b):
                return [plus(x, y) for x, y in product(of(a), of(b))]
            case Binary("*", a, b) if self.positive(a, good) and self.positive(b, good):
                return [times(x, y) for x, y in product(of(a), of(b))]
            case Binary("-", a, int(c)):
                return [minus(x, constant(c)) for x in of(a)]
            case Binary("-", a, b) if self.positive(b, good):
                return of(a)
            case Binary("//", a, int(c)) if c > 0:
                return [q for q in (self.quotient(x, c) for x in of(a)) if q is not None]
            case Binary("%", a, b) if self.positive(a, good):
                return [minus(x, constant(1)) for x in of(b)] + of(a)
            case Binary("min" | "&", a, b) if self.positive(a, good) and self.positive(b, good):
                return of(a) + of(b)
            case Binary("<" | "<=" | ">" | ">=" | "==" | "!=", _, _):
                return [constant(1)]
        return []


def values_of(program: Program) -> Values:
    """What is known of the scalars of `program`."""
    order = [*program.facts, *GRID]
    assigned: dict[str, list[Scalar]] = defaultdict(list)
    ranges: dict[str, tuple[Scalar, Scalar]] = {
        name: (0, extent) for name, extent in zip(GRID, program.grid, strict=True)
    }
    changing: set[str] = set()
    for statement in walk(program.body):
        match statement:
            case Let(var, value):
                order.append(var.name)
                assigned[var.name].append(value)
            case Set(var, value):
                assigned[var.name].append(value)
                changing.add(var.name)
            case For(var, start, stop):
                order.append(var.name)
                ranges[var.name] = (start, stop)
    return Values(order, program.facts, dict(assigned), ranges, frozenset(changing))


def runs_once(start: Scalar, stop: Scalar) -> bool:
    """Whether a range from `start` to `stop` has one number at most."""
    match start, stop:
        case int(), int():
            return stop <= start + 1
    return stop == binary("+", start, 1)


def itself(e: Scalar) -> Polynomial:
    return {(e,): Fraction(1)}


def constant(number: int) -> Polynomial:
    return {(): Fraction(number)} if number else {}


def plus(p: Polynomial, q: Polynomial) -> Polynomial:
    total = defaultdict(Fraction, p)
    for m, k in q.items():
        total[m] += k
    return {m: k for m, k in total.items() if k}


def minus(p: Polynomial, q: Polynomial) -> Polynomial:
    return plus(p, {m: -k for m, k in q.items()})


def times(p: Polynomial, q: Polynomial) -> Polynomial:
    total: Polynomial = {}
    for (m, k), (n, j) in product(p.items(), q.items()):
        total = plus(total, {tuple(sorted((*m, *n), key=str)): k * j})
    return total
