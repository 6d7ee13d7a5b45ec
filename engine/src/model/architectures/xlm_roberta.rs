//! RoBERTa and XLM-RoBERTa, and with it multilingual E5 and BGE-M3: positions start after the
//! padding token's row. As a classifier of one label a cross-encoder, such as the BGE rerankers.

use super::encoders::Start;
use super::{Architecture, encoders};
use crate::model::fields::Fields;
use crate::model::score_head::ScoreHeadNames;
use crate::types::Result;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    names: &["XLMRobertaModel", "XLMRobertaForMaskedLM", "RobertaModel", "RobertaForMaskedLM"],
    read: |config, files| encoders::read(config, files, start(config, None)?),
};

pub(super) const CROSS_ENCODER: Architecture = Architecture {
    names: &["XLMRobertaForSequenceClassification", "RobertaForSequenceClassification"],
    read: |config, files| {
        let head = ScoreHeadNames { dense: "classifier.dense", output: "classifier.out_proj" };
        encoders::read(config, files, start(config, Some(head))?)
    },
};

fn start(config: &Fields, head: Option<ScoreHeadNames>) -> Result<Start> {
    let row = config.optional_count("pad_token_id")?.unwrap_or(1).saturating_add(1);
    Ok(Start { prefix: "roberta", row, head })
}
