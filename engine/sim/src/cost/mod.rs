//! Cost models: how long the device needs for a step, from its shape alone.
//!
//! Three of them behind one trait: [`Roofline`] knows a model and a data sheet and needs no
//! device; [`Fitted`] was fitted to steps that `folio profile` measured; [`Table`] looks such
//! steps up, and can add their noise. [`from_spec`] reads what `--cost` says.

mod error;
mod fitted;
mod gpu;
mod model;
mod nnls;
mod roofline;
mod sample;
mod spec;
mod table;
mod terms;
mod text;

pub use error::CostError;
pub use fitted::{Fitted, FittedFile, GroupFit, Identity, fit};
pub use gpu::{GPUS, Gpu, Precision};
pub use model::ModelShape;
pub use nnls::nnls;
pub use roofline::{Breakdown, Efficiency, Hardware, Roofline};
pub use sample::{Error, HostFit, Sample};
pub use spec::{CostContext, fitted, from_spec, hardware};
pub use table::{Cells, Table, TableFile};
pub use terms::{NUM_TERMS, TERMS, terms};
