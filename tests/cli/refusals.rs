//! Bad pictures and bad options: one line that says what is wrong, and no file.

use super::{DEMO, Sandbox, fixture};

/// Runs a command with the demo model and `--out out`.
fn refused(sandbox: &Sandbox, code: i32, args: &[&str], parts: &[&str]) {
    sandbox.refuses(code, &[args, &DEMO, &["--out", "out"]].concat(), parts);
}

#[test]
fn pictures_that_are_none() {
    let sandbox = Sandbox::new();
    let decode = |name: &str| std::fs::read(fixture("preprocess/decode").join(name)).unwrap();
    sandbox.write("empty.png", "");
    sandbox.write("text.jpg", "hello");
    sandbox.write("page.png", "<!DOCTYPE html><html></html>");
    sandbox.write("paper.jpg", "%PDF-1.7\n");
    for (name, source) in [
        ("cut.png", "rgb.png"),
        ("cut.jpg", "420.jpg"),
        ("cut.webp", "lossy.webp"),
        ("cut.gif", "palette.gif"),
        ("cut.bmp", "rgb.bmp"),
        ("cut.tif", "rgb.tif"),
    ] {
        let bytes = decode(source);
        // The second half of the GIF is another frame.
        sandbox.write(name, &bytes[..bytes.len() * 2 / 5]);
    }
    sandbox.write("folder/notes.txt", "no picture");
    sandbox.write("called.png/notes.txt", "a folder");
    for (image, part) in [
        ("missing.png", "missing.png: no such file"),
        ("empty.png", "empty.png: is empty"),
        ("text.jpg", "text.jpg: is not a picture"),
        ("page.png", "page.png: is not a picture"),
        ("paper.jpg", "paper.jpg: cannot be decoded: it is a PDF"),
        ("cut.png", "cut.png: is truncated"),
        ("cut.jpg", "cut.jpg: is truncated"),
        ("cut.webp", "cut.webp: is truncated"),
        ("cut.gif", "cut.gif: is"),
        ("cut.bmp", "cut.bmp: is"),
        ("cut.tif", "cut.tif: is"),
        ("folder", "folder: this folder holds no pictures"),
        ("called.png", "called.png: this folder holds no pictures"),
    ] {
        refused(&sandbox, 1, &["explain", image], &[part]);
    }
    // Nothing is made or loaded for a picture that is not there.
    let missing = ["explain", "missing.png", "--out", "new"];
    sandbox.refuses(1, &missing, &["missing.png: no such file"]);
    assert!(!sandbox.path("new").exists());
    refused(&sandbox, 1, &["compare", "folder"], &["takes one image"]);
    for command in ["compare", "stats", "noise"] {
        refused(&sandbox, 1, &[command, "cut.png"], &["is truncated"]);
    }
    let sensitivity = [&["sensitivity", "cut.png"][..], &DEMO].concat();
    sandbox.refuses(1, &sensitivity, &["is truncated"]);
}

#[test]
#[cfg(unix)]
fn names_cannot_forge_lines() {
    let sandbox = Sandbox::with_scene();
    let name = "a\nerror: all is lost\u{1b}[31m.png";
    refused(&sandbox, 1, &["explain", name], &["no such file"]);
    refused(
        &sandbox,
        1,
        &["explain", "scene.png", "--recipe", name],
        &["No such file"],
    );
    refused(
        &sandbox,
        2,
        &["explain", "scene.png", "--reduce", name],
        &["no reduction"],
    );
}

/// CRC-32 as PNG has it.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc: u32, _| match crc & 1 {
            1 => crc >> 1 ^ 0xedb8_8320,
            _ => crc >> 1,
        })
    })
}

#[test]
fn pictures_that_claim_to_be_huge() {
    let sandbox = Sandbox::new();
    let side = 60_000_u32;
    let mut header = b"IHDR".to_vec();
    header.extend([side.to_be_bytes(), side.to_be_bytes()].concat());
    header.extend([8, 2, 0, 0, 0]);
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    png.extend(&header);
    png.extend(crc(&header).to_be_bytes());
    png.extend(b"\0\0\0\x01IDAT\0");
    let mut bmp = vec![0; 54];
    bmp[..2].copy_from_slice(b"BM");
    bmp[10] = 54;
    bmp[14] = 40;
    bmp[18..22].copy_from_slice(&side.to_le_bytes());
    bmp[22..26].copy_from_slice(&side.to_le_bytes());
    bmp[26] = 1;
    bmp[28] = 24;
    sandbox.write("huge.png", png);
    sandbox.write("huge.bmp", bmp);
    sandbox.write("huge.ppm", "P6 60000 60000 255\n");
    let mut gif = b"GIF89a\xff\xff\xff\xff\x80\0\0\0\0\0\xff\xff\xff".to_vec();
    gif.extend(b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02\x4c\x01\0;");
    sandbox.write("huge.gif", gif);
    for image in ["huge.png", "huge.bmp", "huge.ppm", "huge.gif"] {
        refused(&sandbox, 1, &["explain", image], &[image, "is too large"]);
    }
}

#[test]
fn options_that_make_no_sense() {
    let sandbox = Sandbox::with_scene();
    let smooth = ["--method", "smoothgrad"];
    for (args, parts) in [
        (
            &["--method", "gradcam"][..],
            &["no method \"gradcam\"", "vargrad"][..],
        ),
        (
            &["--method", "smoothgrad", "--of", "gradcam"],
            &["no method \"gradcam\""],
        ),
        (
            &["--method", "smoothgrad", "--option", "design=halton"],
            &["expected one of `independent`, `antithetic`, `latin_hypercube`, `sobol`"],
        ),
        (
            &["--method", "vargrad", "--option", "design=sobol"],
            &["design = sobol", "independent"],
        ),
        (
            &["--of", "input-x-gradient"],
            &["gradient has no option \"of\""],
        ),
        (
            &["--method", "grad-cam", "--layer", "layer9"],
            &["no layer \"layer9\"", "did you mean"],
        ),
        (
            &["--method", "grad-cam", "--option", "relu"],
            &["NAME=VALUE"],
        ),
        (
            &["--reduce", "median"],
            &["no reduction \"median\"", "positive_only, or all"],
        ),
        (&["--target", "12"], &["no class 12", "0 to 11"]),
        (&["--target", "-1"], &["-1"]),
        (
            &["--target", "99999999999999999999"],
            &["99999999999999999999"],
        ),
        (
            &["--target", "hart"],
            &["no class is called 'hart'", "heart (6)"],
        ),
        (&["--target", "top:0"], &["top:0", "at least 1"]),
        (&["--target", "top:13"], &["top:13", "12 classes"]),
        (&["--target", "top:many"], &["top:many"]),
        (&["--target", ""], &["predicted"]),
        (&["--samples", "5"], &["gradient has no option \"samples\""]),
        (&[smooth[0], smooth[1], "--samples", "0"], &["samples = 0"]),
        (&["--samples", "many"], &["--samples", "many"]),
        (
            &[smooth[0], smooth[1], "--noise", "-1"],
            &["noise = -1", "at least 0"],
        ),
        (&[smooth[0], smooth[1], "--noise", "nan"], &["noise = NaN"]),
        (&["--seed", "-1"], &["-1"]),
        (&["--batch", "0"], &["--batch", "1..=65536"]),
        (&["--save", "jsn"], &["jsn", "possible values", "'json'"]),
        (&["--preprocess", "zoom"], &["zoom", "stretch"]),
        (&["--weights", "x.pth"], &["demo", "leave out --weights"]),
        (
            &["--recipe", "r.json", smooth[0], smooth[1]],
            &["--recipe", "cannot be used with"],
        ),
        (&["--colour"], &["unexpected argument '--colour'"]),
    ] {
        refused(
            &sandbox,
            2,
            &[&["explain", "scene.png"], args].concat(),
            parts,
        );
    }
    refused(&sandbox, 2, &["explain"], &["required", "<IMAGE>"]);
    refused(
        &sandbox,
        2,
        &["noise", "scene.png", "--levels", "0.1,x"],
        &["--levels", "'x'"],
    );
    refused(
        &sandbox,
        2,
        &["noise", "scene.png", "--levels", "-0.1"],
        &["-0.1", "at least 0"],
    );
    refused(
        &sandbox,
        2,
        &["noise", "scene.png", "--samples", "0"],
        &["--samples"],
    );
    refused(
        &sandbox,
        2,
        &["noise", "scene.png", "--target", "top:2"],
        &["give one class"],
    );
    for classes in ["top:0", "top:13", "top:x", "12", "heart,hart", ""] {
        let args = ["compare", "scene.png", "--classes", classes];
        refused(&sandbox, 2, &args, &[""]);
    }
    let sensitivity = |option: &[&str], part: &str| {
        let args = [&["sensitivity", "scene.png"][..], &DEMO, option].concat();
        sandbox.refuses(2, &args, &[part]);
    };
    sensitivity(&["--scale", "-1"], "noise = -1");
    sensitivity(&["--target", "top:2"], "give one class");
    sandbox.refuses(2, &["explian", "scene.png"], &["'explian'", "'explain'"]);
    sandbox.refuses(2, &["completions", "csh"], &["csh", "zsh"]);
    sandbox.refuses(2, &["demo", "--scenes", "0", "--out", "out"], &["--scenes"]);
}

#[test]
fn a_wrong_target_is_said_once_for_many_pictures() {
    let sandbox = Sandbox::with_scene();
    sandbox.scene("other.png", 1);
    for command in ["explain", "stats"] {
        for target in ["12", "hart", "top:13"] {
            let args = [command, "scene.png", "other.png", "--target", target];
            refused(&sandbox, 2, &args, &[target]);
        }
    }
}

#[test]
fn devices_that_are_not_there() {
    let sandbox = Sandbox::with_scene();
    for (device, code, part) in [
        ("gpu", 2, "no device \"gpu\""),
        ("cpu:1", 2, "no device \"cpu:1\""),
        ("wgpu:first", 2, "\"first\" is not a number"),
        ("wgpu:99", 1, "device \"wgpu:99\" is not usable"),
    ] {
        let args = ["explain", "scene.png", "--model", "demo", "--out", "out"];
        sandbox.refuses(code, &[&args[..], &["--device", device]].concat(), &[part]);
        sandbox.refuses(code, &["demo", "--out", "out", "--device", device], &[part]);
    }
}

#[test]
fn recipes_that_are_none() {
    let sandbox = Sandbox::with_scene();
    sandbox.write("folder/x", "");
    for (recipe, part) in [
        ("", "EOF"),
        ("method: gradient", "expected value at line 1 column 1"),
        ("[]", "not a recipe"),
        (r#"{"method": "gradcam"}"#, "unknown variant `gradcam`"),
        (r#"{"method": "smoothgrad", "samples": -1}"#, "not a recipe"),
    ] {
        sandbox.write("recipe.json", recipe);
        let args = ["explain", "scene.png", "--recipe", "recipe.json"];
        refused(&sandbox, 1, &args, &["recipe.json: ", part]);
    }
    for (recipe, part) in [
        (r#"{"method": "smoothgrad", "samples": 0}"#, "samples = 0"),
        (
            r#"{"method": "smoothgrad", "noise": {"relative": -1}}"#,
            "noise = -1",
        ),
        (r#"{"method": "other", "name": "mine"}"#, "method = mine"),
    ] {
        sandbox.write("recipe.json", recipe);
        let args = ["explain", "scene.png", "--recipe", "recipe.json"];
        refused(&sandbox, 2, &args, &[part]);
    }
    for name in ["missing.json", "folder"] {
        let args = ["explain", "scene.png", "--recipe", name];
        refused(&sandbox, 1, &args, &[&format!("{name}: ")]);
    }
}

#[test]
fn class_names_that_do_not_fit() {
    let sandbox = Sandbox::with_scene();
    sandbox.write("two.txt", "good\nbad\n");
    sandbox.write("gap.txt", "good\n\nbad\n");
    for (labels, part) in [
        (
            "two.txt",
            "has 2 class names, but the network has 12 classes",
        ),
        ("gap.txt", "line 2 has no class name"),
        ("missing.txt", "cannot read class names"),
    ] {
        let args = ["explain", "scene.png", "--labels", labels];
        refused(&sandbox, 2, &args, &[labels, part]);
    }
}
