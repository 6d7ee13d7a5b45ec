//! The models that are served, by all the names that clients may use.

use std::collections::HashMap;
use std::sync::Arc;

use folio_engine::types::{ModelId, ModelKind, ModelLimits, TokenId};

use crate::error::ApiError;
use crate::openai::ModelCard;
use crate::text::TextModel;

/// A model as the front end knows it.
#[derive(Debug)]
pub struct ServedModel {
    /// Its index in the engine.
    pub id: ModelId,
    /// Its names, never empty; the first is the one that metrics use.
    pub names: Vec<String>,
    /// Kind, longest sequence, vocabulary.
    pub limits: ModelLimits,
    /// Tokeniser and chat template.
    pub text: TextModel,
    /// Tokens that end a generation unless the request ignores them.
    pub end_tokens: Vec<TokenId>,
    /// Length of a hidden vector, which is that of an embedding.
    pub hidden_size: u32,
    /// Changes when the program or the model's files change.
    pub fingerprint: String,
}

impl ServedModel {
    /// The name that metrics and listings use.
    pub fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// Whether `id` is below the vocabulary size, else an error for the field at `path`.
    pub fn check_token(&self, path: impl FnOnce() -> String, id: TokenId) -> Result<(), ApiError> {
        if id < self.limits.vocab_size {
            return Ok(());
        }
        let path = path();
        let size = self.limits.vocab_size;
        let message = format!("{path}: token id {id} must be below {size}, the vocabulary size");
        Err(ApiError::invalid_value(path, message))
    }
}

/// What kind of model it is, in words.
fn of_kind(model: &ServedModel) -> &'static str {
    match model.limits.kind {
        ModelKind::Decoder => "a generating model",
        ModelKind::Encoder => "an embedding model",
        ModelKind::CrossEncoder => "a cross-encoder",
    }
}

/// All served models.
#[derive(Debug)]
pub struct Models {
    served: Vec<Arc<ServedModel>>,
    by_name: HashMap<String, usize>,
    /// Seconds since 1970 at which the server was started.
    created: u64,
}

/// Two models, or one model twice, were given this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("two models are to be served as {0:?}: give each its own name")]
pub struct DuplicateName(String);

impl Models {
    /// Serves `models`, whose names must all differ.
    pub fn new(models: Vec<ServedModel>, created: u64) -> Result<Self, DuplicateName> {
        let mut by_name = HashMap::new();
        for (index, model) in models.iter().enumerate() {
            for name in &model.names {
                if by_name.insert(name.clone(), index).is_some() {
                    return Err(DuplicateName(name.clone()));
                }
            }
        }
        Ok(Self { served: models.into_iter().map(Arc::new).collect(), by_name, created })
    }

    /// All models, in the order of their ids.
    pub fn all(&self) -> &[Arc<ServedModel>] {
        &self.served
    }

    /// The model that is called `name`.
    pub fn find(&self, name: &str) -> Result<&Arc<ServedModel>, ApiError> {
        let index = self.by_name.get(name);
        index
            .and_then(|&index| self.served.get(index))
            .ok_or_else(|| ApiError::model_not_found(name, &self.list_names()))
    }

    /// The model that is called `name`, which must be of `kind`.
    pub fn find_kind(&self, name: &str, kind: ModelKind) -> Result<&Arc<ServedModel>, ApiError> {
        let model = self.find(name)?;
        if model.limits.kind == kind {
            return Ok(model);
        }
        let message = match kind {
            ModelKind::Decoder => format!("{name} is {}: it does not generate", of_kind(model)),
            ModelKind::Encoder => format!("{name} is {}: it does not embed", of_kind(model)),
            ModelKind::CrossEncoder => format!("{name} is {}: it does not score", of_kind(model)),
        };
        Err(ApiError::invalid_value("model", message))
    }

    /// The model that is called `name`, which must tell how two texts belong together.
    pub fn find_scoring(&self, name: &str) -> Result<&Arc<ServedModel>, ApiError> {
        let model = self.find(name)?;
        match model.limits.kind {
            ModelKind::Encoder | ModelKind::CrossEncoder => Ok(model),
            ModelKind::Decoder => {
                let message = format!("{name} is a generating model: it does not score texts");
                Err(ApiError::invalid_value("model", message))
            }
        }
    }

    /// The model that is called `name`, or without a name the first.
    pub fn find_or_first(&self, name: Option<&str>) -> Result<&Arc<ServedModel>, ApiError> {
        match (name, self.served.first()) {
            (None, Some(first)) => Ok(first),
            (name, _) => self.find(name.unwrap_or("")),
        }
    }

    /// The first model of `kind`.
    pub fn first_of(&self, kind: ModelKind) -> Option<&Arc<ServedModel>> {
        self.served.iter().find(|model| model.limits.kind == kind)
    }

    /// An entry for each name.
    pub fn cards(&self) -> Vec<ModelCard> {
        let names = self.served.iter().flat_map(|model| &model.names);
        names.filter_map(|name| self.card(name).ok()).collect()
    }

    /// The entry for `name`.
    pub fn card(&self, name: &str) -> Result<ModelCard, ApiError> {
        let model = self.find(name)?;
        Ok(ModelCard {
            id: name.to_owned(),
            object: "model",
            created: self.created,
            owned_by: "folio",
            root: model.name().to_owned(),
            parent: None,
            max_model_len: model.limits.max_model_len,
        })
    }

    /// Every model by its names, with what it is for.
    pub fn describe(&self) -> String {
        let models = self.served.iter().map(|model| {
            let kind = match model.limits.kind {
                ModelKind::Decoder => "chat",
                ModelKind::Encoder => "embeddings",
                ModelKind::CrossEncoder => "rerank and score",
            };
            format!("{} ({kind})", model.names.join(" = "))
        });
        models.collect::<Vec<_>>().join(", ")
    }

    fn list_names(&self) -> String {
        let names: Vec<_> = self.served.iter().flat_map(|model| &model.names).collect();
        names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
    }
}
