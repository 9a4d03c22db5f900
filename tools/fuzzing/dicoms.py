"""DICOM: bytes of a file, elements of headers, archives."""
import shutil
import zipfile
from pathlib import Path

from fuzzing.mutations import mutate
from fuzzing.scans import body, use_ct

SEQUENCES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
SHARED = {"PixelMeasuresSequence": ["PixelSpacing"], "PlaneOrientationSequence": ["ImageOrientationPatient"]}
OF_A_FRAME = {
    "PlanePositionSequence": ["ImagePositionPatient"],
    "PixelValueTransformationSequence": ["RescaleSlope", "RescaleIntercept"],
}
VALUES = [  # of elements, as bytes; NUL pads to an even length
    b"", b" ", b"0", b"1", b"-1", b"7", b"nan", b"inf", b"-inf", b"1e999", b"1e-300", b"0.5", b"-2000", b"63536",
    b"99999999999999999999", b"1\\2", b"1\\0\\0\\0\\1\\0", b"1\\1\\1", b"1\\nan\\1", b"\\\\\\\\\\", b"ORIGINAL\\PRIMARY\\LOCALIZER",
    b"1.2.840.10008.5.1.4.1.1.2.1", b"1.2.840.10008.5.1.4.1.1.4", b"1.2.3", b"HU", b"OD", b"MR", b"RGB",
    b"\x00\x00", b"\x01\x00", b"\x02\x00", b"\x08\x00", b"\x0c\x00", b"\x20\x00", b"\xff\xff", b"\x00\x80",
    b"\xe9\xff\xfe", b"A" * 5000,
]
SYNTAXES = [  # a header may name any
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.5", "1.2.3.4", "",
]


def groups(ds, sequences: dict):
    "Some elements of a header, as functional groups have them."
    import pydicom
    out = pydicom.Dataset()
    for sequence, names in sequences.items():
        item = pydicom.Dataset()
        for name in names: item[name] = ds[name]
        setattr(out, sequence, [item])
    return out


def enhanced(paths: list[Path], target: Path):
    "A series as one Enhanced CT."
    import pydicom
    slices = [pydicom.dcmread(path) for path in paths]
    ds = slices[0].copy()
    ds.SharedFunctionalGroupsSequence = [groups(ds, SHARED)]
    ds.PerFrameFunctionalGroupsSequence = [groups(one, OF_A_FRAME) for one in slices]
    ds.NumberOfFrames = len(slices)
    ds.PixelData = b"".join(one.PixelData for one in slices)
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    ds.save_as(target)


def good_series(work: Path, name: str) -> Path:
    "Three slices in a folder, stored as `name` says; written once."
    import pydicom
    from hsenet.ct.dicom_files import write_series
    folder = work / name
    if folder.is_dir(): return folder
    paths = write_series(folder, body()[1:4], (30, 15, 15), PixelPaddingValue=0)
    if name == "enhanced":
        enhanced(paths, folder / "all.dcm")
        for path in paths: path.unlink()
        return folder
    for path in paths:
        ds = pydicom.dcmread(path)
        if name == "rle": ds.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        if name == "deflated": ds.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        ds.save_as(path)
        if name == "bare": path.write_bytes(path.read_bytes()[132:])
    return folder


def copy_of_series(work: Path, rng) -> Path:
    "A good series in a folder of its own."
    names = ["plain", "plain", "rle", "deflated", "bare", "enhanced"]
    good = good_series(work, names[rng.integers(len(names))])
    shutil.rmtree(work / "changed", ignore_errors=True)
    return shutil.copytree(good, work / "changed")


def read_somehow(folder: Path, rng):
    "The folder, one of its files, or an archive of it; named, by the rule, or the only one; listed."
    from hsenet.ct.dicom_series import list_series
    source = folder
    way = rng.integers(4)
    if way == 0: source = sorted(folder.iterdir())[0]
    if way == 1: source = Path(shutil.make_archive(str(folder.parent / "packed"), "zip", folder))
    if rng.random() < 0.2: list_series(source)
    series = [None, None, "auto", "1.2.826"][rng.integers(4)]
    rescale = [(None, None), (None, None), (1, -1024)][rng.integers(3)]
    use_ct(source, *rescale, None, series)


def dicom(work: Path, rng):
    "A DICOM file's bytes: plain, run-length encoded, deflated, without preamble, Enhanced."
    folder = copy_of_series(work, rng)
    paths = sorted(folder.iterdir())
    path = paths[rng.integers(len(paths))]
    path.write_bytes(mutate(path.read_bytes(), rng, False, head=1400))
    read_somehow(folder, rng)


def change_element(ds, rng):
    "An element goes, or gets an odd value, or another type."
    from hsenet.ct.dicom_files import TAGS
    from pydicom.dataelem import RawDataElement
    from pydicom.datadict import dictionary_VR
    from pydicom.tag import Tag
    tag = Tag(TAGS[rng.integers(len(TAGS))])
    if rng.random() < 0.3:
        if tag in ds: del ds[tag]
        return
    value = VALUES[rng.integers(len(VALUES))]
    value += b"\x00" * (len(value) % 2)
    kind = dictionary_VR(tag).split()[0]
    if rng.random() < 0.1: kind = ["DS", "US", "UI", "LO", "UN", "SQ"][rng.integers(6)]
    if kind == "SQ": value = value[:0]
    ds[tag] = RawDataElement(tag, kind, len(value), value, 0, False, True)


def headers(work: Path, rng):
    "Elements of DICOM headers missing, odd, contradictory: in one slice, or in all; and transfer syntaxes."
    import pydicom
    folder = copy_of_series(work, rng)
    paths = sorted(folder.iterdir())
    chosen = paths if rng.random() < 0.5 else [paths[rng.integers(len(paths))]]
    changes, seed = rng.integers(1, 5), int(rng.integers(1 << 30))
    for path in chosen:
        again = type(rng)(type(rng.bit_generator)(seed))  # the same changes in each
        ds = pydicom.dcmread(path, force=True)
        inner = [ds]
        for name in SEQUENCES:
            for item in ds.get(name) or []: inner += [item, *(element.value[0] for element in item)]
        for _ in range(changes): change_element(inner[again.integers(len(inner))], again)
        pydicom.dcmwrite(path, ds, enforce_file_format=False)
        if again.random() < 0.15: name_syntax(path, SYNTAXES[again.integers(len(SYNTAXES))])
    read_somehow(folder, rng)


def name_syntax(path: Path, syntax: str):
    "Put another transfer syntax into the file meta, in the place of the old one."
    data = path.read_bytes()
    at = data.find(b"\x02\x00\x10\x00UI")
    if at < 0: return
    length = int.from_bytes(data[at + 6 : at + 8], "little")
    value = syntax.encode()[:length].ljust(length, b"\x00")
    path.write_bytes(data[: at + 8] + value + data[at + 8 + length :])


def archives(work: Path, rng):
    "A ZIP archive of a DICOM series."
    folder = good_series(work, "plain")
    good = work / "good.zip"
    if not good.is_file():
        with zipfile.ZipFile(good, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in folder.iterdir(): archive.write(path, f"DICOM/{path.name}")
    path = work / "changed.zip"
    path.write_bytes(mutate(good.read_bytes(), rng, False, head=200))
    before = set(work.iterdir())
    use_ct(path)
    strangers = set(work.iterdir()) - before
    if strangers: raise AssertionError(f"unpacked outside of its folder: {strangers}")


KINDS = {"dicom": dicom, "dicom_headers": headers, "dicom_zip": archives}
