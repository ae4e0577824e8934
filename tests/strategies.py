"""What property tests draw from."""

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

MAX_ID = 11  # small, so that grams repeat


def documents(max_id: int = MAX_ID, min_documents: int = 0) -> st.SearchStrategy[list[list[int]]]:
    """Documents of canonical ids, none of them empty."""
    return st.lists(st.lists(st.integers(0, max_id), min_size=1, max_size=12), min_size=min_documents, max_size=10)


def laid_end_to_end(documents: list[list[int]]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """(ids_T, starts_D) of documents."""
    lengths = np.array([len(document) for document in documents], dtype=np.int64)
    return np.array([id for document in documents for id in document], dtype=np.uint32), np.cumsum(lengths) - lengths
