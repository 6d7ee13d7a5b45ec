//! BERT, and with it MiniLM, BGE, E5 and GTE checkpoints of that layout; as a classifier of one
//! label a cross-encoder, such as those trained on MS MARCO.

use super::encoders::Start;
use super::{Architecture, encoders};
use crate::model::score_head::ScoreHeadNames;

const START: Start = Start { prefix: "bert", row: 0, head: None };

pub(super) const ARCHITECTURE: Architecture = Architecture {
    names: &["BertModel", "BertForMaskedLM", "BertForPreTraining"],
    read: |config, files| encoders::read(config, files, START),
};

pub(super) const CROSS_ENCODER: Architecture = Architecture {
    names: &["BertForSequenceClassification"],
    read: |config, files| {
        let head = ScoreHeadNames { dense: "pooler.dense", output: "classifier" };
        encoders::read(config, files, Start { head: Some(head), ..START })
    },
};
