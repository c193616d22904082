"""Where a space ends too soon, and what to write into it."""

from pathlib import Path

from autofash.records import Config
from autofash.report import gather
from autofash.space import ChoiceParam, FloatParam, IntParam, Param, Space
from tests.report.conftest import told


def test_a_best_value_at_the_end_of_its_range_is_flagged_with_what_to_write(workplace: Path) -> None:
    params: dict[str, Param] = {
        "learning_rate": FloatParam(low=1e-4, high=1e-3, log=True),
        "width": ChoiceParam(values=[32, 64, 128]),
        "depth": IntParam(low=1, high=3),
        "dropout": FloatParam(low=0.0, high=0.6),
        "activation": ChoiceParam(values=["relu", "gelu"]),
        "label_smoothing": FloatParam(low=0.0, high=0.2),
    }
    middling: Config = {"family": "mlp", "activation": "relu", "label_smoothing": 0.1, "dropout": 0.3, "depth": 2}
    study = told(
        Space("mlp", params, name="narrow"),
        [
            ({**middling, "learning_rate": 9.5e-4, "width": 32, "depth": 3, "dropout": 0.0}, [0.9]),
            ({**middling, "learning_rate": 9.8e-4, "width": 64}, [0.8]),
            ({**middling, "learning_rate": 2.0e-4, "width": 32}, [0.7]),
        ],
    )
    found = [(edge.name, edge.end, f"{edge.leaders} of {edge.of}", edge.widen) for edge in gather(study).edges]
    assert found == [  # and no dropout below 0, which there is not
        ("learning_rate", 1e-3, "2 of 3", "high = 0.0032"),
        ("width", 32, "2 of 3", "values = [16, 32, 64, 128]"),
        ("depth", 3, "1 of 3", "high = 4"),
    ]


def test_what_is_advised_stays_within_what_the_vocabulary_allows(workplace: Path) -> None:
    params: dict[str, Param] = {
        "dropout": FloatParam(low=0.0, high=0.8, step=0.1),
        "learning_rate": FloatParam(low=5.0, high=10.0),
        "taper": ChoiceParam(values=[0.25, 0.5, 1.0]),
    }
    config: Config = {"family": "mlp", "dropout": 0.8, "learning_rate": 10.0, "taper": 1.0}
    study = told(Space("mlp", params, name="wild"), [(config, [0.9])])
    assert [(edge.name, edge.widen) for edge in gather(study).edges] == [("dropout", "high = 0.9")]
