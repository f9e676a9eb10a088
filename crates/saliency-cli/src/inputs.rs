use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use saliency_models::photo::{Limits, PhotoError, PhotoProblem, RgbImage, open};

use crate::error::Error;

const EXTENSIONS: [&str; 15] = [
    "png", "jpg", "jpeg", "jpe", "jfif", "bmp", "gif", "webp", "tif", "tiff", "ppm", "pgm", "pbm",
    "pnm", "dib",
];

/// One picture to explain: where it is, and the name that its results go by.
pub struct Input {
    pub path: PathBuf,
    pub name: String,
}

impl Input {
    pub fn photo(&self) -> Result<RgbImage, Error> {
        Ok(open(&self.path, Limits::default())?.rgb)
    }
}

/// The given files, and the pictures of the given folders, each with a distinct name.
pub fn collect(paths: &[PathBuf]) -> Result<Vec<Input>, Error> {
    let mut files = Vec::new();
    for path in paths {
        match path.is_dir() {
            true => files.extend(pictures(path)?),
            false => files.push(path.clone()),
        }
    }
    // Said before a network is loaded and a folder made.
    if let [only] = files.as_slice()
        && !only.exists()
    {
        return Err(Error::Photo(PhotoError {
            name: only.clone(),
            problem: PhotoProblem::Missing,
        }));
    }
    let mut taken = HashSet::new();
    Ok(files
        .into_iter()
        .map(|path| {
            let stem = path.file_stem().unwrap_or(path.as_os_str());
            let stem = stem.to_string_lossy().into_owned();
            let mut name = stem.clone();
            let mut copy = 2;
            while !taken.insert(name.to_lowercase()) {
                name = format!("{stem}-{copy}");
                copy += 1;
            }
            Input { path, name }
        })
        .collect())
}

fn pictures(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(folder).map_err(|e| Error::file(folder, e))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let extension = path.extension().unwrap_or_default().to_string_lossy();
            EXTENSIONS.contains(&extension.to_lowercase().as_str()) && path.is_file()
        })
        .collect();
    files.sort();
    match files.is_empty() {
        true => Err(Error::file(folder, "this folder holds no pictures")),
        false => Ok(files),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_are_told_apart() {
        let paths = ["a/x.jpg", "b/x.png", "b/X.bmp", "y.jpg"].map(PathBuf::from);
        let names: Vec<String> = collect(&paths)
            .unwrap()
            .into_iter()
            .map(|i| i.name)
            .collect();
        assert_eq!(names, ["x", "x-2", "X-3", "y"]);
    }
}
