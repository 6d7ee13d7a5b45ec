// Attention of texts among their own tokens, in both directions, without a cache: tiles of 64 query rows,
// and of 128 where there are many. See attention_prefill.cuh.
// sass attention_encoder_*: registers<=255 HMMA LDSM LDGSTS.E.BYPASS.128
#include "attention_prefill.cuh"

FOLIO_KERNEL(attention_encoder_bf16_d32, AttentionPrefillParams, 128, 2) {
    attention_prefill<bf16, 32, 1, Keys::of_text>(p);
}
FOLIO_KERNEL(attention_encoder_bf16_d64, AttentionPrefillParams, 128, 2) {
    attention_prefill<bf16, 64, 1, Keys::of_text>(p);
}
FOLIO_KERNEL(attention_encoder_bf16_d80, AttentionPrefillParams, 128, 2) {
    attention_prefill<bf16, 80, 1, Keys::of_text>(p);
}
FOLIO_KERNEL(attention_encoder_bf16_d96, AttentionPrefillParams, 128, 2) {
    attention_prefill<bf16, 96, 1, Keys::of_text>(p);
}
FOLIO_KERNEL(attention_encoder_bf16_d128, AttentionPrefillParams, 128, 2) {
    attention_prefill<bf16, 128, 1, Keys::of_text>(p);
}
FOLIO_KERNEL(attention_encoder_bf16_d256, AttentionPrefillParams, 128, 2) {
    attention_prefill<bf16, 256, 1, Keys::of_text>(p);
}
FOLIO_KERNEL(attention_encoder_f16_d32, AttentionPrefillParams, 128, 2) {
    attention_prefill<f16, 32, 1, Keys::of_text>(p);
}
FOLIO_KERNEL(attention_encoder_f16_d64, AttentionPrefillParams, 128, 2) {
    attention_prefill<f16, 64, 1, Keys::of_text>(p);
}
FOLIO_KERNEL(attention_encoder_f16_d80, AttentionPrefillParams, 128, 2) {
    attention_prefill<f16, 80, 1, Keys::of_text>(p);
}
FOLIO_KERNEL(attention_encoder_f16_d96, AttentionPrefillParams, 128, 2) {
    attention_prefill<f16, 96, 1, Keys::of_text>(p);
}
FOLIO_KERNEL(attention_encoder_f16_d128, AttentionPrefillParams, 128, 2) {
    attention_prefill<f16, 128, 1, Keys::of_text>(p);
}
FOLIO_KERNEL(attention_encoder_f16_d256, AttentionPrefillParams, 128, 2) {
    attention_prefill<f16, 256, 1, Keys::of_text>(p);
}
FOLIO_KERNEL(attention_encoder_wide_bf16_d64, AttentionPrefillParams, 128, 2) {
    attention_prefill<bf16, 64, 2, Keys::of_text>(p);
}
FOLIO_KERNEL(attention_encoder_wide_f16_d64, AttentionPrefillParams, 128, 2) {
    attention_prefill<f16, 64, 2, Keys::of_text>(p);
}
