"""Prediction: no seams, results on the image's grid, and what is refused before work begins."""

import os
import threading
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import xarray as xr
from rasterio.transform import from_origin
from rasterio.windows import Window

from clouddl import predict
from clouddl.errors import InputError
from clouddl.labels import dilate
from clouddl.model import CloudModel
from clouddl.network import ModelCard, build
from clouddl.predict import Options, make_plan, predict_array, predict_file
from clouddl.products import image as images
from clouddl.products import open_image
from clouddl.products.image import ArrayImage, Image, RasterImage
from clouddl.products.reading import Reading
from clouddl.scale import tiles
from clouddl.scale.tiles import TilePredictor, cut_axis, network_size, receptive_field
from clouddl.scenes import resample
from clouddl.sensors import get_sensor

SPOT = get_sensor("spot-5")
BANDS = ["green", "red", "nir", "swir16"]


def make_model(depth=2, kernel=3, resolution=10.0, normalisation="fixed", stem=2):
    """A network of random weights, made so steep that any seam would show."""
    names = ["blue", *BANDS]
    card = ModelCard(
        name="random", bands=names, band_sets=[names, BANDS, ["green", "red", "nir"]],
        mean=[0.3] * 5, std=[0.2] * 5, resolution=resolution, base_filters=4, depth=depth,
        stem=stem, kernel_size=kernel, normalisation=normalisation, weights_sha256="abc",
    )  # fmt: skip
    torch.manual_seed(3)
    net = build(card)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight.mul_(2.4)  # He's variance: what is deep in the network counts too
    model = CloudModel(card, net, "cpu")
    probability = predict_array(model, scene(128, 128), BANDS, resolution)
    logits = np.log(probability / (1 - probability))
    with torch.no_grad():  # as much cloud as clear
        net.last.bias -= float(np.median(logits))
        for values in net.last.parameters():
            values.mul_(1.5 / float(logits.std()))
    return model


def scene(height, width, bands=4):
    """Reflectance (band, y, x) with structure from the pixel to the whole scene."""
    rng = np.random.default_rng(1)
    image = np.zeros((bands, height, width))
    for cell in (1, 4, 16, 64, 256):
        size = -(-height // cell), -(-width // cell)
        coarse = rng.random((bands, *size)).repeat(cell, 1).repeat(cell, 2)
        image += coarse[:, :height, :width]
    return (image / 5).astype(np.float32)


def write(path, image, nodata=0, crs="EPSG:32631", step=10.0, scale=1e-4):
    digital = np.where(np.isnan(image), nodata, np.maximum(1, np.nan_to_num(image) / scale))
    with rasterio.open(
        path, "w", driver="GTiff", count=len(image), height=image.shape[1], width=image.shape[2],
        dtype="uint16", crs=crs, transform=from_origin(500_000, 4_600_000, step, step),
        nodata=nodata, tiled=True, blockxsize=128, blockysize=128,
    ) as target:  # fmt: skip
        target.write(digital.astype(np.uint16))
    return path


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture
def image(tmp_path):
    values = scene(90, 120)
    values[:, :20, :30] = np.nan
    return write(tmp_path / "spot.tif", values)


def read(path):
    with rasterio.open(path) as file:
        return file.read(1)


def run(path, out, model, **options):
    fields = {"scale": 1e-4} | {k: v for k, v in options.items() if hasattr(Reading, k)}
    how = {k: v for k, v in options.items() if k not in fields}
    reading, how = Reading(**fields), Options(**how)
    return predict_file(path, SPOT, out, model=model, reading=reading, options=how, progress=False)


def in_tiles(path, model, tile):
    """The probability of a file (y, x), put together from its tiles as they come."""
    image = make_plan(path, SPOT, model, Reading(scale=1e-4)).image
    probability = np.full(image.shape, 2, np.float32)
    for window, values in TilePredictor(model, image, tile).run():
        probability[window.toslices()] = values
    return probability


@pytest.mark.parametrize(
    ("depth", "kernel", "stem", "metres", "resolution", "normalisation", "shape", "tile"),
    [
        (2, 3, 1, 10, 10, "fixed", (700, 900), 130),
        (2, 3, 2, 10, 10, "fixed", (700, 900), 130),
        (3, 3, 1, 10, 10, "chip", (300, 411), 100),
        (2, 5, 1, 10, 9.3, "fixed", (231, 257), 100),  # within 15 %: left alone
        (2, 3, 1, 45, 30, "fixed", (700, 900), 130),  # and so is what is coarser, up to 60 m
        (2, 3, 2, 10, 27, "fixed", (500, 611), 50),  # the image is finer, by no whole factor
        (2, 3, 1, 10, 23, "chip", (500, 611), 50),
        (2, 3, 1, 75, 30, "fixed", (90, 121), 75),  # and coarser than 60 m
    ],
)
def test_tiles_leave_no_seam(
    tmp_path, monkeypatch, depth, kernel, stem, metres, resolution, normalisation, shape, tile
):
    model = make_model(depth, kernel, resolution, normalisation, stem)
    values = scene(*shape)
    values[:, 50:70, 33:100] = np.nan
    path = write(tmp_path / "a.tif", values, step=metres)
    with rasterio.open(path) as file:
        stored = file.read().astype(np.float32) * np.float32(1e-4)
    stored[stored == 0] = np.nan
    whole = predict_array(model, stored, BANDS, metres)
    assert whole.shape == shape and np.nanstd(whole) > 0.05
    np.testing.assert_array_equal(np.isnan(whole), np.isnan(stored).all(0))
    monkeypatch.setattr(images, "STRIP", 20_000)  # so that tiles are read in strips as well
    tiled = in_tiles(path, model, tile)
    np.testing.assert_allclose(tiled, whole, atol=1e-4)
    if resolution == metres:  # the test can see a seam where there is one
        monkeypatch.setattr(tiles, "receptive_field", lambda card: 0)
        hasty = in_tiles(path, model, tile)
        assert np.nanmax(np.abs(hasty - whole)) > 1e-2


def test_an_image_is_read_again_only_where_it_has_gaps(monkeypatch):
    model = make_model(resolution=30.0)
    windows = []
    read_window = ArrayImage.read

    def counted(self, window=None):
        windows.append(window)
        return read_window(self, window)

    monkeypatch.setattr(ArrayImage, "read", counted)
    # The look at the whole image, before it is predicted, reads it too.
    monkeypatch.setattr(predict, "_check_overview", lambda *_: None)
    values = scene(90, 120)
    predict_array(model, values, BANDS, 10.0)
    assert len(windows) == 1
    values[:, :20, :30] = np.nan
    predict_array(model, values, BANDS, 10.0)
    assert len(windows) == 1 + 2


@pytest.mark.parametrize(
    ("depth", "kernel", "stem"), [(1, 3, 1), (3, 3, 1), (2, 5, 1), (1, 3, 2), (2, 3, 2), (1, 5, 3)]
)
def test_receptive_field_is_what_the_network_sees(depth, kernel, stem):
    model = make_model(depth, kernel, stem=stem)
    reach, cell = receptive_field(model.card), stem * 2**depth
    size = (reach // cell + 2) * 2 * cell
    x = torch.rand(1, 5, size, size, requires_grad=True)
    seen = 0
    with torch.no_grad():  # no path through the network may end in a ReLU or cancel another
        for values in model.net.parameters():
            values.abs_()
    for at in range(size // 2, size // 2 + cell):  # wherever in its pooling cell the pixel lies
        (slope,) = torch.autograd.grad(model.net(x)[0, at, at], x)
        rows = torch.nonzero(slope.abs().sum((0, 1, 3)))[:, 0]
        seen = max(seen, int(rows.max()) - at, at - int(rows.min()))
    assert reach - cell < seen <= reach


def test_predict_array_is_resample_and_network(model):
    card = model.card.model_copy(update={"resolution": 20.0})
    coarse = CloudModel(card, model.net, "cpu")
    values = scene(64, 80)
    grid = {"band": BANDS, "y": np.arange(64) * 10.0, "x": np.arange(80) * 10.0}
    image = xr.DataArray(values, grid, ("band", "y", "x"), attrs={"resolution": 10.0})
    work = resample(image.to_dataset(name="reflectance").assign_attrs(resolution=10.0), 20)
    planes = np.concatenate([np.full((1, 32, 40), np.nan, np.float32), work.reflectance.values])
    expected = coarse.probability(planes)
    found = predict_array(coarse, image)
    assert found.dtype == np.float32 and found.shape == (64, 80)
    # Between the centres of four working pixels, bilinear: 9/16, 3/16, 3/16, 1/16.
    near = expected[5:7, 7:9]
    assert found[11, 15] == pytest.approx(np.sum(near * np.outer([3, 1], [3, 1]) / 16), abs=1e-5)
    with pytest.raises(InputError, match="its resolution is None"):
        predict_array(model, values, BANDS)
    with pytest.raises(InputError, match="a name for each band"):
        predict_array(model, values, BANDS[:2], 10)
    with pytest.raises(InputError, match="has red, nir, but model random works from"):
        predict_array(model, values[:2], ["red", "nir"], 10)


@pytest.mark.parametrize(
    ("metres", "grid"),
    [
        (25, (50, 75)),
        (26, (60, 90)),
        (30, (60, 90)),
        (45, (60, 90)),
        (60, (60, 90)),
        (61, (122, 183)),
    ],
)
@pytest.mark.parametrize("crs", ["EPSG:32631", None])
def test_pixels_are_taken_as_they_are_up_to_60_m(tmp_path, metres, grid, crs):
    card = ModelCard(name="a", bands=BANDS, resolution=30)
    path = write(tmp_path / "a.tif", scene(60, 90), crs=crs, step=metres)
    image = open_image(path, SPOT, Reading(scale=1e-4, resolution=metres))
    assert network_size(image, card) == grid


def test_arrays_files_and_scenes_at_60_m_get_the_mask_of_the_network_alone(tmp_path):
    model = make_model(resolution=30.0)
    values = scene(64, 80)
    path = write(tmp_path / "a.tif", values, step=60.0)
    with rasterio.open(path) as file:
        stored = file.read().astype(np.float32) * np.float32(1e-4)
    planes = np.concatenate([np.full((1, 64, 80), np.nan, np.float32), stored])
    expected = model.probability(planes)
    np.testing.assert_allclose(predict_array(model, stored, BANDS, 60), expected, atol=1e-6)
    np.testing.assert_allclose(in_tiles(path, model, None), expected, atol=1e-6)


def test_results_are_cogs_on_the_grid_of_the_image(tmp_path, model):
    values = scene(600, 700)
    values[:, :40, :50] = np.nan
    source = write(tmp_path / "spot.tif", values)
    paths = run(source, tmp_path / "new" / "out", model, tile=600)
    assert [path.name for path in paths] == ["spot_cloud.tif", "spot_probability.tif"]
    assert set(paths[0].parent.iterdir()) == set(paths)  # nothing else is left behind
    with rasterio.open(source) as image, rasterio.open(paths[0]) as mask:
        for path, dtype in zip(paths, ("uint8", "float32"), strict=True):
            with rasterio.open(path) as result:
                assert (result.crs, result.transform) == (image.crs, image.transform)
                assert result.shape == image.shape and result.dtypes == (dtype,)
                assert result.profile["tiled"] and result.overviews(1)
                structure = result.tags(ns="IMAGE_STRUCTURE")
                assert (structure["LAYOUT"], structure["COMPRESSION"]) == ("COG", "DEFLATE")
        assert mask.nodata == 255 and mask.descriptions == ("0 clear, 1 cloud",)
        assert mask.colormap(1)[1] == (255, 255, 255, 255)
        tags = mask.tags()
    assert {key: tags[key] for key in ("model", "bands", "weights_sha256", "threshold")} == {
        "model": "random", "bands": "green,red,nir,swir16", "weights_sha256": "abc",
        "threshold": "0.5",
    }  # fmt: skip
    assert tags["model_version"] == model.card.version
    mask, probability = (read(path) for path in paths)
    hole = np.isnan(values[0])
    assert (mask[hole] == 255).all() and np.isnan(probability[hole]).all()
    np.testing.assert_array_equal(mask[~hole], probability[~hole] >= 0.5)
    assert 0.1 < (mask[~hole] == 1).mean() < 0.9


def test_clouds_grown_by_pixels_of_unknown_size_are_warned_of(tmp_path, model):
    np.save(tmp_path / "a.npy", ((scene(64, 64) - 0.1) * 10_000).astype(np.uint16))
    with pytest.warns(UserWarning, match=r"a\.npy: nothing says its resolution.*taken as 20 m"):
        run(tmp_path / "a.npy", tmp_path, model, dilation_m=30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(tmp_path / "a.npy", tmp_path, model)
        run(tmp_path / "a.npy", tmp_path, model, dilation_m=30, resolution=10)


def test_threshold_and_dilation(tmp_path, monkeypatch, image, model):
    monkeypatch.setattr(images, "STRIP", 1000)  # dilation crosses the strips it works in
    strict = read(run(image, tmp_path, model, threshold=0.7)[0])
    grown = read(run(image, tmp_path, model, threshold=0.7, dilation_m=30)[0])
    np.testing.assert_array_equal(grown, dilate(strict, 30, 10))
    assert (grown == 1).sum() > (strict == 1).sum() > 0


@pytest.mark.parametrize("dilation_m", [0, 30])
def test_a_probability_in_uint8_says_its_scale_and_leaves_the_mask(
    tmp_path, image, model, dilation_m
):
    mask, probability = run(image, tmp_path / "float", model, dilation_m=dilation_m)
    same, small = run(
        image, tmp_path / "byte", model, dilation_m=dilation_m, probability_type="uint8"
    )
    np.testing.assert_array_equal(read(same), read(mask))
    with rasterio.open(small) as file:
        assert (file.dtypes, file.nodata, file.scales) == (("uint8",), 255, (0.004,))
        stored = file.read(1, masked=True) * file.scales[0] + file.offsets[0]
    exact = read(probability)
    assert ((exact >= 0.5) == (stored.filled(np.nan) >= 0.5)).all()
    np.testing.assert_allclose(stored.filled(np.nan), exact - 0.002, atol=0.0021)  # rounded down


def test_a_probability_in_thousandths_reaches_the_threshold_where_the_mask_has_cloud(
    tmp_path, image, model
):
    values = scene(64, 80)
    values[:, :9] = np.nan
    expected = predict_array(model, values, BANDS, 10)
    for threshold in (0.5, 0.487, 0.22):
        np.save(tmp_path / "a.npy", values)
        paths = run(
            tmp_path / "a.npy", tmp_path, model, scale=1, resolution=10, threshold=threshold
        )
        mask, probability = map(read, paths)
        np.testing.assert_array_equal(probability, np.floor(expected * 1000) / np.float32(1000))
        np.testing.assert_array_equal(probability >= threshold, mask == 1)
        np.testing.assert_array_equal(np.isnan(probability), mask == 255)


@pytest.mark.parametrize("dtype", predict.STEPS)
def test_every_step_is_stored_from_itself_on_and_not_before(dtype):
    most = predict.STEPS[dtype]
    steps = np.arange(1, most + 1)
    at = (steps / most).astype(np.float32)
    stored = [predict._stored(p, dtype) for p in (at, np.nextafter(at, np.float32(0)))]
    if dtype == "float32":
        np.testing.assert_array_equal(stored[0], at)
        stored = [np.rint(values * most) for values in stored]
    np.testing.assert_array_equal(stored, [steps, steps - 1])


def test_an_image_is_checked_while_its_first_tiles_are_in_work(tmp_path, monkeypatch, image, model):
    """Whichever comes first: the check waits here until the network has begun."""
    begun = threading.Event()
    watched = CloudModel(model.card, model.net, "cpu")

    def compute(*arguments):
        begun.set()
        return CloudModel.probability(model, *arguments)

    def check(*_, **__):
        assert begun.wait(60)
        raise InputError("no reflectance")

    monkeypatch.setattr(watched, "probability", compute)
    monkeypatch.setattr(predict, "check_reflectance", check)
    with pytest.raises(InputError, match="no reflectance"):
        run(image, tmp_path / "out", watched, tile=32)
    assert not (tmp_path / "out").exists()


def test_bands_in_file_order_and_bands_in_use(tmp_path, model):
    values = scene(64, 64)
    expected = predict_array(model, values[:3], BANDS[:3], 10)
    path = write(tmp_path / "a.tif", values[[2, 3, 1, 0]])
    result = run(path, tmp_path, model, bands=["nir", None, "red", "green"])
    np.testing.assert_allclose(read(result[1]), expected, atol=2e-3)  # stored as integers
    order = ["nir", "swir16", "red", "green"]
    result = run(path, tmp_path, model, bands=order, use=BANDS[:3])
    np.testing.assert_allclose(read(result[1]), expected, atol=2e-3)
    with rasterio.open(result[0]) as mask:
        assert mask.tags()["bands"] == "nir,red,green"


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.npz#img"])
def test_arrays_have_no_crs(tmp_path, model, name):
    values = scene(40, 56)
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "a.npz", img=np.moveaxis(values, 0, -1), msk=np.zeros((40, 56, 1)))
    paths = run(f"{tmp_path / name}", tmp_path, model, scale=1, resolution=10, tile=16)
    with rasterio.open(paths[1]) as result:
        assert result.crs is None and result.transform.is_identity
    expected = predict_array(model, values, BANDS, 10)
    np.testing.assert_allclose(read(paths[1]), expected - 5e-4, atol=6e-4)  # rounded down


BAD = {
    "bands": ({"bands": BANDS[:3]}, "has 4 bands, but 3 are named: green, red, nir"),
    "band": (
        {"bands": [*BANDS[:3], "blue"]},
        "blue: not a band of spot-5.*of green, red, nir, swir16",
    ),
    "twice": ({"bands": [*BANDS[:3], "red"]}, "red, red: not a band.*or named twice"),
    "use": ({"use": ["green", "blue"]}, "has no band 'blue'; it has green, red"),
    "set": ({"use": ["green", "red"]}, "has green, red, but model random works from"),
    "spare": ({"use": ["green", "red", "nir"], "bands": BANDS, "model": "four"}, "works from"),
    "numbers": ({"scale": 1}, "looks like digital numbers.*--scale"),
    "threshold": ({"threshold": 50}, "threshold 50: give a number from 0 to 1"),
    "type": ({"probability_type": "int8"}, "probability_type 'int8': give float32 or uint8"),
    "resolution": ({"resolution": 30}, "pixels are 10 m, not 30 m"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_before_anything_is_written(tmp_path, image, model, case):
    options, message = BAD[case]
    if options.get("model"):
        card = model.card.model_copy(update={"band_sets": [BANDS]})
        options = {**options, "model": CloudModel(card, model.net, "cpu")}
    with pytest.raises(InputError, match=message) as caught:
        run(image, tmp_path / "out", options.pop("model", model), **options)
    if case not in ("threshold", "type"):  # which are no matter of the image
        assert str(image) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_files_that_cannot_be_used(tmp_path, model):
    empty = write(tmp_path / "empty.tif", np.full((4, 30, 30), np.nan))
    (tmp_path / "text.tif").write_text("not an image")
    np.savez(tmp_path / "two.npz", a=scene(30, 30), b=scene(30, 30))
    for path, message in {
        empty: "every pixel is nodata",
        tmp_path / "text.tif": "cannot be read as an image",
        tmp_path / "gone.tif": "does not exist",
        tmp_path / "gone.npz": "gone.npz: does not exist",
        tmp_path / "two.npz": "which array is the image of 4 bands.*two.npz#a",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            run(path, tmp_path / "out", model)
        assert path.name in str(caught.value)
    with pytest.raises(InputError, match=r"text\.tif: cannot be the folder of results"):
        run(write(tmp_path / "a.tif", scene(30, 30)), tmp_path / "text.tif", model)


def test_without_georeference_the_image_is_taken_as_it_is(tmp_path, model):
    bare = write(tmp_path / "bare.tif", scene(40, 40), crs=None)
    told = run(bare, tmp_path / "told", model, resolution=model.card.resolution)
    silent = run(bare, tmp_path / "silent", model)
    for a, b in zip(told, silent, strict=True):
        np.testing.assert_array_equal(rasterio.open(a).read(), rasterio.open(b).read())


def test_no_model_for_the_bands(tmp_path, image):
    with pytest.raises(InputError, match=r"spot.tif: no shipped model works from the bands nir"):
        run(image, tmp_path, None, use=["nir"])


def test_a_run_that_fails_leaves_the_old_result(tmp_path, monkeypatch, model):
    image, out = write(tmp_path / "wide.tif", scene(90, 400)), tmp_path / "out"
    paths = run(image, out, model)
    before = [path.read_bytes() for path in paths]
    calls = []

    def fail(*arguments):
        calls.append(1)
        if len(calls) > 2:
            raise InputError("the disk is full")
        return CloudModel.probability(model, *arguments)

    broken = CloudModel(model.card, model.net, "cpu")
    monkeypatch.setattr(broken, "probability", fail)
    with pytest.raises(InputError, match="disk"):
        run(image, out, broken, tile=16, threshold=0.9)
    assert len(calls) == 3
    assert [path.read_bytes() for path in paths] == before
    assert set(out.iterdir()) == set(paths)


def test_a_file_cut_short(tmp_path, image, model):
    data = image.read_bytes()
    image.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"spot\.tif.*copy it again"):
        run(image, tmp_path / "out", model)


def test_memory_is_that_of_a_tile(tmp_path, monkeypatch, model):
    """No read is larger than a tile with its margins, whatever the size of the image."""
    path = write(tmp_path / "a.tif", scene(400, 500))
    largest = []
    genuine = RasterImage.read

    def spy(image: Image, window: Window):
        largest.append(window.width * window.height)
        return genuine(image, window)

    monkeypatch.setattr(RasterImage, "read", spy)
    run(path, tmp_path, model, tile=64)
    assert max(largest) <= (64 + 2 * 48 + 1) ** 2


@pytest.mark.skipif("CLOUDDL_MIRROR" not in os.environ, reason="needs CLOUDDL_MIRROR")
def test_a_real_npz(tmp_path, model):
    source = Path(os.environ["CLOUDDL_MIRROR"]) / "ukis" / "landsat5.npz"
    bands = ["blue", "green", "red", "nir", "swir16", "swir22"]
    reading = Reading(bands=tuple(bands), resolution=30)
    paths = predict_file(
        source, get_sensor("landsat-5"), tmp_path, model=model, reading=reading, progress=False
    )
    mask = read(paths[0])
    assert mask.shape == (512, 512) and set(np.unique(mask)) <= {0, 1, 255}


@pytest.mark.parametrize("extent", [1, 17, 224, 225, 1000, 2017, 10980])
@pytest.mark.parametrize("tile", [16, 100, 1792])
@pytest.mark.parametrize("margin", [0, 3, 104])
def test_an_axis_is_cut_without_gap_and_with_its_margins(extent, tile, margin):
    spans = cut_axis(extent, tile, margin, 16)
    edges = [0, *(span.core.stop for span in spans)]
    assert edges == [*(span.core.start for span in spans), extent]
    assert all(before < after for before, after in pairwise(edges))
    for span in spans:
        assert span.view.start % 16 == 0
        assert span.view.start <= max(0, span.core.start - margin)
        assert span.view.stop >= min(extent, span.core.stop + margin)
    cells = {-(-(span.view.stop - span.view.start) // 16) for span in spans}
    assert len(cells) == 1 and 16 * max(cells) <= tile + 2 * margin + 45  # rounded up three times
