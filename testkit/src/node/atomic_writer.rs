//! Writes the files of a volume as the kubelet does.
//!
//! Input: a directory, and the files that it has to show.
//! Output: the directory with a symbolic link for each file, by way of the link `..data`.
//! Invariants: all files change at once, by the rename of one link. Without a change, nothing is
//! written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::volumes::File;

/// The link to the directory with the current files.
const DATA: &str = "..data";

/// Makes `folder` show exactly these files.
///
/// # Errors
/// If a file or a link cannot be written.
pub fn write(folder: &Path, files: &BTreeMap<String, File>) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let data = folder.join(DATA);
    let current = match fs::read_link(&data) {
        Ok(target) => Some(target),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if current.is_some() && is_current(&data, files) {
        return Ok(());
    }
    let new = tempfile::Builder::new()
        .prefix("..")
        .tempdir_in(folder)?
        .keep();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    for (name, file) in files {
        let path = new.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, &file.content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))?;
    }
    let target = new.file_name().ok_or(ErrorKind::InvalidFilename)?;
    let pending = folder.join("..data_tmp");
    symlink(target, &pending)?;
    fs::rename(&pending, &data)?;
    link_names(folder, files)?;
    match current {
        Some(old) => fs::remove_dir_all(folder.join(old)),
        None => Ok(()),
    }
}

/// Whether the files are there already, and no others.
fn is_current(data: &Path, files: &BTreeMap<String, File>) -> bool {
    let is_there = |(name, file): (&String, &File)| {
        let path = data.join(name);
        fs::read(&path).is_ok_and(|content| content == file.content)
    };
    files.iter().all(is_there) && shown(data).is_ok_and(|shown| shown == first_parts(files))
}

/// Links each name to its place below `..data`, and removes the links of files that are gone.
fn link_names(folder: &Path, files: &BTreeMap<String, File>) -> io::Result<()> {
    let wanted = first_parts(files);
    let present = shown(folder)?;
    for name in wanted.difference(&present) {
        symlink(Path::new(DATA).join(name), folder.join(name))?;
    }
    for name in present.difference(&wanted) {
        fs::remove_file(folder.join(name))?;
    }
    Ok(())
}

/// The names that a process sees in a directory.
fn shown(folder: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") {
            names.insert(name);
        }
    }
    Ok(names)
}

fn first_parts(files: &BTreeMap<String, File>) -> BTreeSet<String> {
    let names = files.keys();
    names
        .map(|name| name.split('/').next().unwrap_or(name).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(of: &[(&str, &str)]) -> BTreeMap<String, File> {
        let file = |(name, text): &(&str, &str)| {
            let content = text.as_bytes().to_vec();
            (
                (*name).to_owned(),
                File {
                    content,
                    mode: 0o600,
                },
            )
        };
        of.iter().map(file).collect()
    }

    #[test]
    fn files_change_at_once_and_only_if_they_differ() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        write(path, &files(&[("a", "1"), ("b/c", "2")])).unwrap();
        assert_eq!(fs::read_to_string(path.join("b/c")).unwrap(), "2");
        let mode = fs::metadata(path.join("a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let first = fs::read_link(path.join(DATA)).unwrap();
        write(path, &files(&[("a", "1"), ("b/c", "2")])).unwrap();
        assert_eq!(fs::read_link(path.join(DATA)).unwrap(), first);
        // An open file stays the old one.
        let mut open = fs::File::open(path.join("a")).unwrap();
        write(path, &files(&[("a", "3")])).unwrap();
        assert_eq!(fs::read_to_string(path.join("a")).unwrap(), "3");
        assert_eq!(io::read_to_string(&mut open).unwrap(), "1");
        assert_eq!(shown(path).unwrap(), BTreeSet::from(["a".to_owned()]));
        assert!(!path.join(first).exists());
        write(path, &BTreeMap::new()).unwrap();
        assert!(shown(path).unwrap().is_empty());
    }
}
