// Attention of prompts over the paged cache, in tiles of 128 query rows: where there are many. Every key
// that comes from shared memory meets twice as many queries. See attention_prefill.cuh.
// sass attention_prefill_wide_*: registers<=255 HMMA LDSM LDGSTS.E.BYPASS.128
#include "attention_prefill.cuh"

FOLIO_KERNEL(attention_prefill_wide_bf16_d64, AttentionPrefillParams, 128, 2) {
    attention_prefill<bf16, 64, 2, Keys::paged>(p);
}
FOLIO_KERNEL(attention_prefill_wide_bf16_d128, AttentionPrefillParams, 128, 2) {
    attention_prefill<bf16, 128, 2, Keys::paged>(p);
}
FOLIO_KERNEL(attention_prefill_wide_f16_d64, AttentionPrefillParams, 128, 2) {
    attention_prefill<f16, 64, 2, Keys::paged>(p);
}
FOLIO_KERNEL(attention_prefill_wide_f16_d128, AttentionPrefillParams, 128, 2) {
    attention_prefill<f16, 128, 2, Keys::paged>(p);
}
