//! Where a model's files come from: a directory, or bytes built into the program.
//!
//! Small files are read whole; weight files are mapped, so that they take memory only as they are
//! used and are shared between processes. Names are relative, with `/`, and never leave the model.

use std::borrow::Cow;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use crate::ops::HostBytes;
use crate::types::{Error, Result};

/// A model that is part of the program.
#[derive(Debug)]
pub struct Embedded {
    /// What messages call it.
    pub name: &'static str,
    /// File names, as they would be in a directory, with their contents.
    pub files: &'static [(&'static str, &'static [u8])],
}

/// The files of one model.
#[derive(Clone, Debug)]
pub enum ModelFiles {
    /// A directory in the layout of Hugging Face checkpoints.
    Directory(PathBuf),
    /// Bytes built into the program.
    Embedded(&'static Embedded),
}

impl ModelFiles {
    /// What messages call the model: its directory, or its built-in name.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Self::Directory(path) => path.display().to_string(),
            Self::Embedded(embedded) => embedded.name.to_owned(),
        }
    }

    /// What messages call one of its files.
    #[must_use]
    pub fn label_of(&self, name: &str) -> String {
        match self {
            Self::Directory(path) => path.join(name).display().to_string(),
            Self::Embedded(embedded) => format!("{}/{name}", embedded.name),
        }
    }

    /// The content of the file `name`, or `None` when there is none.
    pub fn read(&self, name: &str) -> Result<Option<Cow<'_, [u8]>>> {
        self.check_name(name)?;
        match self {
            Self::Directory(path) => match std::fs::read(path.join(name)) {
                Ok(bytes) => Ok(Some(Cow::Owned(bytes))),
                Err(error) => self.absent_or_error(name, &error),
            },
            Self::Embedded(embedded) => Ok(embedded.find(name).map(Cow::Borrowed)),
        }
    }

    /// The size of the file `name` in bytes, or `None` when there is none.
    pub fn num_bytes(&self, name: &str) -> Result<Option<u64>> {
        self.check_name(name)?;
        match self {
            Self::Directory(path) => match std::fs::metadata(path.join(name)) {
                Ok(metadata) => Ok(Some(metadata.len())),
                Err(error) => self.absent_or_error(name, &error),
            },
            Self::Embedded(embedded) => Ok(embedded.find(name).map(|bytes| bytes.len() as u64)),
        }
    }

    /// Maps the file `name`, which must exist.
    pub fn map(&self, name: &str) -> Result<HostBytes> {
        self.check_name(name)?;
        match self {
            Self::Directory(path) => File::open(path.join(name))
                .and_then(|file| HostBytes::map(&file))
                .map_err(|error| self.error(name, error.to_string())),
            Self::Embedded(embedded) => embedded
                .find(name)
                .map(HostBytes::Static)
                .ok_or_else(|| self.error(name, "there is no such file".into())),
        }
    }

    /// An error about the file `name`.
    pub(crate) fn error(&self, name: &str, message: String) -> Error {
        Error::ModelFile { file: self.label_of(name), message }
    }

    fn absent_or_error<T>(&self, name: &str, error: &std::io::Error) -> Result<Option<T>> {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Ok(None),
            _ => Err(self.error(name, error.to_string())),
        }
    }

    /// Names come from the model's own files too, so they must not reach outside.
    fn check_name(&self, name: &str) -> Result<()> {
        let stays = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        if stays && !name.is_empty() {
            return Ok(());
        }
        Err(Error::ModelFile {
            file: self.label(),
            message: format!("`{name}` is not a name of a file inside the model"),
        })
    }
}

impl Embedded {
    fn find(&self, name: &str) -> Option<&'static [u8]> {
        self.files.iter().find(|(file, _)| *file == name).map(|(_, bytes)| *bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static EMBEDDED: Embedded = Embedded {
        name: "tiny",
        files: &[("config.json", b"{}"), ("1_Pooling/config.json", b"[]")],
    };

    #[test]
    fn embedded_files_are_found_by_name() {
        let files = ModelFiles::Embedded(&EMBEDDED);
        assert_eq!(files.read("config.json").unwrap().unwrap().as_ref(), b"{}");
        assert_eq!(files.num_bytes("1_Pooling/config.json").unwrap(), Some(2));
        assert!(files.read("tokenizer.json").unwrap().is_none());
        let error = files.map("model.safetensors").unwrap_err().to_string();
        assert_eq!(error, "tiny/model.safetensors: there is no such file");
    }

    #[test]
    fn a_missing_directory_has_no_files() {
        let files = ModelFiles::Directory("/nonexistent/model".into());
        assert!(files.read("config.json").unwrap().is_none());
        assert!(files.map("config.json").is_err());
    }

    #[test]
    fn names_stay_inside_the_model() {
        let files = ModelFiles::Directory("/tmp".into());
        for name in ["../etc/passwd", "/etc/passwd", "", "a/../../b"] {
            let error = files.read(name).unwrap_err().to_string();
            assert!(error.contains("not a name of a file inside"), "{name}: {error}");
        }
    }
}
