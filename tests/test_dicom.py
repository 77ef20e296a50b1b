"DICOM files of every kind that pydicom reads, clear errors for the others, and no patient's name anywhere"
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pydicom = pytest.importorskip('pydicom')
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_voi_lut, pixel_array
from pydicom.uid import (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless,
                         RLELossless, generate_uid)

from similarity_finder.data import ImageError, image_files, open_image, usable_files
from similarity_finder.dicom import dicom_to_png, open_dicom, patient_of

NAME, ID, WARD = 'Quillfeather^Ottoline', 'PID-77310', 'Ward of Marsh Hospital'
SECRETS = ('Quillfeather', 'Ottoline', '77310', 'Marsh')


def dicom(path, px, kind='MONOCHROME2', bits=None, syntax=ExplicitVRLittleEndian, patient=ID, **tags):
    "Write a DICOM file of a planted patient"
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.SOPClassUID, ds.SOPInstanceUID = '1.2.840.10008.5.1.4.1.1.7', generate_uid(entropy_srcs=[str(path)])
    ds.PatientName, ds.PatientID, ds.InstitutionName, ds.PatientBirthDate = NAME, patient, WARD, '19501231'
    ds.set_pixel_data(px, kind, bits or px.dtype.itemsize*8, generate_instance_uid=False)
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for k, v in tags.items(): setattr(ds, k, v)
    if syntax == RLELossless: ds.compress(RLELossless, generate_instance_uid=False)
    elif syntax == ExplicitVRBigEndian:
        if ds.BitsAllocated > 8: ds.PixelData = px.astype(px.dtype.newbyteorder('>')).tobytes()
        ds.file_meta.TransferSyntaxUID = syntax
        ds['PixelData'].VR = 'OW' if ds.BitsAllocated > 8 else 'OB'
    else: ds.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian: pydicom.dcmwrite(path, ds, implicit_vr=False, little_endian=False)
    else: ds.save_as(path, enforce_file_format=True)
    return Path(path)


SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless]


@pytest.mark.parametrize('syntax', SYNTAXES, ids=lambda s: s.name)
@pytest.mark.parametrize('dtype,bits', [('uint8', 8), ('uint16', 10), ('uint16', 12), ('uint16', 16), ('int16', 12), ('int16', 16)])
@pytest.mark.parametrize('kind', ['MONOCHROME1', 'MONOCHROME2'])
def test_grey(tmp_path, syntax, dtype, bits, kind):
    "A window over the whole range gives the range: darkest to brightest, or the other way round"
    lo, hi = (0, 2**bits-1) if dtype[0] == 'u' else (-2**(bits-1), 2**(bits-1)-1)
    px = np.linspace(lo, hi, 64).round().astype(dtype).reshape(8, 8)
    f = dicom(tmp_path/'x.dcm', px, kind, bits, syntax, WindowWidth=hi-lo+1, WindowCenter=(hi+lo+1)/2)
    im = open_image(f)
    assert im.mode == 'RGB'
    expected = np.arange(64)/63*255
    got = np.asarray(im)[..., 0].ravel()
    assert np.abs(got - (expected if kind == 'MONOCHROME2' else 255-expected)).max() <= 1
    np.testing.assert_array_equal(np.asarray(im)[..., 0], np.asarray(im)[..., 2])


@pytest.mark.parametrize('syntax', SYNTAXES, ids=lambda s: s.name)
@pytest.mark.parametrize('depth', [8, 16])
def test_rgb(tmp_path, syntax, depth):
    rng = np.random.default_rng(0)
    px = rng.integers(0, 256, (6, 10, 3)).astype('uint8' if depth == 8 else 'uint16')*(1 if depth == 8 else 257)
    f = dicom(tmp_path/'x.dcm', px.astype('uint8' if depth == 8 else 'uint16'), 'RGB', depth, syntax)
    np.testing.assert_array_equal(np.asarray(open_image(f)), px if depth == 8 else px//257)


@pytest.mark.parametrize('kind', ['YBR_FULL', 'YBR_FULL_422'])
def test_ybr(tmp_path, kind):
    "Against the conversion that JPEG uses"
    rgb = np.repeat(np.random.default_rng(0).integers(0, 256, (6, 5, 3)), 2, axis=1).astype(np.uint8) # pairs of equal pixels: half the colours lose nothing
    ybr = np.asarray(Image.fromarray(rgb).convert('YCbCr'))
    f = dicom(tmp_path/'x.dcm', ybr, 'YBR_FULL')
    if kind == 'YBR_FULL_422':
        ds = pydicom.dcmread(f)
        ds.PhotometricInterpretation = kind
        two = ybr.reshape(-1, 2, 3)
        ds.PixelData = np.stack([two[:, 0, 0], two[:, 1, 0], two[:, 0, 1], two[:, 0, 2]], 1).tobytes()
        ds.save_as(f)
    assert np.abs(np.asarray(open_image(f)).astype(int) - rgb).max() <= 3


def test_palette(tmp_path):
    px = np.array([[0, 1], [2, 3]], dtype=np.uint8)
    lut = [[10, 20, 30, 40], [50, 60, 70, 80], [90, 100, 110, 255]]
    tags = {f'{c}PaletteColorLookupTable{k}': v for c, o in zip(('Red', 'Green', 'Blue'), lut) for k, v in (('Descriptor', [4, 0, 16]), ('Data', (np.array(o, dtype='<u2')*257).tobytes()))}
    f = dicom(tmp_path/'x.dcm', px, 'PALETTE COLOR', **tags)
    np.testing.assert_array_equal(np.asarray(open_image(f)).reshape(4, 3), np.array(lut).T)


def test_rescaling_and_windows(tmp_path):
    "Hounsfield units: stored 1024 is water, 0; the window of 400 around 40 is black below -160 and white above 240"
    px = np.array([[0, 1024-160, 1024+40, 1024+240, 4000]], dtype=np.uint16)
    args = dict(bits=12, RescaleSlope=1, RescaleIntercept=-1024)
    asked = np.asarray(open_dicom(dicom(tmp_path/'a.dcm', px, **args), (400, 40)))[0]
    written = np.asarray(open_dicom(dicom(tmp_path/'b.dcm', px, WindowWidth=[400, 1500], WindowCenter=[40, -600], **args)))[0]
    np.testing.assert_array_equal(asked, written)
    assert asked[[0, 1, 3, 4]].tolist() == [0, 0, 255, 255] and abs(int(asked[2]) - 128) <= 1
    steep = np.asarray(open_dicom(dicom(tmp_path/'c.dcm', px, VOILUTFunction='SIGMOID', WindowWidth=400, WindowCenter=40, **args)))[0]
    np.testing.assert_allclose(steep, 255/(1+np.exp(-4*((px[0].astype(float)-1024)-40)/400)), atol=0.51)


def test_voi_lut_of_the_file(tmp_path):
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [4, 100, 8], [0, 85, 170, 255]
    item['LUTDescriptor'].VR = item['LUTData'].VR = 'US'
    px = np.array([[0, 100, 101, 102, 103, 4000]], dtype=np.uint16)
    f = dicom(tmp_path/'x.dcm', px, bits=12, VOILUTSequence=[item])
    assert np.asarray(open_dicom(f))[0].tolist() == [0, 0, 85, 170, 255, 255]
    np.testing.assert_array_equal(np.asarray(open_dicom(f)), apply_voi_lut(px, pydicom.dcmread(f)))


def test_window_of_an_enhanced_file(tmp_path):
    "Files of many frames keep rescaling and window in functional groups"
    px = np.stack([np.full((4, 4), v, dtype=np.uint16) for v in (100, 200)])
    def group(center):
        g, w, r = Dataset(), Dataset(), Dataset()
        w.WindowWidth, w.WindowCenter = 101, center
        r.RescaleSlope, r.RescaleIntercept = 2, 0
        g.FrameVOILUTSequence, g.PixelValueTransformationSequence = [w], [r]
        return g
    f = dicom(tmp_path/'x.dcm', px, bits=16, PerFrameFunctionalGroupsSequence=[group(200.5), group(1000)])
    assert abs(int(np.asarray(open_dicom(f, frame=0))[0, 0]) - 128) <= 1 # 2*100 is the middle of the first frame's window
    assert np.asarray(open_dicom(f, frame=1))[0, 0] == 0 # 2*200 is below that of the second
    with pytest.raises(ImageError, match='2 frames, and one image is wanted'): open_image(f)
    with pytest.raises(ImageError, match='no frame -1'): open_dicom(f, frame=-1)


NATIVE = ['CT_small.dcm', 'MR_small.dcm', 'MR_small_bigendian.dcm', 'MR_small_expb.dcm', 'MR_small_implicit.dcm', 'MR_small_RLE.dcm', 'MR_small_padded.dcm', 'SC_rgb_rle.dcm',
          'SC_rgb_rle_16bit.dcm', 'SC_rgb_rle_32bit.dcm', 'SC_rgb_small_odd.dcm', 'SC_rgb_small_odd_big_endian.dcm', 'SC_ybr_full_422_uncompressed.dcm', 'image_dfl.dcm',
          'liver_1frame.dcm', 'liver_expb_1frame.dcm', 'rtdose_1frame.dcm', 'rtdose_expb_1frame.dcm', 'rtdose_rle_1frame.dcm', 'ExplVR_BigEnd.dcm', 'examples_palette.dcm',
          'examples_rgb_color.dcm', 'examples_overlay.dcm']


@pytest.mark.parametrize('name', NATIVE)
def test_pydicoms_own_files(name):
    "Grey rises with the stored value, colours are pydicom's"
    f = get_testdata_file(name, download=False)
    if f is None: pytest.skip('pydicom fetches this file from the network')
    ds = pydicom.dcmread(f)
    a, px = np.asarray(open_dicom(f)), pixel_array(ds)
    assert a.shape[:2] == (ds.Rows, ds.Columns) and a.max() > a.min()
    if ds.PhotometricInterpretation == 'MONOCHROME2':
        order = np.argsort(px, axis=None, kind='stable')
        assert (np.diff(a.ravel()[order].astype(int)) >= 0).all()
    elif ds.PhotometricInterpretation != 'PALETTE COLOR': assert np.abs(a - px/(2.**ds.BitsStored-1)*255).max() <= 0.51


def test_one_image_in_many_syntaxes():
    "The same slice, stored in five ways"
    same = [np.asarray(open_dicom(get_testdata_file(f))) for f in ('MR_small.dcm', 'MR_small_bigendian.dcm', 'MR_small_implicit.dcm', 'MR_small_RLE.dcm', 'MR_small_expb.dcm')]
    for o in same[1:]: np.testing.assert_array_equal(o, same[0])


def test_compressed_without_a_decoder_says_so(tmp_path):
    f = dicom(tmp_path/'x.dcm', np.zeros((4, 4), np.uint8))
    ds = pydicom.dcmread(f)
    ds.PixelData = encapsulate([b'\xff\xd8\xff\xd9'])
    ds['PixelData'].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = JPEGLSLossless
    ds.save_as(f)
    if pydicom.pixels.get_decoder(JPEGLSLossless).is_available: pytest.skip('a decoder is installed')
    with pytest.raises(ImageError, match='JPEG-LS Lossless.*nothing installed can decode.*pip install'): open_image(f)


def test_files_without_a_preamble(tmp_path):
    "Old files lack the first 132 bytes and the transfer syntax; their extension tells them"
    px = np.arange(16, dtype=np.uint8).reshape(4, 4)*16
    ds = pydicom.dcmread(dicom(tmp_path/'x.dcm', px, syntax=ImplicitVRLittleEndian))
    expected = np.asarray(open_dicom(tmp_path/'x.dcm'))
    ds.file_meta = FileMetaDataset()
    del ds.preamble
    ds.save_as(tmp_path/'bare.dcm', implicit_vr=True, little_endian=True)
    assert (tmp_path/'bare.dcm').read_bytes()[128:132] != b'DICM'
    np.testing.assert_array_equal(np.asarray(open_dicom(tmp_path/'bare.dcm')), expected)


def damaged(tmp_path, rng):
    "Cut anywhere, or with bytes changed"
    good = dicom(tmp_path/'good.dcm', rng.integers(0, 4096, (16, 16)).astype(np.uint16), bits=12).read_bytes()
    for i in range(60):
        if i % 2: content = good[:int(rng.integers(1, len(good)-1))]
        else:
            content = bytearray(good)
            for at in rng.integers(132, len(good)-512, 6): content[at] = rng.integers(256)
            content = bytes(content)
        f = tmp_path/f'bad_{i}.dcm'
        f.write_bytes(content)
        yield f


def test_damaged_files_are_image_errors_without_names(tmp_path, caplog, recwarn, capsys):
    caplog.set_level(logging.DEBUG)
    refused = 0
    for f in damaged(tmp_path, np.random.default_rng(0)):
        for read in (open_image, patient_of):
            try: read(f)
            except ImageError as e:
                refused += 1
                assert str(f) in str(e) and not any(s in str(e) for s in SECRETS), e
    assert refused > 20
    out = capsys.readouterr()
    heard = caplog.text + ' '.join(str(w.message) for w in recwarn) + out.out + out.err
    assert not any(s in heard for s in SECRETS)


def test_pydicom_is_asked_for_politely(tmp_path, monkeypatch):
    f = dicom(tmp_path/'x.dcm', np.zeros((4, 4), np.uint8))
    monkeypatch.setitem(sys.modules, 'pydicom', None)
    with pytest.raises(ImportError, match=r'pip install similarity_finder\[medical\]'): open_dicom(f)
    with pytest.raises(ImageError, match='similarity_finder'): open_image(f) # one file of many is skipped, with the reason


def test_a_stranger_among_images(tmp_path):
    "By content, whatever the extension; a png that is called dcm is no DICOM"
    px = np.arange(16, dtype=np.uint8).reshape(4, 4)
    dicom(tmp_path/'a.dcm', px).rename(tmp_path/'scan')
    Image.fromarray(px).save(tmp_path/'b.png')
    (tmp_path/'b.png').rename(tmp_path/'c.dcm')
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path/'scan'))[..., 0], px)
    with pytest.raises(ImageError): open_image(tmp_path/'c.dcm')
    assert image_files(tmp_path) == [tmp_path/'c.dcm', tmp_path/'scan']


@pytest.fixture(scope='module')
def hospital(tmp_path_factory, doodles):
    "A folder of DICOM files: 20 doodles, two a patient"
    folder = tmp_path_factory.mktemp('hospital')
    for n, f in enumerate(doodles[:40:2]): dicom(folder/f'Kind{n//10}_{n}.dcm', np.asarray(open_image(f)), 'RGB', patient=f'{ID}-{n//2}')
    assert all(s.encode() in next(folder.iterdir()).read_bytes() for s in SECRETS) # they are there to be found
    return folder


def test_no_name_in_a_saved_finder(hospital, tmp_path, caplog, capfd, recwarn):
    "Training, gallery, search, explanation, saving: every byte is read for the planted names"
    from similarity_finder.classifier import convnet
    from similarity_finder.finder import SimilarityFinder
    from similarity_finder.train import train_finder
    caplog.set_level(logging.DEBUG)
    files = image_files(hospital)
    (hospital/'Kind0_99.dcm').write_bytes(files[0].read_bytes()[:-300])
    files = image_files(hospital)
    trained = train_finder(files, arch=convnet, pretrained=False, size=32, epochs=1, siamese_epochs=1, num_workers=0)
    trained.finder.save(tmp_path/'finder', info=dict(measures=trained.measures))
    again = SimilarityFinder.load(tmp_path/'finder')
    found = again.search(files[0], k=3)
    assert len(found) == 3
    again.explain(files[0], found[0]).save(tmp_path/'why.png')
    found.save(tmp_path/'found.png')
    heard = caplog.text + ' '.join(str(w.message) for w in recwarn) + ''.join(capfd.readouterr())
    assert not any(s in heard for s in SECRETS)
    written = [f for f in tmp_path.rglob('*') if f.is_file()]
    assert len(written) > 5
    for f in written:
        content = f.read_bytes()
        for s in (*SECRETS, '19501231'): assert s.encode() not in content and s.encode('utf-16-le') not in content, f


def test_groups_by_patient(hospital):
    from similarity_finder.data import GroupSplitter, label_func
    files = usable_files(image_files(hospital), on_error='skip').files
    train, valid = GroupSplitter(patient_of, 0.3)(files)
    assert not {patient_of(files[i]) for i in train} & {patient_of(files[i]) for i in valid} and len(valid)
    train, valid = GroupSplitter(patient_of, 0.3, label_func)(files)
    assert not {patient_of(files[i]) for i in train} & {patient_of(files[i]) for i in valid}
    assert {label_func(files[i]) for i in valid} == {'Kind0', 'Kind1'}


def test_pictures_without_names(hospital, tmp_path):
    table = dicom_to_png(image_files(hospital), tmp_path/'out', salt='a secret', progress=False)
    good = table[table.reason == '']
    assert good.patient.nunique() == 10 and len(good) >= 20
    for f in (tmp_path/'out').rglob('*'):
        assert not any(s in str(f.relative_to(tmp_path)) for s in SECRETS)
        if f.is_file(): assert not any(s.encode() in f.read_bytes() for s in SECRETS)
    assert dicom_to_png(image_files(hospital), tmp_path/'again', salt='a secret', progress=False).patient.tolist() == table.patient.tolist()


@pytest.mark.parametrize('depth', [8, 10, 12, 14, 16])
def test_sixteen_bit_files(tmp_path, depth):
    "A PNG or TIFF of 16 bits whose numbers reach only so far"
    top = 2**depth-1
    px = np.array([[0, top//3, top]], dtype=np.uint16)
    for f in ('x.png', 'x.tif'):
        Image.fromarray(px).save(tmp_path/f)
        got = np.asarray(open_image(tmp_path/f))
        assert got[0, 0, 0] == 0 and got[0, 2, 0] == 255 and abs(int(got[0, 1, 0]) - 85) <= 1
