"""A kh x 1, a 1 x kw and perhaps a 1 x 1 convolution as one map of vertical features, and changes of variables for it.

On rows a chain acts as one map, ``y' = sum_j M_j g_j + b`` with ``M_j = P Q_j T``: an error and its gradient are worked
out for M, by two products with the rows, and the gradient is then handed on to the factors among small matrices.

| code     | meaning                                                    | shape         |
|----------|------------------------------------------------------------|---------------|
| T        | mixtures of vertical features                              | (d'', k)      |
| Q        | horizontal filters, kernel column by kernel column         | (d', kw d'')  |
| P        | the last 1 x 1; None where d' is d and Q goes to responses | (d, d')       |
| offset   | b                                                          | (d,)          |
| map      | M, kernel column by kernel column                          | (d, kw k)     |

Use `RankFactors` for a map of responses or of features with two factors only.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from onnx_lowrank.linalg.arrays import Array, eye, namespace, on_host
from onnx_lowrank.linalg.row_blocks import product
from onnx_lowrank.linalg.symmetric import cholesky, divided_by_root, mean_diagonal, with_ridge

_MIN_RIDGE = 1e-6  # of the mean on the diagonal: filters may be dead or duplicates


@dataclass(frozen=True, eq=False)
class FactorMap:
    """The factors; see the table above."""

    T: Array
    Q: Array
    P: Array | None
    offset: Array

    @property
    def map(self) -> Array:
        """Return M, all factors together."""
        horizontal = self._over_columns(self.Q, self.T)
        return horizontal if self.P is None else product(self.P, horizontal)

    def pulled_back(self, gradient: Array, offset: Array) -> FactorMap:
        """Return the gradient of every factor, given those of the map, shape (d, kw k), and of the offset, (d,)."""
        P = None
        if self.P is not None:
            P = product(gradient, self._over_columns(self.Q, self.T).T)
            gradient = product(self.P.T, gradient)
        by_column = gradient.reshape(-1, self.T.shape[1])
        T = product(self.Q.reshape(len(by_column), -1).T, by_column)
        return FactorMap(T, product(by_column, self.T.T).reshape(self.Q.shape), P, offset)

    def astype(self, dtype: Any) -> FactorMap:
        """Return the same in another float type of the library."""
        return self.like(namespace(self.T).asarray(self.vector(), dtype=dtype))

    def on_host(self) -> FactorMap:
        """Return the same in NumPy and in float64."""
        P = None if self.P is None else on_host(self.P)
        return FactorMap(on_host(self.T), on_host(self.Q), P, on_host(self.offset))

    def __add__(self, change: FactorMap) -> FactorMap:
        """Add factor by factor."""
        return self.like(self.vector() + change.vector())

    def vector(self) -> Array:
        """Return all numbers as one vector."""
        return namespace(self.T).concat([part.reshape(-1) for part in self._parts()])

    def like(self, vector: Array) -> FactorMap:
        """Return a chain of the same shapes with the numbers of ``vector``."""
        parts, first = [], 0
        for part in self._parts():
            size = prod(part.shape)
            parts.append(vector[first : first + size].reshape(part.shape))
            first += size
        return FactorMap(parts[0], parts[1], None if self.P is None else parts[2], parts[-1])

    def _parts(self) -> list[Array]:
        return [self.T, self.Q, *([] if self.P is None else [self.P]), self.offset]

    @staticmethod
    def _over_columns(Q: Array, T: Array) -> Array:
        """Return ``Q_j T`` of every kernel column, side by side."""
        return product(Q.reshape(-1, len(T)), T).reshape(len(Q), -1)


@dataclass(frozen=True, eq=False)
class Whitening:
    """A change of variables in which all numbers of a chain weigh about the same.

    Gradient steps in the numbers of the chain themselves make little progress: vertical features differ little from
    column to column, and some filters hardly count. An error changes about equally along all numbers of T~, Q~ and P~::

        T~ = A' T,  A A' = sum_j Q_j' P' P Q_j      Q~ = B' Q C,  B B' = P' P,  C C' = G      P~ = P D,  D D' = Q G Q'

    and G are the second moments of what goes into Q.

    Attributes:
        T: inverse of A, shape (d'', d'').
        Q: inverse of C, shape (kw d'', kw d'').
        P: inverses of B and of D, shape (d', d'); None where there is no P.
    """

    T: Array
    Q: Array
    P: tuple[Array, Array] | None

    @staticmethod
    def of(chain: FactorMap, inner: Array, dtype: Any) -> Whitening:
        """Build the change of variables around a chain.

        Args:
            chain: the factors, in float64.
            inner: G, kernel column by kernel column, shape (kw d'', kw d'').
            dtype: of the variables, a float type of the library.
        """

        def inverse_root(matrix: Array) -> Array:
            root = cholesky(with_ridge(matrix, _MIN_RIDGE * mean_diagonal(matrix)))
            return namespace(root).asarray(divided_by_root(root, eye(len(root), len(root), root)), dtype=dtype)

        last = chain.Q if chain.P is None else chain.P @ chain.Q
        by_column = last.reshape(-1, len(chain.T))
        T, Q = inverse_root(by_column.T @ by_column), inverse_root(inner)
        if chain.P is None:
            return Whitening(T, Q, None)
        return Whitening(T, Q, (inverse_root(chain.P.T @ chain.P), inverse_root(chain.Q @ inner @ chain.Q.T)))

    def change(self, variables: FactorMap) -> FactorMap:
        """Return the change of a chain that a change of its variables makes."""
        T, Q, P = product(self.T.T, variables.T), product(variables.Q, self.Q), variables.P
        if self.P is not None and P is not None:
            Q, P = product(self.P[0].T, Q), product(P, self.P[1])
        return FactorMap(T, Q, P, variables.offset)

    def gradient(self, gradient: FactorMap) -> FactorMap:
        """Return the gradient by the variables, given that by the chain's numbers."""
        T, Q, P = product(self.T, gradient.T), product(gradient.Q, self.Q.T), gradient.P
        if self.P is not None and P is not None:
            Q, P = product(self.P[0], Q), product(P, self.P[1].T)
        return FactorMap(T, Q, P, gradient.offset)
