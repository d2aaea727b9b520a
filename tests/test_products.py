"""Products: tiny twins in the exact layout of each format, and values worked by hand.

Every twin holds random digital numbers in a 12 x 12 grid of its own pixels, but for what a test
sets. The expected reflectance is written as numbers, from the specification's formula.
"""

import io
import json
import math
import re
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from rasterio.transform import from_origin
from rasterio.windows import Window

from clouddl.errors import InputError
from clouddl.model import load_model, pick_model
from clouddl.predict import Options, predict_array, predict_file
from clouddl.products import archives, open_product
from clouddl.products.product import READERS
from clouddl.products.readers import find_product
from clouddl.products.reading import Reading
from clouddl.scenes import resample

SIZE = 12
RNG = np.random.default_rng(7)


def write(
    path: Path, values: np.ndarray, metres: float = 10, crs: str | None = "EPSG:32631",
    **fields: object,
) -> np.ndarray:  # fmt: skip
    """Write (layer, y, x) as TIFF or, by the name, lossless JPEG 2000."""
    path.parent.mkdir(parents=True, exist_ok=True)
    layers = values if values.ndim == 3 else values[np.newaxis]
    profile = {"driver": "GTiff", "count": len(layers), "dtype": layers.dtype, "crs": crs,
               "height": layers.shape[1], "width": layers.shape[2]} | fields  # fmt: skip
    if crs:
        profile["transform"] = from_origin(600_000, 4_900_000, metres, metres)
    if path.suffix.lower() == ".jp2":
        profile |= {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", **profile) as file:
            file.write(layers)
    return values


def numbers(low: int, high: int, *shape: int, dtype: str = "uint16") -> np.ndarray:
    return RNG.integers(low, high, shape or (SIZE, SIZE)).astype(dtype)


# --- the twins: each writes a product into a folder and returns it, and what it wrote by band


S2 = [f"B0{n}" for n in range(1, 9)] + ["B8A", "B09", "B10", "B11", "B12"]
S2_METRES = dict(zip(S2, [60, 10, 10, 10, 20, 20, 20, 10, 20, 60, 60, 20, 20], strict=True))
Written = tuple[Path, dict[str, np.ndarray]]


def s2_xml(level: str, baseline: str, offset: str) -> str:
    boa = "" if level == "1C" else "BOA_"
    spectral = "".join(
        f'<Spectral_Information bandId="{i}" physicalBand="{name.replace("B0", "B")}"/>'
        for i, name in enumerate(S2)
    )
    return f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-{level}_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User.xsd">
  <n1:General_Info><Product_Info>
    <PROCESSING_LEVEL>Level-{level}</PROCESSING_LEVEL>
    <PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE></Product_Info>
    <Product_Image_Characteristics>
      <Special_Values><SPECIAL_VALUE_TEXT>NODATA</SPECIAL_VALUE_TEXT>
        <SPECIAL_VALUE_INDEX>0</SPECIAL_VALUE_INDEX></Special_Values>
      <{boa}QUANTIFICATION_VALUE unit="none">10000</{boa}QUANTIFICATION_VALUE>
      {offset}<Spectral_Information_List>{spectral}</Spectral_Information_List>
    </Product_Image_Characteristics>
  </n1:General_Info>
</n1:Level-{level}_User_Product>"""


def sentinel2(root: Path, level: str = "1C", baseline: str = "05.00", offset: int = -1000,
              name: str = "S2A_MSIL{}_20220301T105021_N0500_R051_T31TCJ_20220301T112233.SAFE",
              ) -> Written:  # fmt: skip
    safe = root / name.format(level)
    tag = "RADIO_ADD_OFFSET" if level == "1C" else "BOA_ADD_OFFSET"
    listed = "".join(f'<{tag} band_id="{i}">{offset}</{tag}>' for i in range(13)) if offset else ""
    data = {}
    for native in S2:
        metres, start = S2_METRES[native], f"T31TCJ_20220301T105021_{native}"
        folder = safe / "GRANULE" / f"L{level}_T31TCJ_A034567_20220301T105021" / "IMG_DATA"
        side = 24 * 10 // metres if level == "1C" else 24 * 10 // max(metres, 10)
        values = numbers(1500, 4000, side, side)
        if level == "1C":
            write(folder / f"{start}.jp2", values, metres)
        elif native != "B10":
            write(folder / f"R{metres}m" / f"{start}_{metres}m.jp2", values, metres)
            if metres < 60:  # a coarser copy, which is not the one to read
                side = 240 // 60
                write(folder / "R60m" / f"{start}_60m.jp2", numbers(1500, 4000, side, side), 60)
        data[native] = values
    (safe / f"MTD_MSIL{level}.xml").write_text(s2_xml(level, baseline, listed), "utf-8")
    return safe, data


def sentinel2_aws(root: Path, baseline: str = "0500", level: str = "L1C") -> Written:
    """A tile of the public archive on AWS: B01.jp2 beside productInfo.json."""
    data = {}
    for native in S2:
        side = 240 // S2_METRES[native]
        data[native] = numbers(1500, 4000, side, side)
        folder = "" if level == "L1C" else f"R{S2_METRES[native]}m/"
        if level == "L1C" or native != "B10":
            write(root / "0" / f"{folder}{native}.jp2", data[native], S2_METRES[native])
    name = f"S2B_MSI{level}_20220301T105021_N{baseline}_R051_T31TCJ_20220301T112233"
    (root / "0" / "productInfo.json").write_text(json.dumps({"name": name}))
    return root / "0", data


def muscate_xml(platform: str, level: str, quantity: int, nodata: int) -> str:
    return f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<Muscate_Metadata_Document xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <Product_Characteristics><PRODUCT_LEVEL>{level}</PRODUCT_LEVEL>
    <PLATFORM>{platform}</PLATFORM></Product_Characteristics>
  <Radiometric_Informations>
    <REFLECTANCE_QUANTIFICATION_VALUE>{quantity}</REFLECTANCE_QUANTIFICATION_VALUE>
    <Special_Values_List><SPECIAL_VALUE name="nodata">{nodata}</SPECIAL_VALUE>
      <SPECIAL_VALUE name="AOT_Nodata_Value">0</SPECIAL_VALUE></Special_Values_List>
  </Radiometric_Informations>
</Muscate_Metadata_Document>"""


def muscate(root: Path) -> Written:
    """Sentinel-2 L2A by MAJA, with CLM and MG2."""
    name = "SENTINEL2A_20180815-105726-885_L2A_T31TCJ_C_V1-9"
    folder, data = root / name, {}
    for native in [f"B{n}" for n in (2, 3, 4, 5, 6, 7, 8, "8A", 11, 12)]:
        metres = 10 if native in ("B2", "B3", "B4", "B8") else 20
        side = 240 // metres
        data[native] = numbers(200, 5000, side, side, dtype="int16")
        data[native][-1] = -10000
        write(folder / f"{name}_SRE_{native}.tif", data[native], metres)
        write(folder / f"{name}_FRE_{native}.tif", data[native] + 9, metres)
    cloud = np.zeros((24, 24), np.uint8)
    cloud[:12, :12] = 0b0000_0011  # a cloud
    cloud[:12, 12:] = 0b0010_0001  # its shadow
    write(folder / "MASKS" / f"{name}_CLM_R1.tif", cloud, 10)
    write(folder / "MASKS" / f"{name}_CLM_R2.tif", cloud[::2, ::2], 20)
    write(folder / "MASKS" / f"{name}_MG2_R1.tif", np.uint8(2) * (cloud[::-1] == 3), 10)
    text = muscate_xml("SENTINEL2A", "L2A", 10000, -10000)
    (folder / f"{name}_MTD_ALL.xml").write_text(text, "latin-1")
    return folder, data


def venus(root: Path) -> Written:
    name, data = "VENUS-XS_20201029-105210-000_L2A_SUDOUE-1_C_V3-1", {}
    for number in range(1, 13):
        data[f"B{number}"] = numbers(200, 5000, dtype="int16")
        write(root / name / f"{name}_SRE_B{number}.tif", data[f"B{number}"], 5)
    thin = np.zeros((SIZE, SIZE), np.uint8)
    thin[0] = 1 << 6  # the thinnest clouds, in the order of MAJA's native format
    thin[1] = 1 << 4  # found in a single image, and judged no cloud in the end
    write(root / name / "MASKS" / f"{name}_CLM_XS.tif", thin, 5)
    text = muscate_xml("VENUS", "L2A", 10000, -10000)
    (root / name / f"{name}_MTD_ALL.xml").write_text(text, "latin-1")
    return root / name, data


def heritage(root: Path) -> Written:
    name, data = "SPOT5-HRG2-XS_20110304-104456-600_L1C_055-262-0_D_V1-0", {}
    for native in ("XS1", "XS2", "XS3", "SWIR"):
        data[native] = numbers(50, 600, dtype="int16")
        write(root / name / f"{name}_REF_{native}.tif", data[native], 10)
    text = muscate_xml("SPOT5", "L1C", 1000, 0)
    (root / name / f"{name}_MTD_ALL.xml").write_text(text, "latin-1")
    return root / name, data


def take5(root: Path, level: str = "N1_TUILE") -> Written:
    start, place = f"SPOT4_HRVIR1_XS_20130318_{level}", "EBelgiumD0000B0000"
    folder = root / f"{start}_{place}"
    values = numbers(50, 600, 4, SIZE, SIZE, dtype="int16")
    values[:, 0, 0] = -10000
    if level == "N1_TUILE":
        write(folder / f"{start}_{place}.TIF", values, 20)
        files = f"<GEOTIFF>{start}_{place}.TIF</GEOTIFF>"
    else:
        env, slope = (f"{start}_ORTHO_SURF_CORR_{n}_{place}.TIF" for n in ("ENV", "PENTE"))
        write(folder / env, values, 20)
        write(folder / slope, values + 9, 20)
        files = (f"<ORTHO_SURF_CORR_ENV>{env}</ORTHO_SURF_CORR_ENV>"
                 f"<ORTHO_SURF_CORR_PENTE>{slope}</ORTHO_SURF_CORR_PENTE>")  # fmt: skip
        clouds = np.zeros((SIZE, SIZE), np.uint8)
        clouds[2] = 1 << 4  # very thin clouds
        clouds[3] = 1 << 6 | 1  # a shadow
        write(folder / "MASK" / f"{start}_{place}_NUA.TIF", clouds, 20)
    (folder / f"{start}_{place}.xml").write_text(
        f"""<?xml version="1.0" encoding="UTF-8"?>
<METADATA><HEADER><PLATEFORM>SPOT4</PLATEFORM><SENSOR>HRVIR1</SENSOR><LEVEL>{level}</LEVEL></HEADER>
<FILES><MASK_SATURATION>MASK/x_SAT.TIF</MASK_SATURATION>{files}</FILES>
<RADIOMETRY><BANDS>XS1;XS2;XS3;SWIR</BANDS>
<QUANTIFICATION><THERM_BAND>False</THERM_BAND><VALUE>1000.0</VALUE></QUANTIFICATION></RADIOMETRY>
</METADATA>""",
        "utf-8",
    )
    return folder, dict(zip(["XS1", "XS2", "XS3", "SWIR"], values, strict=True))


def spot(root: Path, radiometry: str = "BASIC", crs: str | None = None) -> Written:
    """SPOT-5 HRG2 level 1A, in sensor geometry: no CRS."""
    folder = root / "SCENE01"
    values = numbers(40, 200, 4, SIZE, SIZE, dtype="uint8")  # XS3, XS2, XS1, SWIR in the file
    values[:, 5, 5] = 0
    write(folder / "IMAGERY.TIF", values, 10, crs)
    gains = {"XS1": 2.5, "XS2": 3.0, "XS3": 2.0, "SWIR": 12.5}
    suns = {"XS1": 1858, "XS2": 1575, "XS3": 1047, "SWIR": 234}
    bands = "".join(
        f"<Spectral_Band_Info><BAND_INDEX>{i}</BAND_INDEX>"
        f"<BAND_DESCRIPTION>{name}</BAND_DESCRIPTION><PHYSICAL_UNIT>equivalent radiance"
        f"</PHYSICAL_UNIT><PHYSICAL_BIAS>0.5</PHYSICAL_BIAS><PHYSICAL_GAIN>{gain}</PHYSICAL_GAIN>"
        "</Spectral_Band_Info>"
        for i, (name, gain) in enumerate(gains.items(), 1)
    )
    light = "".join(
        f"<Band_Solar_Irradiance><BAND_INDEX>{i}</BAND_INDEX><SOLAR_IRRADIANCE_VALUE>{value}"
        "</SOLAR_IRRADIANCE_VALUE></Band_Solar_Irradiance>"
        for i, value in enumerate(suns.values(), 1)
    )
    (folder / "METADATA.DIM").write_text(
        f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<?xml-stylesheet type="text/xsl" href="STYLE.XSL"?>
<Dimap_Document name="METADATA.DIM"><Metadata_Id><METADATA_FORMAT version="1.1">DIMAP
</METADATA_FORMAT></Metadata_Id><Dataset_Sources><Source_Information><Scene_Source>
<IMAGING_DATE>2010-01-04</IMAGING_DATE><MISSION>SPOT</MISSION><MISSION_INDEX>5</MISSION_INDEX>
<INSTRUMENT>HRG</INSTRUMENT><INSTRUMENT_INDEX>2</INSTRUMENT_INDEX>
<SUN_ELEVATION>30.0</SUN_ELEVATION></Scene_Source></Source_Information></Dataset_Sources>
<Data_Processing><RADIOMETRIC_PROCESSING>{radiometry}</RADIOMETRIC_PROCESSING></Data_Processing>
<Image_Interpretation>{bands}</Image_Interpretation><Data_Access><Data_File>
<DATA_FILE_PATH href="IMAGERY.TIF"/></Data_File></Data_Access><Data_Strip><Sensor_Calibration>
<Solar_Irradiance>{light}</Solar_Irradiance></Sensor_Calibration></Data_Strip>
</Dimap_Document>""",
        "latin-1",
    )
    return folder, dict(zip(["XS3", "XS2", "XS1", "SWIR"], values, strict=True))


#: BAND_ID of the layers of the files of DIMAP 2, and GAIN and irradiance by BAND_ID.
FOUR = {"": ("B2", "B1", "B0", "B3")}
SIX = {"_RGB": ("R", "G", "B"), "_NED": ("NIR", "RE", "DB")}
FOUR_GAINS = {"B0": (9, 1915), "B1": (9.5, 1830), "B2": (10, 1594), "B3": (15.5, 1060)}
SIX_GAINS = {"DB": (7.5, 1787), "B": (6.2, 1972), "G": (6.7, 1816), "R": (7.9, 1554),
             "RE": (10.2, 1351), "NIR": (7.8, 1060)}  # fmt: skip


def dimap2(
    root: Path, mission: str, files: dict[str, tuple[str, ...]],
    gains: dict[str, tuple[float, float]], radiometry: str = "BASIC", tiles: int = 1,
    metres: float = 2,
) -> Written:  # fmt: skip
    """DIMAP 2 in the layout of Pléiades; every file cut into `tiles` x `tiles`."""
    name, number = re.findall("[A-Z]+(?=[0-9])|[0-9].*", mission)
    start = f"{mission}_MS_201609061051234_ORT_1234567101-001"
    folder = root / f"IMG_{mission}_MS_001"
    data: dict[str, np.ndarray] = {}
    groups = ""
    for ending, order in files.items():
        values = numbers(200, 900, len(order), SIZE, SIZE)
        data |= dict(zip(order, values, strict=True))
        index = "".join(
            f"<Raster_Index><BAND_ID>{band}</BAND_ID><BAND_INDEX>{i}</BAND_INDEX></Raster_Index>"
            for i, band in enumerate(order, 1)
        )
        links, side = "", SIZE // tiles
        for row, column in np.ndindex(tiles, tiles):
            tile = f"IMG_{start}{ending}_R{row + 1}C{column + 1}.{'JP2' if tiles == 1 else 'TIF'}"
            top, left = row * side, column * side
            write(folder / tile, values[:, top : top + side, left : left + side], metres)
            if tiles > 1:
                with rasterio.open(folder / tile, "r+") as file:
                    file.transform = file.transform * Affine.translation(left, top)
            links += (f'<Data_File tile_R="{row + 1}" tile_C="{column + 1}">'
                      f'<DATA_FILE_PATH href="{tile}"/></Data_File>')  # fmt: skip
        groups += f"<Data_Files>{links}<Raster_Index_List>{index}</Raster_Index_List></Data_Files>"
    bands = "".join(
        f"<Band_Radiance><BAND_ID>{band}</BAND_ID><GAIN>{gain}</GAIN><BIAS>0.1</BIAS>"
        f"</Band_Radiance><Band_Solar_Irradiance><BAND_ID>{band}</BAND_ID><VALUE>{sun}</VALUE>"
        "</Band_Solar_Irradiance>"
        for band, (gain, sun) in gains.items()
    )
    places = "".join(
        f"<Located_Geometric_Values><LOCATION_TYPE>{place}</LOCATION_TYPE><Solar_Incidences>"
        f"<SUN_ELEVATION>{angle}</SUN_ELEVATION></Solar_Incidences></Located_Geometric_Values>"
        for place, angle in (("Top Center", 44.9), ("Center", 45.0), ("Bottom Center", 45.1))
    )
    (folder / f"DIM_{start}.XML").write_text(
        f"""<?xml version="1.0" encoding="UTF-8"?><Dimap_Document>
<Metadata_Identification><METADATA_FORMAT version="2.0">DIMAP</METADATA_FORMAT>
</Metadata_Identification><Dataset_Sources><Source_Identification><Strip_Source>
<MISSION>{name}</MISSION><MISSION_INDEX>{number}</MISSION_INDEX><IMAGING_DATE>2016-09-06</IMAGING_DATE>
</Strip_Source></Source_Identification></Dataset_Sources><Processing_Information>
<Product_Settings><Radiometric_Settings><RADIOMETRIC_PROCESSING>{radiometry}
</RADIOMETRIC_PROCESSING></Radiometric_Settings></Product_Settings></Processing_Information>
<Raster_Data><Data_Access>{groups}</Data_Access></Raster_Data>
<Radiometric_Data><Radiometric_Calibration><Instrument_Calibration><Band_Measurement_List>{bands}
</Band_Measurement_List></Instrument_Calibration></Radiometric_Calibration></Radiometric_Data>
<Geometric_Data><Use_Area>{places}</Use_Area></Geometric_Data></Dimap_Document>""",
        "utf-8",
    )
    return folder, data


def pleiades(
    root: Path, radiometry: str = "BASIC", sun: float = 1830, tiles: int = 1
) -> Written:  # fmt: skip
    return dimap2(root, "PHR1B", FOUR, FOUR_GAINS | {"B1": (9.5, sun)}, radiometry, tiles)


def pleiades_neo(root: Path, radiometry: str = "BASIC", tiles: int = 1) -> Written:
    return dimap2(root, "PNEO4", SIX, SIX_GAINS, radiometry, tiles, 1.2)


def spot_6_7(root: Path, mission: str = "SPOT7", sun: float = 1830) -> Written:
    return dimap2(root, mission, FOUR, FOUR_GAINS | {"B1": (9.5, sun)}, metres=6)


def landsat(root: Path, number: int = 8, sun: str = "30.0", level: str = "L1TP") -> Written:
    camera = {5: ("LT05", "TM"), 7: ("LE07", "ETM"), 8: ("LC08", "OLI_TIRS"),
              9: ("LC09", "OLI_TIRS")}[number]  # fmt: skip
    name = f"{camera[0]}_L1TP_198030_20220301_20220308_02_T1"
    data, files, factors = {}, "", ""
    mult, add = ("2.0000E-05", "-0.100000") if number > 7 else ("1.8807E-03", "-0.011757")
    for band in range(1, 12 if number > 7 else 8):
        label = str(band)
        values = numbers(8000, 20000) if number > 7 else numbers(30, 200, dtype="uint8")
        values[2, 3] = 0
        write(root / name / f"{name}_B{label}.TIF", values, 30, **{"compress": "deflate"})
        files += f'    FILE_NAME_BAND_{label} = "{name}_B{label}.TIF"\n'
        if not (band in (10, 11) or (number < 8 and band == 6)):
            factors += f"    REFLECTANCE_MULT_BAND_{label} = {mult}\n"
            factors += f"    REFLECTANCE_ADD_BAND_{label} = {add}\n"
        data[f"B{band}"] = values
    quality = np.full((SIZE, SIZE), 21824, np.uint16)  # clear
    quality[:6] = 22280  # cloud, high confidence
    quality[2, 3] = 1
    write(root / name / f"{name}_QA_PIXEL.TIF", quality, 30)
    (root / name / f"{name}_MTL.txt").write_text(
        f"""GROUP = LANDSAT_METADATA_FILE
  GROUP = PRODUCT_CONTENTS
    PROCESSING_LEVEL = "{level}"
    COLLECTION_NUMBER = 02
{files}    FILE_NAME_QUALITY_L1_PIXEL = "{name}_QA_PIXEL.TIF"
  END_GROUP = PRODUCT_CONTENTS
  GROUP = IMAGE_ATTRIBUTES
    SPACECRAFT_ID = "LANDSAT_{number}"
    SENSOR_ID = "{camera[1]}"
    SUN_ELEVATION = {sun}
  END_GROUP = IMAGE_ATTRIBUTES
  GROUP = LEVEL1_RADIOMETRIC_RESCALING
{factors}  END_GROUP = LEVEL1_RADIOMETRIC_RESCALING
END_GROUP = LANDSAT_METADATA_FILE
END
"""
    )
    return root / name, data


def planet(root: Path, ending: str = "", eight: bool = False) -> Written:
    start = "20220401_084707_12_2420_3B_AnalyticMS" + ("_8b" if eight else "")
    names = ["blue", "green", "red", "nir"]
    if eight:
        names = ["coastal", "blue", "green_i", "green", "yellow", "red", "rededge", "nir"]
    values = numbers(2000, 9000, len(names), SIZE, SIZE)
    write(root / "planet" / f"{start}{ending}.tif", values, 3)
    bands = "".join(
        f"<ps:bandSpecificMetadata><ps:bandNumber>{i}</ps:bandNumber>"
        '<ps:radiometricScaleFactor uom="W">0.01</ps:radiometricScaleFactor>'
        f"<ps:reflectanceCoefficient>{2e-05 + i * 1e-06}</ps:reflectanceCoefficient>"
        "</ps:bandSpecificMetadata>"
        for i in range(1, len(names) + 1)
    )
    (root / "planet" / f"{start}_metadata.xml").write_text(
        '<?xml version="1.0"?><ps:EarthObservation xmlns:ps="http://schemas.planet.com/ps/v1">'
        f"<ps:resultOf>{bands}</ps:resultOf></ps:EarthObservation>"
    )
    return root / "planet", dict(zip(names, values, strict=True))


def cloudsen12(root: Path) -> Written:
    folder = root / "ROI_0051" / "20200215T082021_20200215T084629_T34JCP"
    values = numbers(500, 6000, 13, SIZE, SIZE)
    write(folder / "S2L1C.tif", values)
    label = np.repeat(np.arange(4, dtype=np.uint8), 3)[:, np.newaxis] * np.ones(SIZE, np.uint8)
    write(folder / "labels" / "manual_hq.tif", label)
    return folder, dict(zip(S2, values, strict=True))


def geotiff(root: Path) -> Written:
    values = numbers(500, 6000, 2, SIZE, SIZE)
    path = root / "été" / "my image.tif"
    write(path, values, 4)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (1e-4, 2e-4), (0, -0.05)
        file.descriptions = ("N", "red")
    path.with_suffix(".yaml").write_text(
        "{id: mine, title: Mine, operator: me, launched: '2030', sources: [me], bands: ["
        "{common: red, native: R, centre_um: 0.65, width_um: 0.1, gsd_m: 4},"
        "{common: nir, native: N, centre_um: 0.85, width_um: 0.1, gsd_m: 4}],"
        "missing: [blue, green, swir16]}"
    )
    return path, dict(zip(["N", "R"], values, strict=True))


# --- reading, against values worked by hand

# The sun's distance on 4 January by 6S: 1 - 0.01673 cos 0 = 0.98327; on 6 September, day 250 of
# 2016: 1 - 0.01673 cos(0.9856 x 246°) = 1 - 0.01673 x cos 242.458° = 1.0077360.
JANUARY = math.pi * 0.98327**2 / 0.5  # sin 30° = 0.5
SEPTEMBER = math.pi * 1.0077360**2 / math.sqrt(0.5)  # sin 45°

# twin, its arguments, sensor, format, level, {band: (native name, scale, offset)}, metres
CASES: dict[str, tuple[Callable[..., Written], dict, str, str, str, dict, float]] = {
    "s2-l1c-new": (sentinel2, {}, "sentinel-2", "Sentinel-2 L1C SAFE", "toa",
                   {"blue": ("B02", 1e-4, -0.1), "nir": ("B08", 1e-4, -0.1)}, 10),
    "s2-l1c-old": (sentinel2, {"baseline": "02.09", "offset": 0}, "sentinel-2",
                   "Sentinel-2 L1C SAFE", "toa", {"green": ("B03", 1e-4, 0)}, 10),
    "s2-l1c-20m": (sentinel2, {}, "sentinel-2", "Sentinel-2 L1C SAFE", "toa",
                   {"nir08": ("B8A", 1e-4, -0.1), "swir16": ("B11", 1e-4, -0.1)}, 20),
    "s2-l1c-60m": (sentinel2, {}, "sentinel-2", "Sentinel-2 L1C SAFE", "toa",
                   {"coastal": ("B01", 1e-4, -0.1), "cirrus": ("B10", 1e-4, -0.1)}, 60),
    "s2-l2a-new": (sentinel2, {"level": "2A"}, "sentinel-2", "Sentinel-2 L2A SAFE", "surface",
                   {"red": ("B04", 1e-4, -0.1)}, 10),
    "s2-l2a-old": (sentinel2, {"level": "2A", "baseline": "03.01", "offset": 0}, "sentinel-2",
                   "Sentinel-2 L2A SAFE", "surface", {"swir22": ("B12", 1e-4, 0)}, 20),
    "s2-aws": (sentinel2_aws, {}, "sentinel-2", "Sentinel-2 tile of AWS (Sinergise)", "toa",
               {"red": ("B04", 1e-4, -0.1), "blue": ("B02", 1e-4, -0.1)}, 10),
    "s2-aws-old": (sentinel2_aws, {"baseline": "0209"}, "sentinel-2",
                   "Sentinel-2 tile of AWS (Sinergise)", "toa", {"swir16": ("B11", 1e-4, 0)}, 20),
    "s2-aws-l2a": (sentinel2_aws, {"level": "L2A"}, "sentinel-2",
                   "Sentinel-2 tile of AWS (Sinergise)", "surface",
                   {"nir08": ("B8A", 1e-4, -0.1)}, 20),
    "muscate": (muscate, {}, "sentinel-2", "MUSCATE (Theia)", "surface",
                {"blue": ("B2", 1e-4, 0), "nir": ("B8", 1e-4, 0)}, 10),
    "venus": (venus, {}, "venus", "MUSCATE (Theia)", "surface",
              {"blue": ("B3", 1e-4, 0), "red": ("B7", 1e-4, 0), "nir": ("B11", 1e-4, 0)}, 5),
    "heritage": (heritage, {}, "spot-5", "MUSCATE (Theia)", "toa",
                 {"green": ("XS1", 1e-3, 0), "swir16": ("SWIR", 1e-3, 0)}, 10),
    "take5-1c": (take5, {}, "spot-4", "SPOT Take5", "toa",
                 {"green": ("XS1", 1e-3, 0), "swir16": ("SWIR", 1e-3, 0)}, 20),
    "take5-2a": (take5, {"level": "N2A"}, "spot-4", "SPOT Take5", "surface",
                 {"red": ("XS2", 1e-3, 0), "nir": ("XS3", 1e-3, 0)}, 20),
    "spot": (spot, {}, "spot-5", "SPOT DIMAP", "toa",
             {"green": ("XS1", JANUARY / 1858 / 2.5, JANUARY / 1858 * 0.5),
              "red": ("XS2", JANUARY / 1575 / 3.0, JANUARY / 1575 * 0.5),
              "nir": ("XS3", JANUARY / 1047 / 2.0, JANUARY / 1047 * 0.5),
              "swir16": ("SWIR", JANUARY / 234 / 12.5, JANUARY / 234 * 0.5)}, 10),
    "pleiades": (pleiades, {}, "pleiades", "Pléiades DIMAP", "toa",
                 {"blue": ("B0", SEPTEMBER / 1915 / 9, SEPTEMBER / 1915 * 0.1),
                  "green": ("B1", SEPTEMBER / 1830 / 9.5, SEPTEMBER / 1830 * 0.1),
                  "red": ("B2", SEPTEMBER / 1594 / 10, SEPTEMBER / 1594 * 0.1),
                  "nir": ("B3", SEPTEMBER / 1060 / 15.5, SEPTEMBER / 1060 * 0.1)}, 2),
    "pleiades-999": (pleiades, {"sun": 999}, "pleiades", "Pléiades DIMAP", "toa",
                     {"green": ("B1", SEPTEMBER / 1830 / 9.5, SEPTEMBER / 1830 * 0.1)}, 2),
    "pleiades-surface": (pleiades, {"radiometry": "REFLECTANCE"}, "pleiades", "Pléiades DIMAP",
                         "surface", {"nir": ("B3", 1e-4, 0)}, 2),
    "pleiades-tiles": (pleiades, {"tiles": 3}, "pleiades", "Pléiades DIMAP", "toa",
                       {"blue": ("B0", SEPTEMBER / 1915 / 9, SEPTEMBER / 1915 * 0.1),
                        "nir": ("B3", SEPTEMBER / 1060 / 15.5, SEPTEMBER / 1060 * 0.1)}, 2),
    "spot-6": (spot_6_7, {"mission": "SPOT6"}, "spot-6", "SPOT-6/7 DIMAP", "toa",
               {"blue": ("B0", SEPTEMBER / 1915 / 9, SEPTEMBER / 1915 * 0.1),
                "green": ("B1", SEPTEMBER / 1830 / 9.5, SEPTEMBER / 1830 * 0.1)}, 6),
    "spot-7": (spot_6_7, {}, "spot-7", "SPOT-6/7 DIMAP", "toa",
               {"red": ("B2", SEPTEMBER / 1594 / 10, SEPTEMBER / 1594 * 0.1),
                "nir": ("B3", SEPTEMBER / 1060 / 15.5, SEPTEMBER / 1060 * 0.1)}, 6),
    "neo": (pleiades_neo, {}, "pleiades-neo", "Pléiades Neo DIMAP", "toa",
            {"coastal": ("DB", SEPTEMBER / 1787 / 7.5, SEPTEMBER / 1787 * 0.1),
             "blue": ("B", SEPTEMBER / 1972 / 6.2, SEPTEMBER / 1972 * 0.1),
             "rededge071": ("RE", SEPTEMBER / 1351 / 10.2, SEPTEMBER / 1351 * 0.1),
             "nir": ("NIR", SEPTEMBER / 1060 / 7.8, SEPTEMBER / 1060 * 0.1)}, 1.2),
    "neo-tiles": (pleiades_neo, {"tiles": 2, "radiometry": "REFLECTANCE"}, "pleiades-neo",
                  "Pléiades Neo DIMAP", "surface",
                  {"red": ("R", 1e-4, 0), "nir": ("NIR", 1e-4, 0)}, 1.2),
    "landsat-8": (landsat, {}, "landsat-8", "Landsat Collection 2", "toa",
                  {"blue": ("B2", 4e-5, -0.2), "swir16": ("B6", 4e-5, -0.2)}, 30),
    "landsat-9": (landsat, {"number": 9, "sun": "90.0"}, "landsat-9", "Landsat Collection 2", "toa",
                  {"nir": ("B5", 2e-5, -0.1), "cirrus": ("B9", 2e-5, -0.1)}, 30),
    "landsat-7": (landsat, {"number": 7}, "landsat-7", "Landsat Collection 2", "toa",
                  {"blue": ("B1", 3.7614e-3, -0.023514),
                   "swir22": ("B7", 3.7614e-3, -0.023514)}, 30),
    "landsat-5": (landsat, {"number": 5}, "landsat-5", "Landsat Collection 2", "toa",
                  {"swir16": ("B5", 3.7614e-3, -0.023514)}, 30),
    "planet": (planet, {}, "planetscope", "PlanetScope", "toa",
               {"blue": ("blue", 2.1e-5, 0), "nir": ("nir", 2.4e-5, 0)}, 3),
    "planet-8b": (planet, {"eight": True}, "planetscope", "PlanetScope", "toa",
                  {"green": ("green", 2.4e-5, 0), "nir": ("nir", 2.8e-5, 0)}, 3),
    "planet-sr": (planet, {"ending": "_SR"}, "planetscope", "PlanetScope", "surface",
                  {"red": ("red", 1e-4, 0)}, 3),
    "cloudsen12": (cloudsen12, {}, "sentinel-2", "CloudSEN12", "toa",
                   {"coastal": ("B01", 1e-4, 0), "swir22": ("B12", 1e-4, 0)}, 10),
    "geotiff": (geotiff, {}, "mine", "GeoTIFF with a card beside it (image.yaml)", "toa",
                {"nir": ("N", 1e-4, 0), "red": ("R", 2e-4, -0.05)}, 4),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:.*surface reflectance")
def test_reflectance_is_the_one_worked_by_hand(case: str, tmp_path: Path) -> None:
    twin, arguments, sensor, name, level, bands, metres = CASES[case]
    path, written = twin(tmp_path, **arguments)
    dataset = open_product(path, bands=list(bands))
    attributes = {"sensor": sensor, "product": name, "level": level, "resolution": metres}
    assert attributes.items() <= dataset.attrs.items()
    assert dataset.reflectance.dtype == np.float32
    for band, (native, scale, offset) in bands.items():
        raw = written[native]
        result = dataset.reflectance.sel(band=band).values
        nodata = (raw == 0) | (raw == -10000)
        np.testing.assert_allclose(
            result[~nodata], raw[~nodata] * scale + offset, rtol=2e-5, atol=2e-6
        )
        assert np.isnan(result[nodata]).all()
    if case != "spot":  # in sensor geometry
        assert dataset.rio.crs.to_epsg() == 32631
        assert dataset.rio.bounds()[::3] == (600_000, 4_900_000)


def test_every_reader_has_a_twin() -> None:
    assert {case[3] for case in CASES.values()} == {reader.name for reader in READERS}


def test_one_number_by_hand(tmp_path: Path) -> None:
    path, written = pleiades(tmp_path)
    # B2, DN 500: L = 500 / 10 + 0.1 = 50.1 W/m²/sr/µm; π · 50.1 · 1.0155319 / (1594 · 0.7071068)
    at = np.unravel_index(np.abs(written["B2"].astype(int) - 500).argmin(), (SIZE, SIZE))
    near = int(written["B2"][at]) - 500
    expected = 0.1418103 + near / 10 * math.pi * 1.0155319 / (1594 * 0.7071068)
    result = open_product(path).reflectance.sel(band="red").values[at]
    assert result == pytest.approx(expected, abs=2e-6)


# --- the elevation of the sun


@pytest.mark.parametrize(
    ("twin", "elevation"),
    [(spot, 30), (pleiades, 45), (spot_6_7, 45), (pleiades_neo, 45), (landsat, 30)],
)
def test_the_elevation_of_the_sun(
    twin: Callable[..., Written], elevation: float, tmp_path: Path
) -> None:
    path, _ = twin(tmp_path)
    assert find_product(path).sun == elevation


def test_the_sun_of_sentinel_2_is_that_of_its_granule(tmp_path: Path) -> None:
    path, _ = sentinel2(tmp_path)
    assert find_product(path).sun is None
    angles = next(path.glob("GRANULE/*")) / "MTD_TL.xml"
    angles.write_text("<T><Mean_Sun_Angle><ZENITH_ANGLE>70.5</ZENITH_ANGLE></Mean_Sun_Angle></T>")
    assert find_product(path).sun == 19.5
    angles.write_text("no XML")
    assert find_product(path).sun is None


# --- images that are cut into tiles


def test_a_tile_that_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    path, _ = pleiades(tmp_path, tiles=2)
    with rasterio.open(next(path.glob("*_R2C1.TIF")), "r+") as file:
        file.transform = file.transform * Affine.translation(3, 0)
    with pytest.raises(InputError, match=r"R2C1\.TIF: does not lie beside.*gdalbuildvrt"):
        open_product(path)


def test_rows_of_tiles_of_another_width_are_refused(tmp_path: Path) -> None:
    path, _ = pleiades(tmp_path, tiles=2)
    tile = next(path.glob("*_R2C2.TIF"))
    with rasterio.open(tile) as file:
        transform = file.transform
    tile.unlink()  # GDAL would remove the metadata too
    write(tile, numbers(200, 900, 4, SIZE // 2, 3))
    with rasterio.open(tile, "r+") as file:
        file.transform = transform
    with pytest.raises(InputError, match=r"rows of different widths \[12, 9\]; join them first"):
        open_product(path)


def test_an_image_of_tiles_is_read_by_windows(tmp_path: Path) -> None:
    path, written = pleiades(tmp_path, radiometry="REFLECTANCE", tiles=3)
    image = find_product(path).image("red")
    whole = written["B2"] / np.float32(10_000)
    np.testing.assert_allclose(image.read()[0], whole, rtol=1e-6)
    np.testing.assert_allclose(image.read(Window(3, 2, 6, 9))[0], whole[2:11, 3:9], rtol=1e-6)
    np.testing.assert_allclose(image.overview[0], whole, rtol=1e-6)
    assert image.grid.transform == from_origin(600_000, 4_900_000, 2, 2)
    assert image.select(["red"], 4).resolution == 4


def test_three_bands_of_pleiades_have_no_near_infrared(tmp_path: Path) -> None:
    path, _ = dimap2(tmp_path, "PHR1A", {"": ("B2", "B1", "B0")}, FOUR_GAINS)
    assert open_product(path).band.values.tolist() == ["blue", "green", "red"]
    with pytest.raises(InputError, match="has no reflective band 'nir'; it has blue, green, red"):
        open_product(path, bands=["nir"])


def test_layers_that_are_not_numbered_from_one_are_in_the_order_of_their_list(
    tmp_path: Path,
) -> None:
    path, written = pleiades_neo(tmp_path, radiometry="REFLECTANCE")
    place = "NIR</BAND_ID><BAND_INDEX>"
    edit(next(path.glob("DIM_*.XML")), f"{place}1", f"{place}4")  # as GDAL's test file has it
    scene = open_product(path, bands=["nir", "rededge071"])
    assert scene.reflectance[0].values == pytest.approx(written["NIR"] / 10_000)
    assert scene.reflectance[1].values == pytest.approx(written["RE"] / 10_000)


# --- one grid


def test_bands_of_several_resolutions_come_on_one_grid(tmp_path: Path) -> None:
    path, written = sentinel2(tmp_path)
    dataset = open_product(path, bands=["red", "swir16"])  # 10 and 20 m
    assert dataset.attrs["resolution"] == 20 and dataset.reflectance.shape == (2, 12, 12)
    blocks = written["B04"].reshape(12, 2, 12, 2).mean((1, 3)) * 1e-4 - 0.1
    np.testing.assert_allclose(dataset.reflectance[0], blocks, atol=1e-6)
    np.testing.assert_allclose(dataset.reflectance[1], written["B11"] * 1e-4 - 0.1, atol=1e-6)
    assert dataset.x.values[0] == 600_010 and dataset.y.values[0] == 4_899_990
    assert open_product(path).attrs["resolution"] == 60
    assert open_product(path).band.size == 13


@pytest.mark.parametrize("metres", [30, 7])
def test_a_resolution_is_what_resample_gives(
    metres: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = landsat(tmp_path)
    bands = ["green", "red"]
    expected = resample(open_product(path, bands=bands), metres)
    monkeypatch.setattr("clouddl.products.image.STRIP", 40)  # strips of a few rows
    result = open_product(path, resolution=metres, bands=bands)
    np.testing.assert_allclose(result.reflectance, expected.reflectance, atol=1e-6)
    np.testing.assert_allclose(result.y, expected.y, atol=1e-6)


def test_grids_that_differ_are_refused(tmp_path: Path) -> None:
    path, _ = landsat(tmp_path)
    band = next(path.glob("*_B4.TIF"))
    band.unlink()  # or GDAL removes the metadata with it
    write(band, numbers(8000, 20000, 12, 14), 30)
    with pytest.raises(InputError, match=r"_B4.TIF: its grid is not that of .*_B3.TIF"):
        open_product(path, bands=["green", "red"])


# --- masks


@pytest.mark.filterwarnings("ignore:.*surface reflectance")
def test_masks_come_with_their_products(tmp_path: Path) -> None:
    path, _ = muscate(tmp_path)
    dataset = open_product(path, bands=["red"])
    assert dataset.mask.attrs["codes"] == "maja-clm-muscate"
    cloud = np.zeros((24, 24), np.uint8)
    cloud[:12, :12] = 1
    cloud[-1] = 255  # no data
    assert np.array_equal(dataset.mask, cloud)
    grown = open_product(path, bands=["red"], dilation_m=20).mask.values
    assert grown[13, 0] == 1 and grown[14, 0] == 0 and (grown[-1] == 255).all()
    half = open_product(path, resolution=20, bands=["red"])
    assert half.mask.shape == (12, 12) and np.array_equal(half.mask[:-1], cloud[:-2:2, ::2])
    other = open_product(path, bands=["red"], mask_codes="maja-mg2")
    assert other.mask.values[13, 0] == 1 and other.mask.values[0, 0] == 0
    with pytest.raises(InputError, match="no mask with the codes 'scl'"):
        open_product(path, bands=["red"], mask_codes="scl")


@pytest.mark.filterwarnings("ignore:.*surface reflectance")
@pytest.mark.parametrize(
    ("twin", "arguments", "codes", "rows"),
    [
        (venus, {}, "maja-clm-native", [1, 0, 0, 0]),
        (take5, {"level": "N2A"}, "maja-nua", [0, 0, 1, 0]),
        (landsat, {}, "qa-pixel", [1, 1, 1, 1, 1, 1, 0]),
        (cloudsen12, {}, "cloudsen12", [0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0]),
    ],
)
def test_codes_of_the_masks(
    twin: Callable[..., Written], arguments: dict, codes: str, rows: list[int], tmp_path: Path
) -> None:
    path, _ = twin(tmp_path, **arguments)
    dataset = open_product(path, bands=["red"])
    assert dataset.mask.attrs["codes"] == codes
    assert dataset.mask.values[: len(rows), 7].tolist() == rows
    unseen = np.isnan(dataset.reflectance.values[0])
    assert (dataset.mask.values[unseen] == 255).all() and not (dataset.mask == 255).values[
        ~unseen
    ].any()


@pytest.mark.filterwarnings("ignore:.*surface reflectance")
@pytest.mark.parametrize(
    ("level", "name", "metres", "cloud", "codes"),
    [
        ("2A", "GRANULE/L2A_T31TCJ_A034567_20220301T105021/IMG_DATA/R20m/"
         "T31TCJ_20220301T105021_SCL_20m.jp2", 20, 9, "scl"),
        ("1C", "GRANULE/L1C_T31TCJ_A034567_20220301T105021/FMASK_DATA/"
         "L1C_T31TCJ_A034567_20220301T105021_Fmask4.tif", 20, 4, "fmask4"),
        ("1C", "cloud fmask.img", 10, 2, "fmask"),
        ("1C", "Classification/classification_map.tif", 60, 2, "alcd"),
    ],
)  # fmt: skip
def test_masks_of_processors_beside_sentinel2(
    level: str, name: str, metres: int, cloud: int, codes: str, tmp_path: Path
) -> None:
    path, _ = sentinel2(tmp_path, level)
    side = 240 // metres
    codes_of = np.full((side, side), 4 if codes != "fmask4" else 0, np.uint8)
    codes_of[: side // 2] = cloud
    driver = {"driver": "HFA"} if name.endswith(".img") else {}
    write(path / name, codes_of, metres, **driver)
    result = open_product(path, bands=["red"]).mask
    assert result.attrs["codes"] == codes and result.shape == (24, 24)
    assert (result[:12] == 1).all() and (result[12:] == 0).all()


# --- archives


def packed(folder: Path, suffix: str) -> Path:
    """A folder of a name with a space and accents, as a zip or a tar beside it."""
    path = folder.parent / f"Téléchargé là {folder.name}.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for member in folder.rglob("*"):
                file.write(member, member.relative_to(folder.parent))
    else:
        with tarfile.open(path, "w:gz" if suffix == "tgz" else "w") as file:
            file.add(folder, f"./{folder.name}")
    return path


@pytest.mark.parametrize("suffix", ["zip", "tar", "tgz"])
def test_archives_read_as_their_folder(suffix: str, tmp_path: Path) -> None:
    name = "S2A_MSIL{}_été 2022 " + "long " * 30 + ".SAFE"
    path, _ = sentinel2(tmp_path / "à côté", name=name)
    bands = ["red", "swir16"]
    archived = packed(path, suffix)
    expected, before = open_product(path, bands=bands), set(tmp_path.rglob("*"))
    result = open_product(archived, bands=bands)
    xr.testing.assert_equal(result, expected)
    assert set(tmp_path.rglob("*")) == before  # nothing is unpacked


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_masks_are_read_in_archives(suffix: str, tmp_path: Path) -> None:
    path, _ = landsat(tmp_path)
    result = open_product(packed(path, suffix), bands=["red"])
    assert result.mask.equals(open_product(path, bands=["red"]).mask)


def test_metadata_file_stands_for_its_product(tmp_path: Path) -> None:
    path, _ = sentinel2(tmp_path)
    result = open_product(path / "MTD_MSIL1C.xml", bands=["red"])
    assert result.equals(open_product(path, bands=["red"]))


@pytest.mark.parametrize("suffix", ["zip", "tar"])
@pytest.mark.parametrize(
    "name", ["../evil.tif", "/etc/evil", "a/../../evil", "C:\\evil", "a\\..\\b"]
)
def test_names_that_lead_out_are_refused(suffix: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / f"evil.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(name, b"evil")
    else:
        with tarfile.open(path, "w") as tar:
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(InputError, match="which leads out of it; not opened"):
        open_product(path)


def test_links_in_a_tar_are_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "link.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("MTD_MSIL1C.xml")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(InputError, match="is no product known"):
        open_product(path)


@pytest.mark.parametrize("suffix", ["zip", "tgz"])
def test_bombs_are_refused(suffix: str, tmp_path: Path) -> None:
    path, zeros = tmp_path / f"bomb.{suffix}", b"\0" * (1 << 22)
    if suffix == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("MTD_MSIL1C.xml", zeros)
    else:
        with tarfile.open(path, "w:gz") as tar:
            member = tarfile.TarInfo("MTD_MSIL1C.xml")
            member.size = len(zeros)
            tar.addfile(member, io.BytesIO(zeros))
    with pytest.raises(InputError, match=r"would unpack to 4194304 or more; above 100 times"):
        open_product(path)


@pytest.mark.parametrize("limit", ["MAX_BYTES", "MAX_FILES"])
def test_large_archives_are_refused(
    limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = landsat(tmp_path)
    archive = packed(path, "zip")
    monkeypatch.setattr(archives, limit, 5)
    with pytest.raises(InputError, match="If you trust it, unpack it"):
        open_product(archive)
    if limit == "MAX_FILES":
        with pytest.raises(InputError, match="more than 5 files; give the product's folder"):
            open_product(path)


@pytest.mark.parametrize("suffix", ["zip", "tar", "tgz"])
def test_damaged_archives(suffix: str, tmp_path: Path) -> None:
    path, _ = landsat(tmp_path)
    archive = packed(path, suffix)
    archive.write_bytes(archive.read_bytes()[:3000])
    with pytest.raises(InputError, match=r"the (archive|file) cannot be read|damaged archive"):
        open_product(archive, bands=["red"])


# --- metadata that are not to be trusted, or incomplete


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused(encoding: str, tmp_path: Path) -> None:
    path, _ = sentinel2(tmp_path)
    lol = "<!ENTITY a 'lol'><!ENTITY b '&a;&a;&a;'>"
    text = f"<?xml version='1.0' encoding='{encoding}'?><!DOCTYPE x [{lol}]><x>&b;</x>"
    (path / "MTD_MSIL1C.xml").write_bytes(text.encode(encoding))
    with pytest.raises(InputError, match=r"MTD_MSIL1C.xml declares a document type"):
        open_product(path)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


@pytest.mark.parametrize(
    ("twin", "file", "old", "new", "message"),
    [
        (sentinel2, "MTD_MSIL1C.xml", "QUANTIFICATION_VALUE", "X", "has no QUANTIFICATION_VALUE"),
        (sentinel2, "MTD_MSIL1C.xml", ">10000<", ">many<", "QUANTIFICATION_VALUE is 'many'"),
        (sentinel2, "MTD_MSIL1C.xml", "RADIO_ADD_OFFSET", "X",
         "wrong scale: baseline 05.00 without RADIO_ADD_OFFSET of every band"),
        (sentinel2, "MTD_MSIL1C.xml", "</n1:General_Info>", "", "is not XML"),
        (muscate, "*_MTD_ALL.xml", "SENTINEL2A", "SPOT1", "no reader for SPOT1; for SENTINEL2,"),
        (take5, "*.xml", ">SPOT4<", ">SPOT3<", "PLATEFORM is SPOT3, not SPOT4 or SPOT5"),
        (spot, "METADATA.DIM", "<MISSION_INDEX>5", "<MISSION_INDEX>2", "is of SPOT2; of DIMAP 1"),
        (spot, "METADATA.DIM", "XS2", "PAN",
         r"has no Spectral_Band_Info\[BAND_DESCRIPTION='XS2'\]"),
        (spot, "METADATA.DIM", "2010-01-04", "04/01/2010", "IMAGING_DATE '04/01/2010' is not"),
        (spot, "METADATA.DIM", "BASIC", "LINEAR_STRETCH",
         "wrong scale: RADIOMETRIC_PROCESSING is LINEAR_STRETCH, so its numbers hold no radiance"),
        (pleiades, "DIM_*.XML", "BASIC", "DISPLAY", "RADIOMETRIC_PROCESSING is DISPLAY"),
        (pleiades, "DIM_*.XML", "Band_Radiance", "X", r"has no Band_Radiance\[BAND_ID='B0'\]"),
        (pleiades, "DIM_*.XML", "</Data_Files>", "<Data_File tile_R='1' tile_C='1'>"
         "<DATA_FILE_PATH href='x'/></Data_File></Data_Files>", "where does the tile 'x' lie"),
        (pleiades, "DIM_*.XML", "</Data_Files>", "<Data_File tile_R='2' tile_C='2'>"
         "<DATA_FILE_PATH href='x'/></Data_File></Data_Files>", "names 2 tiles, .*gdalbuildvrt"),
        (pleiades, "DIM_*.XML", "</Data_Files>", "<Data_File tile_R='1' tile_C='2'>"
         "<DATA_FILE_PATH href='x'/></Data_File></Data_Files>", "the file of its band .* missing"),
        (pleiades, "DIM_*.XML", "</Data_Files>", "<Data_File tile_R='1' tile_C='2'>"
         "<DATA_FILE_PATH href='x'/></Data_File></Data_Files><OVERLAP_COL>8</OVERLAP_COL>",
         "its tiles overlap, by 8 pixels"),
        (pleiades, "DIM_*.XML", "<MISSION>PHR", "<MISSION>SPOT", "is of SPOT1B, but its name is"),
        (pleiades_neo, "DIM_*.XML", "Raster_Index>", "X>", "has no Raster_Index"),
        (pleiades_neo, "DIM_*.XML", "Data_File ", "X ", "is not XML"),
        (spot_6_7, "DIM_*.XML", "<VALUE>1830", "<VALUE>999",
         "the solar irradiance of B1 is 999, not known"),
        (landsat, "*_MTL.txt", "NUMBER = 02", "NUMBER = 01",
         "is LANDSAT_8 L1TP OLI_TIRS, Collection 01; TM, ETM"),
        (landsat, "*_MTL.txt", "REFLECTANCE_ADD_BAND_3", "X", "has no REFLECTANCE_ADD_BAND_3"),
        (landsat, "*_MTL.txt", "SUN_ELEVATION = 30", "SUN_ELEVATION = -3", "elevation is -3.0°"),
        (landsat, "*_MTL.txt", "-0.100000", "none", "REFLECTANCE_ADD_BAND_1 is 'none'"),
        (planet, "*_metadata.xml", "ps:bandNumber>4", "ps:bandNumber>3", "has 3 bands"),
        (planet, "*_metadata.xml", "reflectanceCoefficient", "X", "has no reflectanceCoefficient"),
    ],
)  # fmt: skip
def test_metadata_that_do_not_serve(
    twin: Callable[..., Written], file: str, old: str, new: str, message: str, tmp_path: Path
) -> None:
    path, _ = twin(tmp_path)
    edit(next(path.glob(file)), old, new)
    with pytest.raises(InputError, match=message):
        open_product(path)


# --- images that are missing, broken, or of a wrong scale


@pytest.mark.parametrize(
    ("twin", "file"),
    [
        (sentinel2, "GRANULE/*/IMG_DATA/*_B04.jp2"),
        (heritage, "*_XS2.tif"),
        (landsat, "*_B4.TIF"),
        (spot, "IMAGERY.TIF"),
        (pleiades, "IMG*.JP2"),
        (planet, "*.tif"),
    ],
)
def test_missing_and_truncated_bands(
    twin: Callable[..., Written], file: str, tmp_path: Path
) -> None:
    path, _ = twin(tmp_path)
    band = next(path.glob(file))
    data = band.read_bytes()
    for part in (data[: len(data) * 2 // 3], data[:60]):
        band.write_bytes(part)
        with pytest.raises(InputError, match=rf"{band.name}.*truncated"):
            open_product(path, bands=["red"])
    band.write_bytes(b"<html>404 Not Found</html>")
    with pytest.raises(InputError, match=rf"{band.name} is neither TIFF nor JPEG 2000"):
        open_product(path)
    band.unlink()
    for bands in (None, ["red"]):
        with pytest.raises(InputError, match=r"of its band .* is missing; the"):
            open_product(path, bands=bands)


def test_a_missing_band_that_is_not_asked_for(tmp_path: Path) -> None:
    path, _ = sentinel2(tmp_path)
    next(path.glob("GRANULE/*/IMG_DATA/*_B09.jp2")).unlink()
    assert open_product(path, bands=["red"]).band.values.tolist() == ["red"]
    with pytest.raises(InputError, match="has no reflective band 'lwir11'; it has coastal, blue"):
        open_product(path, bands=["lwir11"])


def test_a_virtual_raster_is_not_opened(tmp_path: Path) -> None:
    path, _ = landsat(tmp_path)
    next(path.glob("*_B4.TIF")).write_text("<VRTDataset rasterXSize='1' rasterYSize='1'/>")
    with pytest.raises(InputError, match="neither TIFF nor JPEG 2000"):
        open_product(path)


@pytest.mark.parametrize(
    ("quantity", "message"),
    [
        (1, r"go up to 5.*: they look like reflectance × 1000, not yet divided"),
        (100000, r"only go up to 0.00.*: divided by too much"),
    ],
)
def test_a_wrong_scale_is_named(quantity: int, message: str, tmp_path: Path) -> None:
    path, _ = heritage(tmp_path)
    edit(next(path.glob("*_MTD_ALL.xml")), ">1000<", f">{quantity}<")
    with pytest.raises(InputError, match=f"wrong scale: by the metadata its values {message}"):
        open_product(path)


def test_an_offset_taken_off_twice_is_named(tmp_path: Path) -> None:
    path, _ = sentinel2(tmp_path)
    for image in path.glob("GRANULE/*/IMG_DATA/*.jp2"):  # as some archives "harmonise" them
        side = 240 // S2_METRES[image.stem[-3:]]
        write(image, numbers(100, 3000, side, side), S2_METRES[image.stem[-3:]])
    with pytest.raises(InputError, match="an offset seems to have been taken off twice"):
        open_product(path)


def test_nothing_but_nodata(tmp_path: Path) -> None:
    path, _ = heritage(tmp_path)
    for image in path.glob("*.tif"):
        write(image, np.zeros((SIZE, SIZE), np.int16), 10)
    with pytest.raises(InputError, match="every pixel is nodata"):
        open_product(path)


def test_surface_reflectance_warns_of_the_score(tmp_path: Path) -> None:
    path, _ = sentinel2(tmp_path, "2A")
    with pytest.warns(UserWarning, match="is surface reflectance.* a lower recall.* F2"):
        open_product(path, bands=["red"])
    path, _ = sentinel2(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        open_product(path, bands=["red"])


# --- what is no product


def test_an_unknown_product_lists_the_formats(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(InputError, match=r"no product known. Known: .*card.*Sentinel-2 L1C"):
            open_product(path)
    with pytest.raises(InputError, match=r"gone.SAFE: does not exist"):
        open_product(tmp_path / "gone.SAFE")
    write(tmp_path / "plain.tif", numbers(0, 9))
    with pytest.raises(InputError, match=r"has no card plain.yaml beside it.* give the --sensor"):
        open_product(tmp_path / "plain.tif")


def test_two_products_in_a_folder(tmp_path: Path) -> None:
    one, _ = sentinel2(tmp_path)
    landsat(tmp_path)
    with pytest.raises(InputError, match=r"holds 2 products .*give one of these files"):
        find_product(tmp_path)
    assert find_product(one / "MTD_MSIL1C.xml").format == "Sentinel-2 L1C SAFE"


def test_a_card_must_fit_its_geotiff(tmp_path: Path) -> None:
    path, _ = geotiff(tmp_path)
    write(path, numbers(500, 6000, 3, SIZE, SIZE), 4)
    with pytest.raises(InputError, match="has 3 layers, its card 2 bands; describe the layers"):
        open_product(path)


# --- prediction


@pytest.mark.parametrize(
    ("twin", "model", "metres"),
    [(sentinel2, "five", 30), (landsat, "five", 30), (spot, "spot", 30)],
)
def test_a_product_is_predicted_without_options(
    twin: Callable[..., Written], model: str, metres: float, tmp_path: Path
) -> None:
    path, _ = twin(tmp_path / "in")
    mask, probability = predict_file(path, None, tmp_path / "out", progress=False)
    with rasterio.open(mask) as file:
        values = file.read(1)
        assert file.tags()["model"] == model
        if twin is not spot:  # in sensor geometry
            assert file.crs.to_epsg() == 32631 and file.res == (metres, metres)
            assert (file.bounds.left, file.bounds.top) == (600_000, 4_900_000)
    product = find_product(path)
    bands = [band for band in ("blue", "green", "red", "nir", "swir16") if band in product.layers]
    expected = predict_array(
        load_model(pick_model(bands)), product.read(bands, metres).array(), bands, metres
    )
    with rasterio.open(probability) as file:
        np.testing.assert_allclose(file.read(1), expected - 5e-4, atol=5.1e-4)  # rounded down
    assert set(np.unique(values)) <= {0, 1, 255}


def test_predicting_products_that_do_not_serve(tmp_path: Path) -> None:
    path, _ = landsat(tmp_path)
    with pytest.raises(InputError, match="a product says its own scale, offset, nodata and bands"):
        predict_file(path, None, tmp_path / "out", reading=Reading(scale=1e-4))
    next(path.glob("*_B2.TIF")).unlink()
    with pytest.raises(InputError, match="the file of its band blue is missing"):
        predict_file(path, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    options = Options(use=("green", "red", "nir", "swir16"))
    assert predict_file(path, None, tmp_path / "out", options=options, progress=False)[0].exists()
