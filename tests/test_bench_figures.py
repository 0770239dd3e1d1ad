from nodeagent.bench.figures import figure


def test_a_figure_is_judged_before_it_is_rounded() -> None:
    missed = figure("wait", [2.004, 2.001, 2.003], "s", 2)
    assert (missed.value, missed.ok) == (2.0, False)
    assert figure("wait", [1.9, 2, 2.1], "s", 2).ok
    assert figure("wait", [2.003], "s").ok is None
