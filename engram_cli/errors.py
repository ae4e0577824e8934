"""Every error a user can meet.

    EngramError            the base; `engram` prints it as one line and exits with 2
    |-- CorpusError        text that cannot be read as asked
    |-- TokenizerError     a tokenizer that is not one, or does not fit
    |-- RecipeError        a setting that breaks a rule
    |-- ArtifactError      an artifact that is missing, damaged, of the wrong kind, or in the way
    |-- ResourceError      more memory or disk than there is
    |-- HostError          a host that cannot be read, or does not fit
    |-- DeviceError        a device that is not there
    |-- ClusterError       a cluster that is not there, or cannot do its part
    |-- ChatError          a command or a setting that a conversation does not have
    |-- TrainingError      a run that cannot go on: a loss that is not finite, nothing to train on
    `-- LossError          a table that would be worse than was allowed

A message is one line: the rule, what was found (with its numbers), the way out. Our own mistakes are `assert`s.
"""


class EngramError(Exception):
    """Base of all errors that a user can cause and mend."""


class CorpusError(EngramError):
    """The corpus cannot be read as asked."""


class TokenizerError(EngramError):
    """The tokenizer is not one, or does not fit what it is used with."""


class RecipeError(EngramError):
    """A setting breaks a rule."""


class ArtifactError(EngramError):
    """An artifact is missing, damaged, of the wrong kind, or in the way."""


class ResourceError(EngramError):
    """The work needs more memory or disk than there is."""


class HostError(EngramError):
    """The host cannot be read, is not installed for, or does not fit what it is given."""


class DeviceError(EngramError):
    """The device asked for is not there."""


class ClusterError(EngramError):
    """The cluster asked for is not there, or cannot do its part."""


class ChatError(EngramError):
    """A conversation has no such command or setting, or not with this value."""


class TrainingError(EngramError):
    """The training run cannot go on."""


class LossError(EngramError):
    """The table would be worse than was allowed."""
