"""`compiled`, `summing` and `inlined`: functions that numba turns into machine code, for the loops that numpy has no word for.

Compiled when first called, kept beside the module for the next run, and without the interpreter's lock, so that threads run them
side by side. `summing` may add floats in any order, which is what lets a sum use wide registers.
To the type checker they are plain functions.
"""

from typing import TYPE_CHECKING, TypeVar

from numba import njit

_F = TypeVar("_F")

if TYPE_CHECKING:

    def compiled(function: _F) -> _F: ...
    def summing(function: _F) -> _F: ...
    def inlined(function: _F) -> _F: ...
else:
    compiled = njit(cache=True, nogil=True)
    summing = njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
    inlined = njit(inline="always")
