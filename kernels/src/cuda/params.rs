//! Parameter structs of the kernels. Generated from `kernels/include/params.h`; do not edit.
#![allow(missing_docs, reason = "the header documents every field")]

#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct StepRow {
    pub slot: i32,
    pub first_token: i32,
    pub num_tokens: i32,
    pub start: i32,
    pub token_offset: i32,
    pub block_offset: i32,
    pub num_new_blocks: i32,
    pub first_new_block: i32,
}
