"""Reference values for image decoding and preprocessing, from Pillow and torchvision.

    python tests/reference/preprocess.py                 # the committed synthetic set
    python tests/reference/preprocess.py PHOTOS OUT      # every picture in PHOTOS, into OUT

The first form writes `crates/saliency-models/tests-data/preprocess/`:

    decode/NAME.EXT      a small picture in one of the supported formats
    decode/NAME.EXT.png  what `ImageOps.exif_transpose(Image.open(f)).convert("RGB")` makes of it
    resize/CASE.png      `torchvision.transforms` applied to `decode/rgb.png`; the case's name is
                         `stretch_WxH` or `side_S_crop_C`

The second writes, for each picture, `NAME.stretch.png` (224x224), `NAME.crop.png` (256, then a
centre crop of 224), `NAME.caffe.png` (227x227), `NAME.up.png` (the 224x224 one enlarged to
448x300) and, for JPEGs, `NAME.full.png` (as decoded).
"""

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torchvision.transforms import CenterCrop, Compose, Resize

HERE = Path(__file__).resolve().parents[2] / "crates/saliency-models/tests-data/preprocess"
WIDTH, HEIGHT = 61, 47
STRETCH = [(32, 20), (120, 17), (19, 90), (61, 20), (30, 47), (97, 83), (61, 47), (1, 1), (224, 5)]
CROP = [(32, 24), (47, 47), (40, 31), (70, 64), (90, 1)]


def scene(width: int, height: int) -> np.ndarray:
    """Ramps, two discs, stripes and a little noise, as [H, W, 3] uint8."""
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    image = np.stack([255 * x, 255 * y * 1.2, 128 + 100 * np.sin(9 * x + 5 * y)], axis=-1)
    image[(x - 0.3) ** 2 + (y - 0.4) ** 2 < 0.03] = (230, 40, 30)
    image[(x - 0.75) ** 2 + (y - 0.3) ** 2 < 0.02] = (20, 90, 220)
    image[(y > 0.6) & (np.floor(x * 24) % 2 == 0)] = (250, 240, 200)
    image += np.random.default_rng(0).normal(0, 4, image.shape)
    return image.clip(0, 255).astype(np.uint8)


def png16(samples: np.ndarray) -> bytes:
    """A 16-bit PNG of [H, W] (grey), [H, W, 2] (grey + alpha) or [H, W, 3] (RGB) samples."""
    height, width = samples.shape[:2]
    colour = {1: 0, 2: 4, 3: 2}[1 if samples.ndim == 2 else samples.shape[2]]
    raw = samples.astype(">u2").reshape(height, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in raw)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )


def to_rgb(path: Path) -> Image.Image:
    image = Image.open(path)
    if image.mode.startswith("I"):
        # Pillow clips 16-bit grey at 255, so nearly every picture turns white. The high byte, as
        # Pillow itself takes it for 16-bit RGB and for 16-bit grey with alpha, is used here.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return ImageOps.exif_transpose(image).convert("RGB")


def synthetic() -> None:
    decode, resize = HERE / "decode", HERE / "resize"
    decode.mkdir(parents=True, exist_ok=True)
    resize.mkdir(parents=True, exist_ok=True)
    pixels = scene(WIDTH, HEIGHT)
    rgb, grey = Image.fromarray(pixels), Image.fromarray(pixels).convert("L")
    alpha = Image.fromarray(np.linspace(0, 255, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint8))
    rgba, grey_alpha = rgb.copy(), grey.copy().convert("LA")
    rgba.putalpha(alpha)
    grey_alpha.putalpha(alpha)
    palette = rgb.quantize(16)
    wide = pixels.astype(np.uint16) * 257 - 100 * (pixels > 100)

    rgb.save(decode / "420.jpg", quality=85, subsampling="4:2:0")
    rgb.save(decode / "422.jpg", quality=85, subsampling="4:2:2", restart_marker_blocks=3)
    rgb.save(decode / "444.jpg", quality=85, subsampling="4:4:4")
    rgb.save(decode / "progressive.jpg", quality=85, progressive=True)
    grey.save(decode / "grey.jpg", quality=85)
    rgb.convert("CMYK").save(decode / "cmyk.jpg", quality=90)
    # The same file read as YCCK: the colour transform is the last byte of Adobe's segment.
    ycck = bytearray((decode / "cmyk.jpg").read_bytes())
    ycck[ycck.index(b"Adobe") + 11] = 2
    (decode / "ycck.jpg").write_bytes(ycck)
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        rgb.resize((24, 16)).save(decode / f"exif{orientation}.jpg", quality=90, exif=exif, subsampling=0)
    rgb.save(decode / "rgb.png", optimize=True)
    rgba.save(decode / "rgba.png", optimize=True)
    grey.save(decode / "grey.png", optimize=True)
    grey_alpha.save(decode / "grey_alpha.png", optimize=True)
    palette.save(decode / "palette.png", optimize=True)
    palette.save(decode / "palette_transparent.png", optimize=True, transparency=3)
    grey.convert("1").save(decode / "bilevel.png", optimize=True)
    (decode / "rgb16.png").write_bytes(png16(wide))
    (decode / "grey16.png").write_bytes(png16(wide[..., 0]))
    (decode / "grey_alpha16.png").write_bytes(png16(wide[..., :2]))
    rgb.save(decode / "lossy.webp", quality=80)
    rgba.save(decode / "lossless.webp", lossless=True, exact=True)
    rgb.save(decode / "rgb.bmp")
    palette.save(decode / "palette.bmp")
    palette.save(decode / "palette.gif", save_all=True, append_images=[palette.rotate(180)])
    rgb.save(decode / "rgb.tif", compression="tiff_lzw")
    rgb.save(decode / "rgb.ppm")
    grey.save(decode / "grey.pgm")
    (decode / "grey_max15.pgm").write_bytes(b"P5\n61 47\n15\n" + (np.asarray(grey) // 16).tobytes())

    for path in sorted(decode.iterdir()):
        if not (path.suffix == ".png" and Path(path.stem).suffix):
            to_rgb(path).save(decode / (path.name + ".png"), optimize=True)

    for width, height in STRETCH:
        Resize((height, width))(rgb).save(resize / f"stretch_{width}x{height}.png", optimize=True)
    for side, crop in CROP:
        cropped = Compose([Resize(side), CenterCrop(crop)])(rgb)
        cropped.save(resize / f"side_{side}_crop_{crop}.png", optimize=True)


def photographs(folder: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in {".jpg", ".jpeg", ".png", ".bmp"}:
            continue
        image = to_rgb(path)
        stretched = Resize((224, 224))(image)
        stretched.save(out / f"{path.name}.stretch.png")
        Compose([Resize(256), CenterCrop(224)])(image).save(out / f"{path.name}.crop.png")
        Resize((227, 227))(image).save(out / f"{path.name}.caffe.png")
        Resize((300, 448))(stretched).save(out / f"{path.name}.up.png")
        if path.suffix.lower() in {".jpg", ".jpeg"}:
            image.save(out / f"{path.name}.full.png")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        synthetic()
    elif len(sys.argv) == 3:
        photographs(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        sys.exit(__doc__)
