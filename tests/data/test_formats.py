import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autofash.data.formats import read_cifar, read_idx, read_npz
from autofash.errors import DataCorrupt, UnsafeFile


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return gzip.compress(header + array.tobytes())


def test_an_idx_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "a.gz").write_bytes(idx(images))
    assert (read_idx(tmp_path / "a.gz") == images).all()


@given(st.data())
def test_a_flipped_or_cut_idx_file_is_read_whole_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("idx") / "a.gz"
    whole = bytearray(idx(np.zeros((5, 4, 4), np.uint8)))
    if data.draw(st.booleans()):
        del whole[data.draw(st.integers(0, len(whole) - 1)) :]
    else:
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(whole)
    try:
        read_idx(path)
    except (DataCorrupt, UnsafeFile) as error:
        assert str(path) in str(error)


def test_a_header_that_claims_more_than_memory_is_refused_before_it_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 3]) + b"\x7f\xff\xff\xff" * 3))
    with pytest.raises(UnsafeFile, match="claims") as caught:
        read_idx(path)
    assert caught.value.code == "E-TOO-LARGE"


def test_an_npz_that_holds_a_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x_train=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UnsafeFile, match="holds a pickle") as caught:
        read_npz(path, ("x_train",))
    assert caught.value.code == "E-UNSAFE-NPZ"


def test_an_npz_bomb_is_refused_by_its_declared_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x_train.npy", b"\0" * 10_000_000)
    monkeypatch.setattr("autofash.data.formats.LARGEST_ARRAY", 1_000_000)
    with pytest.raises(UnsafeFile, match="unpacks to 10,000,000 bytes, more than 1,000,000"):
        read_npz(path, ("x_train",))


def test_a_cifar_archive_is_read_plane_by_plane_without_extracting(tmp_path: Path) -> None:
    planes = np.arange(2 * 3 * 32 * 32, dtype=np.uint64).astype(np.uint8).reshape(2, 3, 32, 32)
    content = b"".join(bytes([label]) + image.tobytes() for label, image in zip([3, 9], planes, strict=True))
    path = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    images, labels = read_cifar(path, ("test_batch.bin",))
    assert labels.tolist() == [3, 9]
    assert images.shape == (2, 32, 32, 3) and (images[1, 5, 7] == planes[1, :, 5, 7]).all()
    assert not list(tmp_path.rglob("*.bin"))
    with pytest.raises(DataCorrupt, match="data_batch_1.bin holds 0 bytes"):
        read_cifar(path, ("data_batch_1.bin",))
