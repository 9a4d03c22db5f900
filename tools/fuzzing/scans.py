"""CT files: NIfTI, gzip."""
import gzip
from pathlib import Path

import numpy as np

from fuzzing.mutations import mutate


def body() -> np.ndarray:
    "A small chest, (z, x, y) HU."
    axes = [np.linspace(-1, 1, n) for n in (6, 20, 18)]
    z, x, y = np.meshgrid(*axes, indexing="ij")
    hu = np.full(z.shape, -1000, np.int16)
    hu[x**2 + y**2 < 0.8] = 40
    hu[(x - 0.3) ** 2 + y**2 < 0.1] = -800
    noise = np.random.default_rng(0).integers(-9, 10, z.shape)
    return hu + noise.astype(np.int16)


def good_nifti(path: Path) -> Path:
    "The small chest as a file; written once."
    import nibabel as nib
    if not path.is_file():
        affine = np.diag([-15.0, -15, 30, 1])
        nib.save(nib.Nifti1Image(body().transpose(1, 2, 0), affine), path)
    return path


def plane_by_plane(path: Path, given: tuple):
    "The same, as a large file is read; whether it ends in an error too is asked of the reading that comes after."
    from hsenet.config import SliceConfig, VolumeConfig
    from hsenet.ct.planes import encode_ct
    from hsenet.ct.volume import Given
    from hsenet.ct.volume import VolumeError
    volume = VolumeConfig(size=(4, 16, 16), spacing=(30.0, 15.0, 15.0))
    facts = given or (None, None, None)
    try:
        encode_ct(path, Given(*facts), volume, SliceConfig(n=4), large=0)
    except VolumeError:
        pass


def use_ct(path: Path, *given):
    "All that preprocessing does with a CT."
    from hsenet.ct.read import read_ct
    from hsenet.ct.resample import axial_slices, encoder_volume
    if Path(path).is_file(): plane_by_plane(path, given)
    ct = read_ct(path, *given)
    encoder_volume(ct, (4, 16, 16), spacing=None)
    axial_slices(ct, 4, spacing=None)
    encoder_volume(ct, (4, 16, 16))


def nifti(work: Path, rng, name: str = "a.nii"):
    "A NIfTI file, to both encoders' input."
    good = good_nifti(work / "good.nii")
    data = mutate(good.read_bytes(), rng, False, head=360)
    path = work / name
    path.write_bytes(gzip.compress(data, 1) if name.endswith("gz") else data)
    tables = [(), (1, -1024, (30, 15, 15)), (1, 0, (30, 15, 15))]  # slope, intercept, spacing, if any
    use_ct(path, *tables[rng.integers(3)])


def gzipped(work: Path, rng):
    "A compressed one: half with damaged data, half with damaged headers that are compressed well."
    if rng.random() < 0.5: return nifti(work, rng, "a.nii.gz")
    good = good_nifti(work / "good.nii.gz")
    path = work / "b.nii.gz"
    path.write_bytes(mutate(good.read_bytes(), rng, False, head=40))
    use_ct(path)


KINDS = {"nifti": nifti, "gzip": gzipped}
