"""Tables of runs: what is compared with what."""

from __future__ import annotations

from supervised.experiments import Found, plot, table


def runs(method: str, images: int, *errors: float) -> list[Found]:
    cells = {"method": method, "pair": "a to b"}
    return [Found("adaptation", cells, seed, images, {"error": error}) for seed, error in enumerate(errors)]


def test_a_difference_is_to_the_reference_of_the_same_budget(tmp_path) -> None:  # type: ignore[no-untyped-def]
    small = [*runs("pooled", 100, 50.0, 52.0), *runs("coral", 100, 40.0, 41.0)]
    large = [*runs("pooled", 1000, 20.0, 21.0), *runs("coral", 1000, 15.0, 16.0)]
    for found in (small + large, large + small):
        shown = table(found, "method", "pooled")
        assert "| coral | a to b | 100 | 2 | 40.5" in shown and "| -10.5" in shown
        assert "| coral | a to b | 1,000 | 2 | 15.5" in shown and "| -5.0" in shown
    # A method that sees twice the images for the same updates has one reference, as long as there is one budget.
    twice = runs("mmd", 200, 45.0, 46.0)
    assert "| -5.5" in table([*small, *twice], "method", "pooled")
    assert "| of which budget? |" in table([*small, *large, *twice], "method", "pooled")
    lacking = table([*small, *large, *runs("coral", 1000, 1.0, 1.0, 1.0)[2:]], "method", "pooled")
    assert "pooled, a to b, 1,000 images" in lacking and "coral, a to b, 100 images" in lacking
    plot(small + large, tmp_path / "f.png")
