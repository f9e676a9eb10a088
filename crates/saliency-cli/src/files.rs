use std::{fs, io::Write, path::Path};

use tempfile::NamedTempFile;

use crate::error::Error;

/// Writes a file whole or not at all: beside `path` first, then renamed.
pub fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    let fail = |e: std::io::Error| Error::file(path, format!("cannot be written: {e}"));
    if path.is_dir() {
        return Err(Error::file(path, "cannot be written: it is a folder"));
    }
    let folder = parent(path);
    fs::create_dir_all(folder).map_err(fail)?;
    let mut file = NamedTempFile::new_in(folder).map_err(fail)?;
    file.write_all(content).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    make_readable(file.path());
    file.persist(path).map_err(|e| fail(e.error))?;
    Ok(())
}

/// Fails before long work when its result could not be written.
pub fn check_writable(path: &Path) -> Result<(), Error> {
    let folder = parent(path);
    fs::create_dir_all(folder)
        .and_then(|()| NamedTempFile::new_in(folder).map(drop))
        .map_err(|e| Error::file(path, format!("cannot be written: {e}")))
}

/// Makes a folder for results, and that files can be written into it.
pub fn folder(path: &Path) -> Result<(), Error> {
    if path.exists() && !path.is_dir() {
        return Err(Error::file(path, "is a file; --out needs a folder"));
    }
    check_writable(&path.join("x"))
        .map_err(|_| Error::file(path, "no file can be written into this folder"))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Temporary files are private to the user; results are as readable as any new file.
fn make_readable(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o644));
    }
    #[cfg(not(unix))]
    let _ = path;
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
