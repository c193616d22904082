"""`autofash predict` as its user meets it: real files, real processes, a real terminal."""

import csv
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autofash.predict import load_model
from tests.test_predict import IMAGES, LABELS

pytestmark = pytest.mark.keras
PREDICT = [sys.executable, "-m", "autofash", "predict"]


@pytest.fixture(scope="session")
def folder(digits_model: Path) -> Path:
    return digits_model


@pytest.fixture(scope="session")
def onnx(folder: Path) -> str:
    """The format whose runtime is up soonest."""
    return str(folder / "model.onnx")


def predict(*arguments: str | Path, code: int = 0, stdin: bytes = b"") -> tuple[str, str]:
    done = subprocess.run([*PREDICT, *map(str, arguments)], capture_output=True, input=stdin, timeout=120, check=False)
    out, complaint = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == code, complaint
    assert "Traceback" not in complaint
    return out, complaint


def pictures(count: int = 3, ground: str = "dark") -> list[str]:
    """Test images as PNG files in the current folder."""
    for row in range(count):
        image = IMAGES[row] if ground == "dark" else 255 - IMAGES[row]
        Image.fromarray(image).save(f"{row:03}.png")
    return [f"{row:03}.png" for row in range(count)]


def test_a_table_says_what_is_on_each_picture_and_one_line_what_was_done_to_them(onnx: str) -> None:
    out, complaint = predict(onnx, *pictures())
    assert complaint == ""
    lines = out.splitlines()
    assert lines[0].split() == ["file", "label", "probability", "top", "3"]
    for row, line in enumerate(lines[1:4]):
        name, label, probability, sign, likeliest, *_ = line.split()
        assert (name, label, sign, likeliest) == (f"{row:03}.png", str(LABELS[row]), "%", label)
        assert 50 < float(probability) <= 100
    assert lines[-1] == "3 pictures, as they are"
    assert len(lines) == 6


@pytest.mark.parametrize("name", ["model.keras", "saved_model", "model.tflite", "model.onnx", "openvino"])
def test_every_format_keeps_its_librarys_chatter_to_itself_and_answers_as_the_python_side_does(
    folder: Path, name: str
) -> None:
    out, complaint = predict(folder / name, *pictures(), "--json")
    told = json.loads(out)
    assert complaint == "" and told["about"] == "3 pictures, as they are" and told["skipped"] == []
    expected = load_model(folder).predict(IMAGES[:3])
    for entry, row in zip(told["predictions"], expected, strict=True):
        assert entry["label"] == str(row.argmax()) and entry["probability"] == pytest.approx(row.max(), abs=1e-5)
        assert [place["label"] for place in entry["top"]] == [str(label) for label in np.argsort(-row)[:3]]


def test_csv_has_a_row_a_picture_with_its_likeliest_labels(onnx: str) -> None:
    out, complaint = predict(onnx, *pictures(ground="light"), "--csv", "--top", "2")
    assert complaint == "autofash: 3 pictures: 3 inverted (this model knows light on dark)\n"
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == ["file", "label", "probability", "label_2", "probability_2"]
    assert [row["label"] for row in rows] == [str(label) for label in LABELS[:3]]
    assert all(1 >= float(row["probability"]) >= float(row["probability_2"]) >= 0 for row in rows)


def test_folders_npz_files_and_names_from_stdin_may_be_mixed(onnx: str) -> None:
    names = pictures(4)
    Path("more").mkdir()
    for name in names[2:]:
        Path(name).rename(Path("more") / name)
    np.savez("some.npz", x_test=IMAGES[:2], y_test=LABELS[:2])
    out, _ = predict(onnx, "more", "-", "some.npz", "--csv", "--top", "1", stdin=b"000.png\n\n001.png\r\n")
    found = [line.split(",")[:2] for line in out.splitlines()[1:]]
    files = ["more/002.png", "more/003.png", "000.png", "001.png", "some.npz[0]", "some.npz[1]"]
    assert found == [[name, str(LABELS[row])] for name, row in zip(files, [2, 3, 0, 1, 0, 1], strict=True)]


def test_a_name_that_would_draw_on_the_terminal_or_is_no_utf8_is_escaped(onnx: str) -> None:
    strange = [b"[bold]\x1b[2J.png", b"caf\xe9.png", b"=new\nline.png"]
    for name in strange:
        Image.fromarray(IMAGES[0]).save(os.fsdecode(name))
    done = subprocess.run([*PREDICT, onnx, *strange], capture_output=True, check=False)
    assert done.returncode == 0 and b"\x1b" not in done.stdout and b"[bold]\\x1b[2J.png" in done.stdout
    told = json.loads(subprocess.run([*PREDICT, onnx, *strange, "--json"], capture_output=True, check=True).stdout)
    assert [os.fsencode(entry["file"]) for entry in told["predictions"]] == strange
    rows = subprocess.run([*PREDICT, onnx, *strange, "--csv"], capture_output=True, check=True).stdout
    assert b"=new\\nline.png," in rows and rows.count(b"\n") == 4


def test_a_long_list_is_cut_short_in_the_table_alone(onnx: str) -> None:
    np.savez("many.npz", images=IMAGES)
    out, _ = predict(onnx, "many.npz")
    assert "many.npz[99]" in out and "many.npz[100]" not in out and "and 260 more: --csv and --json" in out
    assert predict(onnx, "many.npz", "--csv")[0].count("\n") == 361


def test_one_bad_file_is_named_and_nothing_predicted_unless_it_may_be_left_out(onnx: str) -> None:
    names = pictures()
    Path("001.png").write_bytes(Path("001.png").read_bytes()[:50])
    out, complaint = predict(onnx, *names, code=3)
    assert out == "" and complaint.startswith("autofash: error[E-DATA-CORRUPT]: 001.png: is damaged: ")
    assert "1 of 3 cannot be used. Try: --skip-bad" in complaint and complaint.count("\n") == 2
    out, complaint = predict(onnx, *names, "--skip-bad", "--json")
    assert complaint.startswith("autofash: warning[W-SKIPPED]: 001.png: is damaged") and complaint.count("\n") == 1
    told = json.loads(out)
    assert [entry["file"] for entry in told["predictions"]] == ["000.png", "002.png"]
    assert told["skipped"][0].startswith("001.png: is damaged")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("MODEL gone.png", 3, "error[E-DATA-MISSING]: gone.png: there is no such file. Try: another name"),
        ("MODEL .", 3, "error[E-DATA-MISSING]: .: holds no PNG, JPEG or BMP picture. Try: "),
        ("MODEL -", 3, "error[E-DATA-MISSING]: there is no picture to predict. Try: "),
        ("MODEL objects.npz", 7, "error[E-UNSAFE-NPZ]: objects.npz: holds a pickle, which could run code. Try: "),
        (
            "MODEL large.png",
            7,
            "error[E-TOO-LARGE]: large.png: has 5,001 × 5,000 pixels; 25 megapixels are the most. Try:",
        ),
        ("MODEL 000.png --invert maybe", 2, "error[E-USAGE]: there is no way to invert 'maybe'. Try: "),
        ("MODEL 000.png --json --csv", 2, "error[E-USAGE]: --json and --csv exclude each other. Try: one of them"),
        ("MODEL 000.png --top 0", 2, "error[E-USAGE]: Invalid value for '--top'"),
        ("MODEL 000.png --skip", 2, "error[E-USAGE]: there is no option '--skip'. Try: --skip-bad"),
        ("MODEL", 2, "error[E-USAGE]: Missing argument 'IMAGES...'. Try: "),
        ("nowhere 000.png", 2, "error[E-USAGE]: nowhere: there is no such model. Try: autofash best --export"),
        ("bare.keras 000.png", 7, "error[E-MODEL-INCOMPLETE]: bare.keras: there is no manifest beside it"),
    ],
)
def test_a_mistake_is_one_line_with_its_exit_code(onnx: str, arguments: str, code: int, message: str) -> None:
    np.savez("objects.npz", images=np.array([{}], dtype=object))
    if "large" in arguments:
        Image.new("1", (5001, 5000)).save("large.png")
    if "000.png" in arguments:
        pictures(1)
    Path("bare.keras").write_bytes(b"anything")
    out, complaint = predict(*arguments.replace("MODEL", onnx).split(), code=code)
    assert out == "" and complaint.count("\n") == 1
    assert complaint.startswith(f"autofash: {message}")


def test_a_terminal_sees_a_spinner_while_the_runtime_loads_and_then_the_table(folder: Path) -> None:
    command = [*PREDICT, str(folder), *pictures()]
    terminal, ours = pty.openpty()
    surroundings = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdout=ours, stderr=ours, env=surroundings)
    os.close(ours)
    shown = b""
    while True:
        try:
            block = os.read(terminal, 65536)
        except OSError:  # Linux's way to say that nobody writes any more
            break
        shown += block
    os.close(terminal)
    assert process.wait(60) == 0
    assert b"loading keras" in shown and b"002.png" in shown
    assert not [line for line in shown.splitlines() if b"oneDNN" in line or b"WARNING" in line]


def test_a_closed_pipe_ends_quietly(onnx: str) -> None:
    np.savez("many.npz", images=np.concatenate([IMAGES] * 30))
    line = f"{' '.join(PREDICT)} {onnx} many.npz --csv 2>/dev/null | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("file,label,probability")
