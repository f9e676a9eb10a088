use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use saliency_models::photo::RgbImage;
use saliency_viz::encode_png;
use tempfile::NamedTempFile;

use serde::Serialize;

use crate::{
    args::{Format, OutputArgs},
    error::Error,
    report,
};

/// A report that lists the files that were written for it.
pub trait Listing: Serialize {
    fn set_files(&mut self, files: Vec<PathBuf>);
}

/// The files that one result is written to: `OUT/STEM` and a suffix for each.
pub struct Results<'a> {
    out: &'a Path,
    stem: &'a str,
    /// What has been written.
    files: Vec<PathBuf>,
}

impl<'a> Results<'a> {
    pub fn new(out: &'a Path, stem: &'a str) -> Self {
        Results {
            out,
            stem,
            files: Vec::new(),
        }
    }

    pub fn png(&mut self, suffix: &str, picture: &RgbImage) -> Result<(), Error> {
        self.bytes(suffix, &encode_png(picture)?)
    }

    pub fn bytes(&mut self, suffix: &str, content: &[u8]) -> Result<(), Error> {
        let path = self.out.join(format!("{}{suffix}", self.stem));
        write(&path, content)?;
        self.files.push(path);
        Ok(())
    }
}

impl Results<'_> {
    /// Gives the report its list of files, and writes it as JSON where that was asked for.
    pub fn finish(
        mut self,
        report: &mut impl Listing,
        suffix: &str,
        save: &[Format],
    ) -> Result<(), Error> {
        if !save.contains(&Format::Json) {
            report.set_files(self.files);
            return Ok(());
        }
        let path = self.out.join(format!("{}{suffix}", self.stem));
        self.files.push(path.clone());
        report.set_files(self.files);
        write(&path, report::to_json(report)?.as_bytes())
    }
}

/// A text file of at most a mebibyte.
pub fn read_text(path: &Path) -> Result<String, Error> {
    const MOST: u64 = 1 << 20;
    let mut text = String::new();
    let file = fs::File::open(path).map_err(|e| Error::file(path, e))?;
    let read = file.take(MOST + 1).read_to_string(&mut text);
    match read.map_err(|e| Error::file(path, e))? as u64 {
        0..=MOST => Ok(text),
        _ => Err(Error::file(
            path,
            "larger than 1 MiB, so it is not a recipe",
        )),
    }
}

/// A label as part of a file name. Different labels may come to the same.
pub fn slug(label: &str) -> String {
    label
        .to_lowercase()
        .chars()
        .map(|c| if c.is_alphanumeric() { c } else { '-' })
        .take(40)
        .collect()
}

/// Writes a file whole or not at all: beside `path` first, then renamed.
pub fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    let fail = |e: std::io::Error| Error::file(path, format!("cannot be written: {e}"));
    if path.is_dir() {
        return Err(Error::file(path, "cannot be written: it is a folder"));
    }
    let folder = parent(path);
    fs::create_dir_all(folder).map_err(fail)?;
    let mut file = temporary(folder).map_err(fail)?;
    file.write_all(content).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    file.persist(path).map_err(|e| fail(e.error))?;
    Ok(())
}

/// Fails before long work when its result could not be written.
pub fn check_writable(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Err(Error::file(path, "cannot be written: it is a folder"));
    }
    let folder = parent(path);
    fs::create_dir_all(folder)
        .and_then(|()| temporary(folder).map(drop))
        .map_err(|e| Error::file(path, format!("cannot be written: {e}")))
}

/// Makes a folder for results, and that files can be written into it.
pub fn folder(path: &Path) -> Result<(), Error> {
    if path.exists() && !path.is_dir() {
        return Err(Error::file(path, "is a file; --out needs a folder"));
    }
    fs::create_dir_all(path)
        .and_then(|()| temporary(path).map(drop))
        .map_err(|e| Error::file(path, format!("no file can be written into it: {e}")))
}

/// Makes the folder for what a command was asked to write of images, if that is anything.
pub fn prepare(output: &OutputArgs) -> Result<(), Error> {
    if output.save.contains(&Format::Csv) {
        return Err(Error::Usage(
            "--save csv is for rows and series (--data); images are saved as png, json, npy or safetensors".into(),
        ));
    }
    prepare_rows(output)
}

/// Makes the folder for what a command was asked to write of rows, if that is anything.
pub fn prepare_rows(output: &OutputArgs) -> Result<(), Error> {
    match output.save.iter().any(|format| *format != Format::None) {
        true => folder(&output.out),
        false => Ok(()),
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A temporary file in `folder` with the permissions of any new file.
fn temporary(folder: &Path) -> std::io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_behind_by_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("taken");
        fs::create_dir(&target).unwrap();
        assert!(
            write(&target, b"x")
                .unwrap_err()
                .to_string()
                .contains("taken")
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let file = folder.path().join("new/deep.txt");
        write(&file, b"one").unwrap();
        write(&file, b"two").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert!(super::folder(&file).is_err());
    }
}
