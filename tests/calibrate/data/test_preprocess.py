from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from onnx_lowrank.calibrate.data.preprocess import (
    BadImageError,
    ImageLayout,
    Preprocessing,
    decode_image,
    image_array,
    image_layout,
    preset,
    resize_image,
)
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.runtime.inputs import TensorSpec

FLOAT32 = np.dtype(np.float32)
UINT8 = np.dtype(np.uint8)
RAW = preset("raw")


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def one_pixel(colour: tuple[int, int, int], preprocessing: Preprocessing, channels: int = 3) -> NDArray[Any]:
    layout = ImageLayout(FLOAT32, channels, 1, 1, channels_first=True)
    image = decode_image(encode(Image.new("RGB", (1, 1), colour)), channels)
    return image_array(image, layout, preprocessing).ravel()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("imagenet", [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]),
        ("keras-caffe", [51 - 103.939, 0 - 116.779, 255 - 123.68]),
        ("zero-one", [1, 0, 0.2]),
        ("minus-one-one", [1, -1, -0.6]),
        ("raw", [255, 0, 51]),
    ],
)
def test_presets_give_the_numbers_of_their_frameworks(name: str, wanted: list[float]) -> None:
    np.testing.assert_allclose(one_pixel((255, 0, 51), preset(name)), wanted, rtol=1e-6, atol=1e-6)


def test_mean_and_std_follow_the_order_of_the_models_channels() -> None:
    changed = Preprocessing("raw", scale=2.0, mean=(1.0, 2.0, 3.0), std=(10.0, 20.0, 40.0), channel_order="bgr")
    wanted = [(2 * 30 - 1) / 10, (2 * 20 - 2) / 20, (2 * 10 - 3) / 40]
    np.testing.assert_allclose(one_pixel((10, 20, 30), changed), wanted, rtol=1e-6)


def test_one_channel_gets_luma() -> None:
    assert one_pixel((255, 0, 0), RAW, channels=1) == [76]  # 0.299 of 255


def test_presets_can_be_changed_field_by_field() -> None:
    changed = replace(preset("imagenet"), mean=(0.5,), resize="stretch")
    assert (changed.mean, changed.std, changed.resize) == ((0.5,), (0.229, 0.224, 0.225), "stretch")


@pytest.mark.parametrize("values", [(127, 128), ((127.0,), (128.0,)), ([127, 127, 127], np.full(3, 128))])
def test_plain_numbers_do_for_mean_and_std(values: Any) -> None:
    mean, std = values
    plain = Preprocessing(mean=mean, std=std)
    assert (plain.name, plain.scale) == ("custom", 1.0)
    assert {*plain.means} == {127.0}
    assert {*plain.stds} == {128.0}
    layout = ImageLayout(np.dtype(np.float32), 3, 1, 1, channels_first=True)
    array = image_array(Image.new("RGB", (1, 1), (255, 127, 0)), layout, plain)
    np.testing.assert_array_equal(array.ravel(), np.array([128 / 128, 0, -127 / 128], np.float32))
    assert Preprocessing(mean=127, std=128) == Preprocessing("custom", 1.0, (127,), (128,))
    assert len({Preprocessing(mean=127), Preprocessing(mean=(127,))}) == 1


@pytest.mark.parametrize("value", ["grey", None, {"r": 1}])
def test_what_is_no_number_is_named(value: Any) -> None:
    with pytest.raises(TypeError, match="preprocessing: std must be a number or one per channel, got"):
        Preprocessing(std=value)


def test_unknown_names_are_mistakes_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no preset 'tf': one of imagenet, keras-caffe, zero-one, minus-one-one, raw"):
        preset("tf")
    with pytest.raises(ValueError, match="unknown channel order 'rgba' or resize mode 'crop'"):
        Preprocessing("raw", channel_order="rgba")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="resize mode 'squash'"):
        Preprocessing("raw", resize="squash")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "numbers",
    [{"std": (1.0, 0.0, 1.0)}, {"mean": (float("nan"),)}, {"scale": float("inf")}],
)
def test_numbers_that_cannot_be_used_are_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(CalibrationError, match=r"preprocessing: scale .* finite numbers are wanted, and no 0 in std"):
        Preprocessing("raw", **numbers)


@pytest.mark.parametrize(
    ("mean", "scale", "text"),
    [
        (
            127,
            1 / 255,
            "mean 127 is more than any pixel gives, 0 to 1 with scale 0.00392: means of 0 to 255 want `scale`",
        ),
        ((0.5, 120, 0.5), 1 / 127.5, "mean 120 is more than any pixel gives, 0 to 2 with scale 0.00784"),
    ],
)
def test_means_beyond_every_pixel_are_refused(mean: Any, scale: float, text: str) -> None:
    with pytest.raises(CalibrationError, match=re.escape(text)):
        Preprocessing(mean=mean, std=128, scale=scale)


@pytest.mark.parametrize(("mean", "scale"), [(255, 1.0), (1.0, 1 / 255), (2.0, 1 / 127.5), (-1, 1 / 255), (3, -1.0)])
def test_other_means_are_taken(mean: float, scale: float) -> None:
    assert Preprocessing(mean=mean, scale=scale).means == (mean,)


def test_a_preprocessing_is_a_formula_in_words() -> None:
    assert str(Preprocessing(mean=127, std=128)) == "(pixel * 1 - 127) / 128, rgb, crop"
    wanted = "(pixel * 1 - [103.939, 116.779, 123.68]) / 1, bgr, crop"
    assert str(preset("keras-caffe")) == wanted


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_crop_share_is_a_share(share: float) -> None:
    with pytest.raises(CalibrationError, match=re.escape(f"crop_share must lie in (0, 1], got {share}")):
        Preprocessing("raw", crop_share=share)


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((None, 3, 20, 30), (3, 20, 30, True)),
        ((1, 20, 30, 3), (3, 20, 30, False)),
        ((None, 1, 28, 28), (1, 28, 28, True)),
        ((None, None, None, 1), (1, None, None, False)),
        ((8, 3, None, 30), (3, None, 30, True)),
    ],
)
def test_layout_comes_from_the_channel_axis(shape: tuple[int | None, ...], wanted: tuple[Any, ...]) -> None:
    layout = image_layout(TensorSpec("x", FLOAT32, shape), RAW)
    assert (layout.channels, layout.height, layout.width, layout.channels_first) == wanted


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((None, 3, 20, 3), r"input 'x': shape \(samples, 3, 20, 3\) found.*holds for both"),
        ((None, 4, 20, 20), r"shape \(samples, 4, 20, 20\) found.*holds for none"),
        ((None, None, None, None), r"shape \(samples, \?, \?, \?\) found.*holds for none"),
        ((None, 3), r"shape \(samples, 3\) found, four axes wanted"),
        ((), r"four axes wanted"),
    ],
)
def test_inputs_that_are_not_for_images(shape: tuple[int | None, ...], text: str) -> None:
    with pytest.raises(CalibrationError, match=f"{text}.*pass arrays as .npy"):
        image_layout(TensorSpec("x", FLOAT32, shape), RAW)


def test_images_do_not_become_integers() -> None:
    spec = TensorSpec("x", np.dtype(np.int32), (1, 3, 8, 8))
    with pytest.raises(CalibrationError, match="input 'x': type int32: images become float or uint8 inputs only"):
        image_layout(spec, RAW)


def test_mean_must_fit_the_channels_unless_unused() -> None:
    with pytest.raises(CalibrationError, match=r"mean of preprocessing 'imagenet' has 3 values.*1 channel.*`mean`"):
        image_layout(TensorSpec("x", FLOAT32, (1, 1, 8, 8)), preset("imagenet"))
    with pytest.raises(CalibrationError, match=r"std of .* has 2 values.*3 channel.*`std`"):
        image_layout(TensorSpec("x", FLOAT32, (1, 3, 8, 8)), replace(RAW, std=(1.0, 2.0)))
    assert image_layout(TensorSpec("x", UINT8, (1, 1, 8, 8)), preset("imagenet")).channels == 1


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 5))
def test_crop_is_resize_then_centre_crop(width: int, height: int, eighths: int) -> None:
    """The oracle is torchvision's recipe: short side to 8/7 of the size, long side rounded down; crop."""
    size, short = 7 * eighths, 8 * eighths
    image = noise(width, height)
    wide, high = (int(short * side / min(width, height)) for side in (width, height))
    left, top = (round((side - size) / 2.0) for side in (wide, high))
    resized = image.resize((wide, high), Image.Resampling.BILINEAR)
    wanted = np.asarray(resized.crop((left, top, left + size, top + size)), dtype=int)
    found = resize_image(image, (size, size), Preprocessing("raw", crop_share=7 / 8))
    # A box has float32 corners, which may tip a tie, and Pillow rounds after either of its two passes.
    assert np.abs(np.asarray(found) - wanted).max() <= 2


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_every_mode_gives_the_size_asked_for(width: int, height: int, wide: int, high: int) -> None:
    for mode in ("crop", "stretch", "pad"):
        found = resize_image(noise(width, height), (wide, high), replace(preset("imagenet"), resize=mode))
        assert found.size == (wide, high)


def test_crop_keeps_the_centre_stretch_everything_pad_the_aspect_ratio() -> None:
    sources = np.repeat(np.array([[10, 200, 200, 90]], dtype=np.uint8), 2, axis=0)  # twice as wide as high
    image = Image.fromarray(sources)
    assert np.asarray(resize_image(image, (2, 2), RAW)).tolist() == [[200, 200]] * 2
    stretched = np.asarray(resize_image(image, (4, 4), replace(RAW, resize="stretch")))
    np.testing.assert_array_equal(stretched, np.repeat(sources, 2, axis=0))
    padded = np.asarray(resize_image(image, (4, 4), replace(RAW, resize="pad")))
    np.testing.assert_array_equal(padded, np.vstack([0 * sources[:1], sources, 0 * sources[:1]]))


def test_a_thin_strip_does_not_grow_to_gigabytes() -> None:
    assert resize_image(Image.new("RGB", (1, 60_000)), (224, 224), RAW).size == (224, 224)


def test_arrays_have_the_layout_and_type_of_the_input() -> None:
    image = noise(5, 4)
    pixels = np.asarray(image)
    first = image_array(image, ImageLayout(UINT8, 3, 4, 5, channels_first=True), preset("imagenet"))
    last = image_array(image, ImageLayout(np.dtype(np.float16), 3, 4, 5, channels_first=False), RAW)
    np.testing.assert_array_equal(first, pixels.transpose(2, 0, 1))
    np.testing.assert_array_equal(last, pixels)
    assert first.dtype == UINT8
    assert last.dtype == np.float16
    bgr = replace(RAW, channel_order="bgr")
    np.testing.assert_array_equal(
        image_array(image, ImageLayout(UINT8, 3, 4, 5, channels_first=False), bgr), pixels[:, :, ::-1]
    )


def test_open_size_is_that_of_the_image() -> None:
    layout = ImageLayout(FLOAT32, 3, None, None, channels_first=True)
    assert image_array(noise(5, 4), layout, RAW).shape == (3, 4, 5)


def test_unusual_pixel_formats_are_decoded_not_clipped() -> None:
    sixteen = Image.fromarray(np.array([[0, 0x7FFF, 0xFFFF]], dtype=np.uint16))
    assert np.asarray(decode_image(encode(sixteen), 1)).tolist() == [[0, 127, 255]]
    palette = noise(4, 4).quantize(4)
    content = encode(palette, transparency=bytes([0, 128, 255, 255]))
    np.testing.assert_array_equal(decode_image(content, 3), palette.convert("RGB"))
    clear = Image.new("RGBA", (1, 1), (9, 8, 7, 0))
    assert decode_image(encode(clear), 3).getpixel((0, 0)) == (9, 8, 7)
    assert decode_image(encode(Image.new("CMYK", (8, 8)), "JPEG"), 3).getpixel((0, 0)) == (255, 255, 255)


def test_formats_are_told_by_their_bytes_and_limited() -> None:
    for kind in ("JPEG", "PNG", "BMP", "GIF", "TIFF", "PPM"):
        assert decode_image(encode(noise(3, 2), kind), 3).size == (3, 2)
    with pytest.raises(BadImageError, match="not an image of a known format"):
        decode_image(encode(noise(3, 2), "EPS"), 3)


@pytest.mark.parametrize("content", [b"", b"no image", encode(noise(9, 9))[:20]])
def test_what_is_no_image_says_so(content: bytes) -> None:
    with pytest.raises(BadImageError, match=r"not an image of a known format|[Tt]runcated"):
        decode_image(content, 3)


def test_a_cut_off_body_and_pixels_without_range_are_refused() -> None:
    with pytest.raises(BadImageError, match="truncated"):
        decode_image(encode(noise(64, 64), "JPEG")[:1500], 3)
    with pytest.raises(BadImageError, match="pixels of 32 bits"):
        decode_image(encode(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), 3)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(noise(11, 10))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 109)
    with pytest.raises(BadImageError, match="11 x 10 pixels, more than the 109 safe to decode"):
        decode_image(content, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(BadImageError, match="decompression bomb"):
        decode_image(content, 3)


@settings(deadline=None)  # a damaged TIFF may take a fifth of a second
@given(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF"]), st.data())
def test_damage_never_raises_anything_else(kind: str, data: st.DataObject) -> None:
    content = bytearray(encode(noise(8, 8), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = decode_image(bytes(content[: data.draw(st.integers(0, len(content)))]), 3)
    except BadImageError:
        return
    assert image.mode == "RGB"
