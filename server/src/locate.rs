//! Finds the directory of the model that the command line names. Folio downloads nothing.
//!
//! A model is a directory, or `organisation/name` as the Hugging Face hub calls it, found in the
//! local cache where the hub's own tools put what they download. Which directories to look in
//! comes as an argument: the environment is read in the arguments file only.

use std::path::{Path, PathBuf};

/// Where the hub's cache may be, from the environment variables of the hub's own tools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HubCache {
    /// `HF_HUB_CACHE`: the cache itself.
    pub hub_cache: Option<PathBuf>,
    /// `HF_HOME`: the cache is in `hub` under it.
    pub hf_home: Option<PathBuf>,
    /// `XDG_CACHE_HOME`: the cache is in `huggingface/hub` under it.
    pub cache_home: Option<PathBuf>,
    /// `HOME`: the cache is in `.cache/huggingface/hub` under it.
    pub home: Option<PathBuf>,
}

/// Why there is no directory for a model's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LocateError {
    /// The name is that of a GGUF file.
    #[error(
        "--model {0}: GGUF files are not supported yet; give a directory with config.json, \
         tokenizer.json and *.safetensors"
    )]
    Gguf(String),
    /// The name is that of some other file.
    #[error("--model {0} is a file; give the directory it is in")]
    File(String),
    /// The name is no directory and cannot be a name on the hub.
    #[error("--model {0}: no such directory (and not a hub id of the form organisation/name)")]
    Missing(String),
    /// The name may be one on the hub, but the cache does not have it.
    #[error(
        "--model {id}: no such directory, and not in the Hugging Face cache ({}). Folio downloads \
         nothing: run `hf download {id}` first, or give a directory",
        place(.cache.as_ref())
    )]
    NotCached {
        /// The model's name.
        id: String,
        /// Where it was looked for.
        cache: Option<PathBuf>,
    },
    /// The cache has the model, but not a snapshot that could be meant.
    #[error(
        "--model {id}: {} has no complete snapshot of the branch `main`; run `hf download {id}` \
         again, or give the directory of a snapshot",
        .directory.display()
    )]
    NoSnapshot {
        /// The model's name.
        id: String,
        /// The model's directory in the cache.
        directory: PathBuf,
    },
}

fn place(cache: Option<&PathBuf>) -> String {
    cache.map_or_else(|| "its place is unknown".to_owned(), |path| path.display().to_string())
}

impl HubCache {
    /// The cache's directory: the first that is told, in the order of the fields.
    pub fn directory(&self) -> Option<PathBuf> {
        let under = |base: &Option<PathBuf>, path: &str| base.as_ref().map(|base| base.join(path));
        self.hub_cache
            .clone()
            .or_else(|| under(&self.hf_home, "hub"))
            .or_else(|| under(&self.cache_home, "huggingface/hub"))
            .or_else(|| under(&self.home, ".cache/huggingface/hub"))
    }
}

/// The directory with the files of `model`, a path or a name on the hub. A directory wins.
///
/// # Errors
/// [`LocateError`], which says what to do.
pub fn locate(model: &str, cache: &HubCache) -> Result<PathBuf, LocateError> {
    let path = Path::new(model);
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
        return Err(LocateError::Gguf(model.to_owned()));
    }
    if path.is_file() {
        return Err(LocateError::File(model.to_owned()));
    }
    if !is_hub_id(model) {
        return Err(LocateError::Missing(model.to_owned()));
    }
    let cache = cache.directory();
    let directory =
        cache.as_ref().map(|cache| cache.join(format!("models--{}", model.replace('/', "--"))));
    match directory {
        Some(directory) if directory.is_dir() => snapshot(&directory).ok_or_else(|| {
            LocateError::NoSnapshot { id: model.to_owned(), directory: directory.clone() }
        }),
        _ => Err(LocateError::NotCached { id: model.to_owned(), cache }),
    }
}

/// Whether `model` has the form `organisation/name`.
fn is_hub_id(model: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with(['.', '-'])
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    model.split_once('/').is_some_and(|(organisation, name)| is_part(organisation) && is_part(name))
}

/// The snapshot that the branch `main` points to, else the only one there is.
fn snapshot(directory: &Path) -> Option<PathBuf> {
    let snapshots = directory.join("snapshots");
    if let Ok(revision) = std::fs::read_to_string(directory.join("refs/main")) {
        let revision = revision.trim();
        let is_plain = !revision.is_empty() && revision.chars().all(|c| c.is_ascii_alphanumeric());
        let snapshot = snapshots.join(revision);
        return (is_plain && snapshot.join("config.json").exists()).then_some(snapshot);
    }
    let mut complete = std::fs::read_dir(&snapshots)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("config.json").exists());
    let snapshot = complete.next()?;
    complete.next().is_none().then_some(snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache directory of its own for a test, removed with it.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(test: &str) -> Self {
            let name = format!("folio-locate-{test}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn cache(&self) -> HubCache {
            HubCache { hub_cache: Some(self.0.clone()), ..HubCache::default() }
        }

        /// Adds a snapshot with a configuration.
        fn add(&self, model: &str, revision: &str) -> PathBuf {
            let snapshot = self.0.join(model).join("snapshots").join(revision);
            std::fs::create_dir_all(&snapshot).unwrap();
            std::fs::write(snapshot.join("config.json"), "{}").unwrap();
            snapshot
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_directory_is_taken_as_it_is() {
        let scratch = Scratch::new("directory");
        let path = scratch.0.to_str().unwrap();
        assert_eq!(locate(path, &HubCache::default()), Ok(scratch.0.clone()));
    }

    #[test]
    fn a_hub_id_is_found_by_its_main_branch() {
        let scratch = Scratch::new("main");
        let old = scratch.add("models--org--name", "aaa");
        let main = scratch.add("models--org--name", "bbb");
        let refs = scratch.0.join("models--org--name/refs");
        std::fs::create_dir_all(&refs).unwrap();
        std::fs::write(refs.join("main"), "bbb\n").unwrap();
        assert_eq!(locate("org/name", &scratch.cache()), Ok(main));
        std::fs::write(refs.join("main"), "aaa").unwrap();
        assert_eq!(locate("org/name", &scratch.cache()), Ok(old));
        std::fs::write(refs.join("main"), "ccc").unwrap();
        let error = locate("org/name", &scratch.cache()).unwrap_err();
        assert!(matches!(error, LocateError::NoSnapshot { .. }), "{error}");
    }

    #[test]
    fn without_a_branch_the_only_snapshot_counts() {
        let scratch = Scratch::new("only");
        let only = scratch.add("models--org--name", "aaa");
        assert_eq!(locate("org/name", &scratch.cache()), Ok(only));
        scratch.add("models--org--name", "bbb");
        let error = locate("org/name", &scratch.cache()).unwrap_err();
        assert!(error.to_string().contains("hf download org/name"), "{error}");
    }

    #[test]
    fn what_is_not_there_is_explained() {
        let scratch = Scratch::new("missing");
        let error = |model: &str| locate(model, &scratch.cache()).unwrap_err().to_string();
        let text = error("org/name");
        assert!(text.contains("Folio downloads nothing"), "{text}");
        assert!(text.contains(scratch.0.to_str().unwrap()), "{text}");
        assert!(error("/no/such/place").contains("no such directory"));
        assert!(error("org/../name").contains("no such directory"));
        assert!(error("models/some.Q4_K.gguf").contains("not supported yet"));
        let file = scratch.0.join("model.safetensors");
        std::fs::write(&file, "").unwrap();
        assert!(error(file.to_str().unwrap()).contains("the directory it is in"));
    }

    #[test]
    fn the_cache_is_where_the_hubs_tools_put_it() {
        let path = |text: &str| Some(PathBuf::from(text));
        let mut cache = HubCache {
            hub_cache: path("/a"),
            hf_home: path("/b"),
            cache_home: path("/c"),
            home: path("/d"),
        };
        assert_eq!(cache.directory(), path("/a"));
        cache.hub_cache = None;
        assert_eq!(cache.directory(), path("/b/hub"));
        cache.hf_home = None;
        assert_eq!(cache.directory(), path("/c/huggingface/hub"));
        cache.cache_home = None;
        assert_eq!(cache.directory(), path("/d/.cache/huggingface/hub"));
        cache.home = None;
        assert_eq!(cache.directory(), None);
    }
}
