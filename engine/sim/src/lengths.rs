//! True lengths of answers, for predictors that are to know them: bounds on what a prediction is
//! worth. No policy sees them in any other way.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use folio_engine::sched::OutputLengths;
use folio_engine::types::RequestId;

/// Lengths of the requests that have been sent and have not ended. Shared between the simulation,
/// which enters them, and the predictor, which reads them.
#[derive(Debug, Default)]
pub struct KnownLengths {
    by_request: Mutex<HashMap<RequestId, u32>>,
}

impl KnownLengths {
    /// A request is sent that is answered with `output` tokens.
    pub fn enter(&self, request: RequestId, output: u32) {
        let mut lengths = self.by_request.lock().unwrap_or_else(PoisonError::into_inner);
        lengths.insert(request, output);
    }

    /// A request has ended.
    pub fn forget(&self, request: RequestId) {
        let mut lengths = self.by_request.lock().unwrap_or_else(PoisonError::into_inner);
        lengths.remove(&request);
    }
}

impl OutputLengths for KnownLengths {
    fn output_len(&self, request: RequestId) -> Option<u32> {
        let lengths = self.by_request.lock().unwrap_or_else(PoisonError::into_inner);
        lengths.get(&request).copied()
    }
}
