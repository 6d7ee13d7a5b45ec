//! RoBERTa and XLM-RoBERTa, and with it multilingual E5 and BGE-M3: positions start after the
//! padding token's row.

use super::{Architecture, encoders};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    names: &["XLMRobertaModel", "XLMRobertaForMaskedLM", "RobertaModel", "RobertaForMaskedLM"],
    read: |config, files| {
        let row = config.optional_count("pad_token_id")?.unwrap_or(1).saturating_add(1);
        encoders::read(config, files, encoders::Start { prefix: "roberta", row })
    },
};
