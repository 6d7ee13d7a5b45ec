// Attention of prompts over the paged cache, in tiles of 64 query rows: where tiles are few, and for all
// rows with Splits::Fixed. See attention_prefill.cuh.
// sass attention_prefill_*: registers<=255 HMMA LDSM LDGSTS.E.BYPASS.128
#include "attention_prefill.cuh"

FOLIO_KERNEL(attention_prefill_bf16_d32, AttentionPrefillParams, 128, 2) {
    attention_prefill<bf16, 32, 1, Keys::paged>(p);
}
FOLIO_KERNEL(attention_prefill_bf16_d64, AttentionPrefillParams, 128, 2) {
    attention_prefill<bf16, 64, 1, Keys::paged>(p);
}
FOLIO_KERNEL(attention_prefill_bf16_d80, AttentionPrefillParams, 128, 2) {
    attention_prefill<bf16, 80, 1, Keys::paged>(p);
}
FOLIO_KERNEL(attention_prefill_bf16_d96, AttentionPrefillParams, 128, 2) {
    attention_prefill<bf16, 96, 1, Keys::paged>(p);
}
FOLIO_KERNEL(attention_prefill_bf16_d128, AttentionPrefillParams, 128, 2) {
    attention_prefill<bf16, 128, 1, Keys::paged>(p);
}
FOLIO_KERNEL(attention_prefill_bf16_d256, AttentionPrefillParams, 128, 2) {
    attention_prefill<bf16, 256, 1, Keys::paged>(p);
}
FOLIO_KERNEL(attention_prefill_f16_d32, AttentionPrefillParams, 128, 2) {
    attention_prefill<f16, 32, 1, Keys::paged>(p);
}
FOLIO_KERNEL(attention_prefill_f16_d64, AttentionPrefillParams, 128, 2) {
    attention_prefill<f16, 64, 1, Keys::paged>(p);
}
FOLIO_KERNEL(attention_prefill_f16_d80, AttentionPrefillParams, 128, 2) {
    attention_prefill<f16, 80, 1, Keys::paged>(p);
}
FOLIO_KERNEL(attention_prefill_f16_d96, AttentionPrefillParams, 128, 2) {
    attention_prefill<f16, 96, 1, Keys::paged>(p);
}
FOLIO_KERNEL(attention_prefill_f16_d128, AttentionPrefillParams, 128, 2) {
    attention_prefill<f16, 128, 1, Keys::paged>(p);
}
FOLIO_KERNEL(attention_prefill_f16_d256, AttentionPrefillParams, 128, 2) {
    attention_prefill<f16, 256, 1, Keys::paged>(p);
}
