"""Every error a user of Dyadiq can meet, in one tree.

    DyadiqError                     base; exit code 2 unless said otherwise
    ├─ ConfigError                  bad recipe, flag or argument; unknown key     (ValueError)
    │  └─ UnknownNameError          a name that is not registered, with near names
    ├─ DataError                    empty, non-finite or unusable input data       (ValueError)
    ├─ CaptureError                 torch.export failed, or operators we cannot represent
    ├─ GraphError                   a Graph breaks its own rules
    ├─ QuantError                   a tensor cannot be quantized as asked
    ├─ InfeasibleError              no plan meets the budget; exit code 1
    ├─ ProofError                   an accumulator or product does not fit its target
    ├─ ExportError                  a target cannot express the program
    │  └─ TooLargeError             it would need more logic than the limit allows
    ├─ VerificationError            two executors disagree; exit code 1
    ├─ ArtifactError                a file is corrupt, truncated, too new, or has a wrong hash
    ├─ StorageError                 the disk is full or not writable               (OSError)
    ├─ RunInterruptedError          Ctrl-C; exit code 130
    ├─ MissingDependencyError       an optional package is absent                  (ImportError)
    ├─ MissingToolError             an external program is absent
    └─ ToolError                    an external program failed or ran out of time; exit code 3

Used everywhere; imports nothing. Inner code states a fact, the public call adds where it happened.
Messages follow one form: what, where, got, expected, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ArtifactError",
    "CaptureError",
    "ConfigError",
    "DataError",
    "DyadiqError",
    "DyadiqWarning",
    "ExportError",
    "GraphError",
    "InfeasibleError",
    "MissingDependencyError",
    "MissingToolError",
    "ProofError",
    "QuantError",
    "RunInterruptedError",
    "StorageError",
    "TooLargeError",
    "ToolError",
    "UnknownNameError",
    "VerificationError",
]


class DyadiqError(Exception):
    """Base of all errors raised on purpose. ``exit_code`` is what the CLI returns."""

    exit_code = 2


class DyadiqWarning(UserWarning):
    """Something the user should know that does not stop the work; also noted in the result."""


class ConfigError(DyadiqError, ValueError):
    """A recipe, flag or argument is wrong."""


class UnknownNameError(ConfigError):
    """A name is not among the known ones.

    Example:
        >>> print(UnknownNameError("method", "grm", ["gram", "trace"]))
        unknown method 'grm'; did you mean 'gram'? Known: gram, trace.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        """Compose the message from the kind of thing, the wrong name and the known ones."""
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        super().__init__(f"unknown {kind} {name!r}{hint} Known: {', '.join(names)}.")


class DataError(DyadiqError, ValueError):
    """Input data are empty, non-finite, or of the wrong shape."""


class CaptureError(DyadiqError):
    """A model cannot be turned into a Graph; lists every reason at once."""


class GraphError(DyadiqError):
    """A Graph breaks a structural rule (dangling name, wrong shape, wrong dialect)."""


class QuantError(DyadiqError):
    """A tensor cannot be quantized as asked: shape, range or type."""


class InfeasibleError(DyadiqError):
    """No plan meets the budget.

    Attributes:
        best: Budget name to the smallest reachable value.
    """

    exit_code = 1

    def __init__(self, message: str, best: dict[str, float] | None = None) -> None:
        """Keep the best reachable values beside the message."""
        super().__init__(message)
        self.best = dict(best or {})


class ProofError(DyadiqError):
    """A proven bound does not fit where the program must run."""


class ExportError(DyadiqError):
    """A target cannot express the program; lists every offending node at once."""


class TooLargeError(ExportError):
    """A network is too large to unroll.

    Attributes:
        luts: About how many LUTs it would take.
        max_luts: The limit.
    """

    def __init__(self, message: str, luts: int, max_luts: int) -> None:
        """Keep the numbers beside the message."""
        super().__init__(message)
        self.luts, self.max_luts = luts, max_luts


class VerificationError(DyadiqError):
    """Two executors disagree on integers; says where first and how often."""

    exit_code = 1


class ArtifactError(DyadiqError):
    """A stored artifact is corrupt, truncated, from a newer version, or fails its hash."""


class StorageError(DyadiqError, OSError):
    """Writing failed: disk full, read-only, or no permission. Nothing half-written remains."""


class RunInterruptedError(DyadiqError):
    """The user interrupted the run; finished stages are kept."""

    exit_code = 130


class MissingDependencyError(DyadiqError, ImportError):
    """An optional package is absent.

    Example:
        >>> print(MissingDependencyError("onnxruntime", "onnx"))
        the package 'onnxruntime' is not installed. Run: pip install 'dyadiq[onnx]'
    """

    def __init__(self, package: str, extra: str = "") -> None:
        """Name the package and the extra that brings it; without one, the package itself is to be installed."""
        wanted = f"'dyadiq[{extra}]'" if extra else package
        super().__init__(f"the package {package!r} is not installed. Run: pip install {wanted}")


class MissingToolError(DyadiqError):
    """An external program is absent.

    Example:
        >>> print(MissingToolError("yosys", "apt-get install yosys"))
        the program 'yosys' is not installed. Run: apt-get install yosys
    """

    def __init__(self, program: str, install: str) -> None:
        """Name the program and the line that installs it."""
        super().__init__(f"the program {program!r} is not installed. Run: {install}")


class ToolError(DyadiqError):
    """An external program failed, or ran out of time; says where its log is."""

    exit_code = 3
