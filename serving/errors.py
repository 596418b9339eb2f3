"""What can go wrong between a text and its scores, as one tree: catch the branch you can handle.

::

    ScoringError
    ├── ScorerUnavailable    nobody answers, or the breaker is open: the texts are fine, come back later
    ├── DeadlineExceeded     somebody answers, too slowly: slow down, then come back
    ├── ModelMissing         no such model there: deploy it, waiting does not help
    └── BadModelAnswer       an answer that cannot be true (empty, not finite, wrong shape), or a refusal

The first two are worth a retry with the same texts; :attr:`ScoringError.again` says so.
"""

from typing import ClassVar


class ScoringError(Exception):
    """Base of all errors that a scorer raises."""

    #: Whether the same call may succeed later with nothing changed here.
    again: ClassVar[bool] = False


class ScorerUnavailable(ScoringError):
    """Nobody answers at the address, or the breaker is open for ``retry_in`` more seconds."""

    again = True

    def __init__(self, message: str, retry_in: float = 0.0) -> None:
        super().__init__(message)
        self.retry_in = retry_in


class DeadlineExceeded(ScoringError):
    """The call took longer than its deadline and was given up."""

    again = True


class ModelMissing(ScoringError):
    """The model, its tokenizer or its metadata is not where it should be."""


class BadModelAnswer(ScoringError):
    """The model answered something that its interface (serving/labels.py) does not allow, or refused the call."""
