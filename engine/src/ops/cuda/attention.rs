//! Attention: which plan a layer's launches follow, made at its first use in a step.
//!
//! Layers of the same heads and window share a plan. Where a model runs for the first time, its
//! plans are allocated; from then on a step launches the same kernels in the same order.

use folio_kernels::cuda::{
    self, AttentionHeads, AttentionLimits, AttentionStep, BlockTables, Context, EncoderAttention,
    PrepareAttention, RowKinds, Splits,
};

use super::memory::{Pages, StepMemory};
use super::upload::StepSizes;
use super::{CudaDevice, Determinism};
use crate::ops::{Heads, PagedAttention, Tensor};

/// The plans of all models.
#[derive(Debug, Default)]
pub(super) struct AttentionPlans(Vec<Planned>);

/// The plan of layers that are alike.
#[derive(Debug)]
struct Planned {
    heads: Heads,
    window: Option<u32>,
    pages: Pages,
    plan: cuda::AttentionPlan,
    /// Whether it is the plan of the step in progress.
    is_prepared: bool,
}

/// What a layer needs of its plan.
#[derive(Clone, Copy, Debug)]
struct Key {
    heads: Heads,
    window: Option<u32>,
    pages: Pages,
    step: AttentionStep,
}

impl AttentionPlans {
    /// A new step begins: no plan is its.
    pub(super) fn forget_step(&mut self) {
        for planned in &mut self.0 {
            planned.is_prepared = false;
        }
    }

    /// The plan of the layers that `key` describes, prepared for the step.
    fn prepared(
        &mut self,
        context: &Context,
        memory: &StepMemory,
        key: Key,
    ) -> cuda::Result<&cuda::AttentionPlan> {
        let Key { heads, window, pages, step } = key;
        let is_wanted = |planned: &Planned| {
            planned.heads == heads && planned.window == window && planned.pages == pages
        };
        let index = self.0.iter().position(is_wanted).unwrap_or(self.0.len());
        if index == self.0.len() {
            let limits = memory.attention_limits(attention_heads(heads), window);
            let plan = cuda::AttentionPlan::new(context, limits)?;
            self.0.push(Planned { heads, window, pages, plan, is_prepared: false });
        }
        let planned = &mut self.0[index];
        if !planned.is_prepared {
            let arrays = memory.arrays();
            let is_cached = pages == Pages::Cached;
            let args = PrepareAttention {
                cu_seqlens: arrays.cu_seqlens,
                seq_lens: is_cached.then_some(arrays.seq_lens),
                row_slots: is_cached.then_some(arrays.row_slots),
                step,
            };
            planned.plan.prepare(context, &args)?;
            planned.is_prepared = true;
        }
        Ok(&planned.plan)
    }
}

impl StepMemory {
    fn attention_limits(&self, heads: AttentionHeads, window: Option<u32>) -> AttentionLimits {
        let (max_rows, max_tokens) = self.max_sizes();
        AttentionLimits { heads, windows: vec![window], max_rows, max_tokens }
    }
}

impl CudaDevice {
    /// Causal attention over the KV cache.
    pub(super) fn attend_pages(
        &mut self,
        queries: Tensor,
        attention: PagedAttention,
        output: Tensor,
    ) {
        let PagedAttention { layer, heads, window } = attention;
        let splits = match self.options.determinism {
            Determinism::Fast => Splits::Balanced,
            Determinism::Fixed => Splits::Fixed,
        };
        let step = attention_step(self.step, splits);
        let (queries, output) = (self.view(queries), self.view(output));
        let Some(kv) = &self.memory().kv else {
            panic!("a decoder runs on a device without a KV cache");
        };
        let args = cuda::PagedAttention {
            queries,
            output,
            element: self.options.element,
            kv: kv.layer(layer),
            block_tables: BlockTables { blocks: kv.tables(), block_size: kv.block_size() },
            scale: heads.scale(),
            window,
            soft_cap: None,
            sinks: None,
            step,
        };
        let key = Key { heads, window, pages: Pages::Cached, step };
        self.with_plan(key, |context, plan| cuda::paged_attention(context, plan, &args));
    }

    /// Attention among the tokens of each text.
    pub(super) fn attend_texts(&mut self, qkv: [Tensor; 3], heads: Heads, output: Tensor) {
        let [queries, keys, values] = qkv.map(|tensor| self.view(tensor));
        let step = attention_step(self.step, Splits::Fixed);
        let args = EncoderAttention {
            queries,
            keys,
            values,
            output: self.view(output),
            element: self.options.element,
            scale: heads.scale(),
            step,
        };
        let key = Key { heads, window: None, pages: Pages::None, step };
        self.with_plan(key, |context, plan| cuda::encoder_attention(context, plan, &args));
    }

    fn with_plan(
        &mut self,
        key: Key,
        launch: impl FnOnce(&Context, &cuda::AttentionPlan) -> cuda::Result<()>,
    ) {
        if self.failure.is_some() || self.step.num_tokens == 0 {
            return;
        }
        let Some(memory) = &self.memory else {
            panic!("attention on a device without memory for steps");
        };
        let result = self
            .plans
            .prepared(&self.context, memory, key)
            .and_then(|plan| launch(&self.context, plan));
        self.note(result);
    }
}

fn attention_heads(heads: Heads) -> AttentionHeads {
    AttentionHeads {
        num_heads: heads.num_heads,
        num_kv_heads: heads.num_kv_heads,
        head_size: heads.head_size,
    }
}

fn attention_step(sizes: StepSizes, splits: Splits) -> AttentionStep {
    let kinds = match sizes.num_single_rows {
        0 => RowKinds::PrefillOnly,
        num_single if num_single == sizes.num_rows => RowKinds::DecodeOnly,
        _ => RowKinds::Mixed,
    };
    AttentionStep { num_rows: sizes.num_rows, num_tokens: sizes.num_tokens, kinds, splits }
}
