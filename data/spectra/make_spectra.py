"""Write `clouddl/simulate/tables`: what scenes are simulated from, taken from published packages.

Run once, by hand, where these can be had: `pip install earthlib tartes pvlib pyrsr prosail`, then
`python data/spectra/make_spectra.py`. Its output is committed, so that no simulation needs them.

- surfaces.csv: soils (ICRAF-ISRIC), canopies (simulated with PROSAIL), litter, sand, roofs and
  roads (Santa Barbara), chars, all from earthlib (MIT); snow from TARTES (Picard and Libois 2024);
  water from the formula of Gordon (1988). One row per spectrum, reflectance at 0.40 to 2.45 µm.
- air.csv: sunlight and gas absorption of SPCTRL2 (Bird and Riordan 1986) as pvlib prints them;
  absorption of liquid water (PROSPECT-D's column, Feret 2017) and of ice (Warren and Brandt 2008,
  below 0.6 µm as revised by Picard 2016, through TARTES), both per µm.
- responses/<sensor>.csv: published response curves as pyrsr (Apache-2.0) ships them.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import tartes
from pvlib.spectrum.spectrl2 import _SPECTRL2_COEFFS as SUN
from tartes.refractive_index import refice2016

OUT = Path(__file__).resolve().parents[2] / "clouddl" / "simulate" / "tables"
COARSE = np.round(np.arange(0.40, 2.4501, 0.02), 3)  # µm; water bands lie within
GRID = np.round(np.arange(0.40, 2.4501, 0.005), 3)
WANTED = {"soil": 160, "canopy": 90, "litter": 30, "sand": 24, "roof": 40, "road": 40, "char": 8}
KINDS = {
    "soil": "soil", "canopy": "canopy", "npv": "litter", "litter": "litter", "bark": "litter",
    "sand": "sand", "gravel": "sand", "comp_shingle": "roof", "wood_shingle": "roof",
    "concrete_tile": "roof", "tile": "roof", "metal": "roof", "paint": "roof", "road": "road",
    "parking_lot": "road", "sidewalk": "road", "asphalt": "road", "char": "char",
}  # fmt: skip
CURVES = {  # our sensor: pyrsr's satellite, camera, and {our native band: its file}
    "sentinel-2": ("Sentinel-2A", "MSI", {f"B{b}": f"band_{b}" for b in [*range(1, 13), "8A"]}),
    "landsat-5": ("Landsat-5", "TM", {f"B{b}": f"band_{b}" for b in (1, 2, 3, 4, 5, 7)}),
    "landsat-7": ("Landsat-7", "ETM+", {f"B{b}": f"band_{b}" for b in (1, 2, 3, 4, 5, 7, 8)}),
    "landsat-8": ("Landsat-8", "OLI_TIRS", {f"B{b}": f"band_{b}" for b in range(1, 10)}),
    "landsat-9": ("Landsat-9", "OLI_TIRS", {f"B{b}": f"band_{b}" for b in range(1, 10)}),
    "spot-4": ("SPOT-4", "HRVIR1", {f"B{b}": f"band_{b}" for b in range(1, 5)}),
    "spot-5": ("SPOT-5", "HRG1", {f"B{b}": f"band_{b}" for b in range(1, 5)}),
}


def folder_of(package):
    """Where a package lies; its data files are read, its code need not run."""
    return Path(importlib.util.find_spec(package).origin).parent


def earthlib_spectra(rng):
    folder = folder_of("earthlib") / "data"
    table = pd.read_csv(folder / "spectra.csv")
    header = (folder / "spectra.sli.hdr").read_text()
    data = np.fromfile(folder / "spectra.sli", "<f4" if "byte order = 0" in header else ">f4")
    data = data.reshape(len(table), -1)
    text = header.split("wavelength = {")[1].split("}")[0]
    waves = np.array([float(v) for v in text.split(",")])
    waves = waves / 1000 if waves.max() > 100 else waves
    kinds = table.LEVEL_3.map(KINDS)
    for kind, wanted in WANTED.items():
        rows = np.flatnonzero((kinds == kind) & np.isfinite(data).all(1) & (data.max(1) < 1))
        for index in np.sort(rng.choice(rows, min(wanted, len(rows)), replace=False)):
            yield kind, str(table.NAME[index]), np.interp(COARSE, waves, data[index])


def snow_spectra():
    """Fresh to old, clean to dirty: specific surface area in m²/kg, soot in g/g."""
    for area in (6, 10, 16, 25, 40, 60):
        for soot in (0.0, 2e-7, 2e-6):
            albedo = tartes.albedo(COARSE * 1e-6, SSA=area, density=300, impurities=soot)
            yield "snow", f"ssa {area}, soot {soot:g}", albedo


def water_spectra(absorption):
    """Remote-sensing reflectance of water with sediments, pigments and yellow substance."""
    for sediment in (0.3, 2, 8, 30, 100):  # g/m³
        for pigment in (0.3, 3, 20):  # mg/m³
            yellow = 0.02 + 0.012 * pigment + 0.01 * sediment  # 1/m at 0.44 µm
            a = absorption * 1e6 + yellow * np.exp(-14 * (COARSE - 0.44))
            a = a + 0.04 * pigment**0.65 * np.exp(-(((COARSE - 0.44) / 0.06) ** 2))
            back = 0.0005 * (0.55 / COARSE) ** 4.3 + 0.012 * sediment * (0.55 / COARSE) ** 0.7
            u = back / (a + back)
            below = 0.0949 * u + 0.0794 * u**2  # Gordon (1988)
            yield (
                "water",
                f"sediment {sediment}, pigment {pigment}",
                np.pi * 0.52 * below / (1 - 1.7 * below),
            )


def main():
    rng = np.random.default_rng(2020)
    OUT.mkdir(exist_ok=True)
    leaf = np.loadtxt(folder_of("prosail") / "prospect_d_spectra.txt")
    water = np.interp(GRID, leaf[:, 0] / 1000, leaf[:, -2]) * 1e-4  # per cm to per µm
    ice = 4 * np.pi * refice2016(GRID * 1e-6)[1] / GRID

    air = {"wavelength_um": GRID}
    for name, column in (
        ("sunlight", "spectral_irradiance_et"),
        ("vapour", "water_vapor_absorption"),
        ("ozone", "ozone_absorption"),
        ("mixed", "mixed_absorption"),
    ):
        air[name] = np.interp(GRID, SUN["wavelength"] / 1000, SUN[column])
    air |= {"water_per_um": water, "ice_per_um": np.abs(ice)}
    pd.DataFrame(air).to_csv(OUT / "air.csv", index=False, float_format="%.4g")
    rows = [
        *earthlib_spectra(rng),
        *snow_spectra(),
        *water_spectra(np.interp(COARSE, GRID, water)),
    ]
    surfaces = pd.DataFrame(
        [values.clip(0, 1) for *_, values in rows], columns=[f"{w:.2f}" for w in COARSE]
    )
    surfaces.insert(0, "name", [name for _, name, _ in rows])
    surfaces.insert(0, "kind", [kind for kind, *_ in rows])
    surfaces.to_csv(OUT / "surfaces.csv", index=False, float_format="%.3f")
    (OUT / "responses").mkdir(exist_ok=True)
    for sensor, (satellite, camera, bands) in CURVES.items():
        folder = folder_of("pyrsr") / "data" / satellite / camera
        parts = []
        for native, file in bands.items():
            curve = np.loadtxt(folder / file, skiprows=1)
            waves = curve[:, 0] / (1000 if curve[:, 0].max() > 100 else 1)
            on_grid = np.interp(GRID, waves, curve[:, 1], left=0, right=0).clip(0)
            inside = on_grid > 0.001 * on_grid.max()
            parts.append(
                pd.DataFrame(
                    {"native": native, "wavelength_um": GRID, "response": on_grid / on_grid.max()}
                )[inside]
            )
        table = pd.concat(parts)
        table.to_csv(OUT / "responses" / f"{sensor}.csv", index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
