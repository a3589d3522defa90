"""When an index goes: sets of atoms, and the equations between them that a graph imposes.

An *atom* is a decision: remove this or keep it. A *term* is a set of atoms and says when one index of one axis goes: as
soon as any of its atoms does. The empty set never goes. Splitting 128 channels into 4 heads of 32 makes channel
``32 h + d`` the term {head h, dimension d}, so whole heads can go, or one dimension of every head, and nothing else.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["FIXED", "Atoms", "Terms", "Vector"]

Atoms = frozenset[int]
Vector = NDArray[np.int64]
"""The number of the term of every index of an axis."""
FIXED = 0
"""The number of the term that never goes."""


class Terms:
    """Solve equations between terms one after the other, each by a substitution that makes both sides equal.

    Every substitution is a solution; where there are several, the one is taken that leaves most to remove.
    """

    def __init__(self) -> None:
        """Start without atoms."""
        self._sets: list[Atoms] = [frozenset()]
        self._numbers: dict[Atoms, int] = {frozenset(): FIXED}
        self._bound: dict[int, Atoms] = {}
        self._first: dict[int, Atoms] = {}
        self._reasons: dict[int, str] = {}
        self._atoms = 0

    def fresh(self, count: int) -> Vector:
        """Return terms of one new atom each."""
        start, self._atoms = self._atoms, self._atoms + count
        return np.asarray([self._number(frozenset((k,))) for k in range(start, self._atoms)])

    def atoms(self, term: int) -> Atoms:
        """Return the free atoms that a term stands for now."""
        return self._united(self._sets[term])

    def resolve(self, vector: Vector) -> list[Atoms]:
        """Return the free atoms of every index."""
        known = {term: self.atoms(term) for term in set(vector.tolist())}
        return [known[term] for term in vector.tolist()]

    def term(self, atoms: Atoms) -> int:
        """Return the term of these atoms."""
        return self._number(self._united(atoms))

    def outer(self, one: Vector, other: Vector) -> Vector:
        """Return ``{i, j}`` for every pair of indices, flattened in the order of a reshape."""
        rows, columns = self.resolve(one), self.resolve(other)
        return np.asarray([self._number(r | c) for r in rows for c in columns])

    def reasons(self, term: int) -> list[str]:
        """Return why atoms of a term are never removed."""
        found: dict[str, None] = {}
        waiting, seen = list(self._sets[term]), set[int]()
        while waiting:
            atom = waiting.pop()
            if atom in seen:
                continue
            seen.add(atom)
            if atom in self._reasons:
                found[self._reasons[atom]] = None
            waiting.extend(self._first.get(atom, ()))
        return list(found)

    def fix(self, vector: Vector, why: str) -> None:
        """Never remove any index of an axis."""
        for atoms in self.resolve(vector):
            self._fix(atoms, why)

    def join(self, one: Vector, other: Vector, why: str) -> None:
        """Let two axes lose the same indices; ``why`` is noted where only keeping them does it."""
        if one is other or np.array_equal(one, other):
            return
        self._match(one, other)
        for a, b in dict.fromkeys(zip(one.tolist(), other.tolist(), strict=True)):
            left, right = self.atoms(a), self.atoms(b)
            if left != right:
                known = next(filter(None, [*self.reasons(a), *self.reasons(b)]), why)
                self._unify(left, right, why if left and right else known)

    def _match(self, one: Vector, other: Vector) -> None:
        """Let atoms be one that take away the same indices of two products of axes."""
        left, right = (self._places(vector) for vector in (one, other))
        for places, atoms in left.items():
            others = right.get(places, [])
            if len(atoms) != 1 or len(others) != 1:
                continue
            a, b = self._root(atoms[0]), self._root(others[0])
            if a != b and len(a) == len(b) == 1:
                self._bind(next(iter(a)), b)

    def _places(self, vector: Vector) -> dict[tuple[int, ...], list[int]]:
        """Return which atoms take away which indices, for a product of axes; nothing for any other axis."""
        entries = self.resolve(vector)
        if max(map(len, entries), default=0) < 2:
            return {}
        found: dict[int, list[int]] = {}
        for index, atoms in enumerate(entries):
            for atom in atoms:
                found.setdefault(atom, []).append(index)
        places: dict[tuple[int, ...], list[int]] = {}
        for atom, indices in found.items():
            places.setdefault(tuple(indices), []).append(atom)
        return places

    def factor(self, flat: Vector, sizes: Sequence[int], why: str) -> list[Vector]:
        """Return one vector per axis, of which ``flat`` is the outer union."""
        found = self._factors(flat, sizes)
        if found is None and self._independent(flat):
            found = self._split(flat, sizes)
        if found is None:
            self._join_rows(flat, sizes, why)
            found = self._factors(flat, sizes)
        if found is None:
            self.fix(flat, why)
            found = [np.zeros(size, np.int64) for size in sizes]
        return found

    def _factors(self, flat: Vector, sizes: Sequence[int]) -> list[Vector] | None:
        """Return the factors if the axis is a product already: what is common to all entries of an index."""
        shape = tuple(sizes)
        entries = self.resolve(flat)
        grid = np.arange(len(entries)).reshape(shape)
        parts: list[list[Atoms]] = []
        for axis, size in enumerate(shape):
            lines = np.moveaxis(grid, axis, 0).reshape(size, -1)
            parts.append([frozenset.intersection(*(entries[k] for k in line)) for line in lines])
        for k, entry in enumerate(entries):
            place = np.unravel_index(k, shape)
            if frozenset().union(*(parts[a][int(i)] for a, i in enumerate(place))) != entry:
                return None
        return [np.asarray([self._number(atoms) for atoms in part]) for part in parts]

    def _independent(self, flat: Vector) -> bool:
        """Tell whether every index has one free atom of its own."""
        entries = self.resolve(flat)
        return all(len(e) == 1 for e in entries) and len(set(entries)) == len(entries)

    def _split(self, flat: Vector, sizes: Sequence[int]) -> list[Vector]:
        """Replace the atom of every index by one atom per axis."""
        parts = [self.fresh(size) if size > 1 else np.zeros(1, np.int64) for size in sizes]
        whole = parts[0]
        for part in parts[1:]:
            whole = self.outer(whole, part)
        for entry, term in zip(self.resolve(flat), whole.tolist(), strict=True):
            (atom,) = entry
            self._bind(atom, self.atoms(term))
        return parts

    def _join_rows(self, flat: Vector, sizes: Sequence[int], why: str) -> None:
        """Let all indices of a row of the first axis go together."""
        count = next((size for size in sizes if size > 1), 1)
        for row in flat.reshape(count, -1):
            for term in row[1:].tolist():
                self._unify(self.atoms(int(row[0])), self.atoms(term), why)

    def _unify(self, one: Atoms, other: Atoms, why: str) -> None:
        left, right = one - other, other - one
        if not left or not right:
            self._fix(left | right, why)
        elif len(left) == 1:
            self._bind(next(iter(left)), right)
        elif len(right) == 1:
            self._bind(next(iter(right)), left)
        else:
            first, *rest = sorted(left | right)
            for atom in rest:
                self._bind(atom, frozenset((first,)))

    def _fix(self, atoms: Iterable[int], why: str) -> None:
        for atom in atoms:
            self._reasons.setdefault(atom, why)
            self._bind(atom, frozenset())

    def _bind(self, atom: int, atoms: Atoms) -> None:
        self._bound[atom] = atoms
        self._first.setdefault(atom, atoms)

    def _number(self, atoms: Atoms) -> int:
        found = self._numbers.get(atoms)
        if found is None:
            found = self._numbers[atoms] = len(self._sets)
            self._sets.append(atoms)
        return found

    def _united(self, atoms: Atoms) -> Atoms:
        if not any(atom in self._bound for atom in atoms):
            return atoms
        return frozenset().union(*(self._root(atom) for atom in atoms))

    def _root(self, atom: int) -> Atoms:
        """Follow substitutions to free atoms, shortening the way."""
        bound = self._bound.get(atom)
        if bound is None:
            return frozenset((atom,))
        found = self._united(bound)
        if found != bound:
            self._bound[atom] = found
        return found
