from nodeagent.errors import NodeAgentError, first
from nodeagent.names import Reason

FAILURE = NodeAgentError(Reason.NIX_FAILED, "it failed; look at the disk")


def test_an_expected_failure_is_found_however_deep() -> None:
    deep = ExceptionGroup("outer", [ExceptionGroup("inner", [FAILURE]), FAILURE])
    assert first(deep) is FAILURE
    assert first(FAILURE) is FAILURE


def test_a_surprise_is_never_hidden_behind_an_expected_failure() -> None:
    assert first(ExceptionGroup("both", [FAILURE, ValueError()])) is None
    assert first(ValueError()) is None
