//! BERT, and with it MiniLM, BGE, E5 and GTE checkpoints of that layout.

use super::{Architecture, encoders};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    names: &["BertModel", "BertForMaskedLM", "BertForPreTraining"],
    read: |config, files| encoders::read(config, files, encoders::Start { prefix: "bert", row: 0 }),
};
