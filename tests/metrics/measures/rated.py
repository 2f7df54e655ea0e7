"""A file as a user may have it, with a function that rates an answer."""


def same(question: str, truth: str, generation: str) -> bool:
    return truth == generation
