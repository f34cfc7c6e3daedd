"""`fastnn.images`: pictures brought to MNIST's form, and pictures that cannot be.

Invariant: pictures are drawn here or taken from the bundled sample; damaged ones are made here.
"""

import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

import fastnn
from fastnn import LoadError, images, mnist


@pytest.fixture(scope="module")
def digits():
    return mnist.sample()


def page(height=200, width=160, paper=250, ink=20):
    """A light page with a dark 7."""
    grey = np.full((height, width), paper, np.uint8)
    grey[40:60, 40:110] = ink
    for i in range(90):
        left = 100 - i // 2
        grey[60 + i, left : left + 15] = ink
    return grey


def enlarged(digit, times=9):
    return np.kron(np.pad(digit, 3), np.ones((times, times), np.uint8))


def centre_of_mass(form):
    mass = form.astype(float)
    return [mass.sum(1 - axis) @ np.arange(28) / mass.sum() for axis in (0, 1)]


def box(form):
    rows, columns = np.flatnonzero(form.any(1)), np.flatnonzero(form.any(0))
    return rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1


def png(path, array, mode=None):
    Image.fromarray(array, mode).save(path)
    return path


# --- the form -------------------------------------------------------------------------------


def test_form_of_a_dark_digit_on_paper():
    form = images.to_mnist(page())
    assert form.shape == (28, 28)
    assert form.dtype == np.uint8
    assert form.max() == 255
    assert max(box(form)) == 20
    assert min(box(form)) < 20  # proportions kept: the 7 is taller than wide
    np.testing.assert_allclose(centre_of_mass(form), 14, atol=0.51)


def test_same_digit_whatever_the_page():
    wanted = images.to_mnist(page()).astype(int)
    wider = np.pad(page(), ((100, 0), (30, 300)), constant_values=250)
    for grey in (wider, 255 - page(), page(paper=180, ink=60), np.kron(page(), np.ones((2, 2)))):
        form = images.to_mnist(grey)
        assert np.abs(form.astype(int) - wanted).max() <= 1


def test_invert_iff_the_border_is_light():
    assert images.to_mnist(page()).tobytes() == images.to_mnist(page(), invert=True).tobytes()
    dark = 255 - page()
    assert images.to_mnist(dark).tobytes() == images.to_mnist(dark, invert=False).tobytes()
    with pytest.raises(ValueError, match="nothing in the picture is lighter than its border"):
        images.to_mnist(page(), invert=False)
    with pytest.raises(ValueError, match="darker"):
        images.to_mnist(dark, invert=True)


def test_paper_grain_does_not_widen_the_box():
    rng = np.random.default_rng(3)
    grain = page().astype(float) + rng.normal(0, 4, (200, 160))
    clean, noisy = images.to_mnist(page()), images.to_mnist(grain.clip(0, 255))
    assert box(clean) == box(noisy)


def test_tiny_huge_and_thin_pictures():
    dot = np.zeros((3, 3))
    dot[1, 1] = 200
    assert box(images.to_mnist(dot)) == (20, 20)
    bar = np.zeros((300, 50))
    bar[5:295, 20] = 255
    form = images.to_mnist(bar)
    assert box(form) == (20, 1)
    np.testing.assert_allclose(centre_of_mass(form), 14, atol=0.51)
    assert images.to_mnist(np.kron(page(), np.ones((15, 15)))).shape == (28, 28)


def test_a_lopsided_digit_stays_whole():
    grey = np.zeros((100, 100))
    grey[:, 10:12] = 20  # a faint wide part and a heavy edge: the mass is far off the middle
    grey[20:80, 10:90] = 40
    grey[20:80, 80:90] = 255
    grey[:3] = grey[-3:] = 0
    form = images.to_mnist(grey)
    assert max(box(form)) == 20


def test_averages_keep_the_mean():
    for n_from, n_to in ((20, 20), (7, 20), (100, 20), (31, 13), (1, 20), (20, 1)):
        matrix = images._averages(n_from, n_to)
        np.testing.assert_allclose(matrix.sum(1), 1)
        np.testing.assert_allclose(matrix.sum(0), n_to / n_from)
        assert matrix.min() >= 0


@pytest.mark.parametrize(
    ("grey", "message"),
    [
        (np.zeros((28, 28, 3)), r"shape \(28, 28, 3\)"),
        (np.zeros(784), r"shape \(784,\)"),
        (np.zeros((0, 5)), "shape"),
        (np.full((9, 9), np.nan), "NaN"),
        (np.zeros((9, 9)), "nothing"),
        (np.full((9, 9), 255), "nothing"),
        (np.full((9, 9), 100) + np.eye(9), "nothing"),
    ],
)
def test_refuses_arrays(grey, message):
    with pytest.raises(ValueError, match=message):
        images.to_mnist(grey)


def test_input_is_not_written():
    grey = page().astype(float)
    before = grey.copy()
    images.to_mnist(grey)
    assert (grey == before).all()


def test_digits_survive_the_way_through_paper(digits):
    """Real digits, enlarged and printed dark on light, are still read as well as before."""
    pictures, labels = digits[0][::4], digits[1][::4]
    model = fastnn.load("mnist-small")
    forms = np.stack([images.to_mnist(255 - enlarged(picture)) for picture in pictures])
    before = np.mean(model.predict(pictures) == labels)
    after = np.mean(model.predict(forms) == labels)
    assert after >= before - 0.02


# --- files ----------------------------------------------------------------------------------


def test_a_grey_28x28_is_taken_as_it_is(digits, tmp_path):
    digit = digits[0][0]
    path = png(tmp_path / "digit.png", digit)
    assert images.read(path).tobytes() == digit.tobytes()
    assert images.read(path, invert=False).tobytes() == digit.tobytes()
    assert images.read(path, invert=True).tobytes() == (255 - digit).tobytes()
    light = png(tmp_path / "light.png", 255 - digit)
    assert images.read(light).tobytes() == (255 - digit).tobytes()
    as_rgb = png(tmp_path / "rgb.png", np.repeat(digit[..., None], 3, axis=2))
    assert images.read(as_rgb).tobytes() == digit.tobytes()


def test_a_coloured_28x28_is_not(digits, tmp_path):
    rgb = np.repeat(255 - digits[0][0][..., None], 3, axis=2)
    rgb[..., 2] = 255  # yellowish ink, white paper
    form = images.read(png(tmp_path / "colour.png", rgb))
    assert form[0].max() == 0
    assert form.max() == 255


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_pictures_of_other_sizes(suffix, tmp_path):
    path = tmp_path / f"page.{suffix}"
    Image.fromarray(page()).save(path)
    form, wanted = images.read(path), images.to_mnist(page())
    # JPEG's ripples around strokes are fainter than the ink by far.
    assert np.abs(form.astype(int) - wanted).mean() < (0.1 if suffix == "png" else 5)


def test_the_name_does_not_matter(tmp_path):
    path = tmp_path / "picture.txt"
    Image.fromarray(page()).save(path, "PNG")
    assert images.read(str(path)).tobytes() == images.to_mnist(page()).tobytes()


def test_sixteen_bits_and_one(digits, tmp_path):
    digit = digits[0][0]
    small = png(tmp_path / "small.png", digit.astype(np.uint16) * 257)
    assert images.read(small).tobytes() == digit.tobytes()
    wanted = images.to_mnist(page(paper=255, ink=0))
    deep = png(tmp_path / "deep.png", page(paper=255, ink=0).astype(np.uint16) * 257)
    assert images.read(deep).tobytes() == wanted.tobytes()
    Image.fromarray(page(paper=255, ink=0)).convert("1").save(tmp_path / "flat.png")
    assert images.read(tmp_path / "flat.png").tobytes() == wanted.tobytes()


@pytest.mark.parametrize("ink", [0, 255])
def test_transparent_paper(ink, tmp_path):
    drawn = page() < 100
    rgba = np.zeros((*drawn.shape, 4), np.uint8)
    rgba[drawn] = (ink, ink, ink, 255)
    form = images.read(png(tmp_path / "clear.png", rgba))
    assert form.tobytes() == images.to_mnist(page()).tobytes()


def test_palettes(tmp_path):
    Image.fromarray(page()).convert("P").save(tmp_path / "palette.png")
    assert box(images.read(tmp_path / "palette.png")) == box(images.to_mnist(page()))


def test_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned = Image.fromarray(np.rot90(page()).copy())
    turned.save(tmp_path / "photo.png", exif=exif)
    assert images.read(tmp_path / "photo.png").tobytes() == images.to_mnist(page()).tobytes()


# --- what cannot be read --------------------------------------------------------------------


def bomb(path, side=60_000):
    """A PNG of a few bytes that declares side x side pixels."""

    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + rows + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_decompression_bombs(side, tmp_path):
    with pytest.raises(LoadError, match="sane size"):
        images.read(bomb(tmp_path / "bomb.png", side))


def test_what_is_no_picture(tmp_path):
    for name, content in (("empty.png", b""), ("text.png", b"a picture\n"), ("gif.png", b"GIF89a")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LoadError, match=f"{name}: picture: expected a PNG or JPEG"):
            images.read(tmp_path / name)


def test_other_formats_are_refused(tmp_path):
    Image.fromarray(page()).save(tmp_path / "page.bmp")
    with pytest.raises(LoadError, match="PNG or JPEG"):
        images.read(tmp_path / "page.bmp")


def test_blank_pages(tmp_path):
    with pytest.raises(LoadError, match=r"blank\.png: .*nothing in the picture"):
        images.read(png(tmp_path / "blank.png", np.full((50, 50), 255, np.uint8)))


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(FileNotFoundError):
        images.read(tmp_path / "none.png")
    with pytest.raises(IsADirectoryError):
        images.read(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_damaged_files_fail_cleanly(suffix, tmp_path):
    """Every cut, and many flips: a form or a LoadError, nothing else."""
    path = tmp_path / f"whole.{suffix}"
    Image.fromarray(page()).save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(5)
    damaged = [whole[:cut] for cut in range(0, len(whole), max(1, len(whole) // 40))]
    for _ in range(150):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 3):
            data[at] ^= int(rng.integers(1, 256))
        damaged.append(bytes(data))
    n_refused = 0
    for data in damaged:
        path.write_bytes(data)
        try:
            assert images.read(path).shape == (28, 28)
        except LoadError:
            n_refused += 1
    assert n_refused >= 20


def test_without_pillow(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"fastnn\[images\]"):
        images.read(tmp_path / "x.png")
