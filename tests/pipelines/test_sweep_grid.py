"""Values of a sweep: windows along the depth, and names that say what they name."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from kvembed import TransformConfig
from kvembed.layer_selection import layer_window
from pipelines.cli_transform import parse_transform
from pipelines.evaluation.sweep_grid import bias_values, every_window, transform_words, window_label


@dataclass
class Depth:
    """What of an encoder the windows depend on."""

    num_layers: int
    reroutable_layers: tuple[int, ...]


@pytest.mark.parametrize("layers", [4, 12, 28, 36])
def test_every_window_by_the_rule_is_what_twonn_could_choose(layers: int):
    """The rank of TwoNN's window is only among windows of its own width."""
    full = Depth(layers, tuple(range(layers)))
    hybrid = Depth(layers, tuple(range(3, layers, 4)))
    for model in (full, hybrid):
        by_rule = dict.fromkeys(layer_window(model, start) for start in range(layers))  # type: ignore[arg-type]
        assert set(every_window(model, None)) == {(), *by_rule}  # type: ignore[arg-type]
        assert every_window(model, None)[0] == ()  # type: ignore[arg-type]


def test_windows_of_several_widths_are_each_there_once():
    windows = every_window(Depth(3, (0, 1, 2)), (1, 2, 3))  # type: ignore[arg-type]
    assert windows == [(), (0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)]


@pytest.mark.parametrize(
    ("layers", "label"), [((), "none"), ((3,), "3"), ((3, 4, 5), "3-5"), ((3, 7), "3,7"), ((0, 1), "0-1")]
)
def test_window_label_names_the_layers(layers: tuple[int, ...], label: str):
    assert window_label(layers) == label


@pytest.mark.parametrize(
    "asked",
    [
        None,
        TransformConfig(center=True),
        TransformConfig(whiten=True, shrinkage=0.25, dimensions=7),
        TransformConfig(filter_directions=3, dimensions=5),
    ],
)
def test_transform_words_are_what_the_option_takes(asked: TransformConfig | None):
    assert parse_transform(transform_words(asked)) == asked


def test_biases_that_print_alike_keep_labels_of_their_own():
    assert [value.label for value in bias_values([2.0, 0.12345678, 0.12345679, 2])] == ["0.12345678", "0.12345679", "2"]
